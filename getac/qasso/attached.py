"""What training has put around a module: one place for all, so that whoever trains next takes it off."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import fx

from getac.qasso.floats import FloatWarmUp
from getac.qasso.together import SmallWeights

__all__ = ["Attached", "attached_to"]


class Attached:
    """At most one of each."""

    def __init__(self) -> None:
        self.small: SmallWeights | None = None
        self.floats: FloatWarmUp | None = None

    def quantize_together(self, module: fx.GraphModule) -> None:
        """Small weights are quantized together, as the graph is now."""
        if self.small is not None:
            self.small.detach()
        self.small = SmallWeights(module)

    def leave_out(self, module: fx.GraphModule, last: bool) -> None:
        """The module computes in floats.

        Args:
            last: Whether this is the last step of it.
        """
        self.floats = self.floats or FloatWarmUp(module)
        self.floats.observing = last

    def forget(self) -> None:
        """A step was refused."""
        if self.floats is not None:
            self.floats.forget()

    def put_back(self, ranges: bool = True) -> None:
        """The module has its quantizers, with ranges of what it is by now.

        Args:
            ranges: Whether to choose these; otherwise they stay, to be read from a file.
        """
        if self.floats is not None:
            if ranges:
                self.floats.end()
            else:
                self.floats.detach()
            self.floats = None

    def detach(self) -> None:
        """Leaves the module without any of it."""
        self.put_back()
        if self.small is not None:
            self.small.detach()
            self.small = None


known: WeakKeyDictionary[fx.GraphModule, Attached] = WeakKeyDictionary()


def attached_to(module: fx.GraphModule) -> Attached:
    """The same for all who ask; a copy of a module has nothing attached."""
    return known.setdefault(module, Attached())
