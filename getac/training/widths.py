"""How many bits a person wants where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any

from getac.errors import OptionError

__all__ = ["Bounds", "Widths"]

Bounds = tuple[int, int]
"""The least and the greatest number of bits; equal: it is fixed."""

LEAST, GREATEST = 2, 16
ENDS = 8  # what the first and the last layers have at least
SHOWN_NAMES = 5


@dataclass(frozen=True)
class Widths:
    """The bits of weights and of activations; None: they stay floats.

    Args:
        overrides: Glob on the name of a weight, or of the node that an activation comes from -> its bits.
            Of several globs that match, the last decides.
        aliases: Name of a tied weight -> all of its names; a glob may match any of them.
    """

    weights: Bounds | None
    activations: Bounds | None
    overrides: Mapping[str, Bounds | None]
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, weights: Any, activations: Any, overrides: Mapping[str, Any] | None) -> Widths:
        """From what a person gives: None, a number, or a pair (least, greatest).

        Raises:
            OptionError: Anything else, or less than 2 or more than 16 bits.
        """
        if not isinstance(overrides, Mapping | None) or not all(
            isinstance(one, str) for one in overrides or {}
        ):
            raise OptionError(
                "overrides are not given by name",
                found=repr(overrides),
                required="a dictionary: glob on a name -> bits, a pair of bits, or None",
            )
        each = {glob: bounds(f"overrides[{glob!r}]", bits) for glob, bits in (overrides or {}).items()}
        return cls(bounds("weight_bits", weights), bounds("activation_bits", activations), each)

    def of_weight(self, name: str, at_end: bool) -> Bounds | None:
        return self._of(name, self.weights, at_end)

    def of_activation(self, name: str, at_end: bool) -> Bounds | None:
        return self._of(name, self.activations, at_end)

    def _of(self, name: str, default: Bounds | None, at_end: bool) -> Bounds | None:
        for glob in reversed(list(self.overrides)):
            if any(fnmatchcase(one, glob) for one in self.aliases.get(name, (name,))):
                return self.overrides[glob]
        if default is None or not at_end:
            return default
        return max(default[0], ENDS), max(default[1], ENDS)

    def check_names(self, names: Iterable[str]) -> None:
        """Raises OptionError for a glob that matches none of the names."""
        known = [one for name in dict.fromkeys(names) for one in self.aliases.get(name, (name,))]
        for glob in self.overrides:
            if not any(fnmatchcase(name, glob) for name in known):
                more = ["..."] if len(known) > SHOWN_NAMES else []
                raise OptionError(
                    "a glob of overrides matches nothing that could be quantized",
                    required="the name of a weight or of a node, or a pattern such as 'layer4.*'",
                    found=f"{glob!r}; the names are {', '.join([*known[:SHOWN_NAMES], *more])}",
                    hint="print the graph of getac.capture(...) to read the names of its nodes",
                )


def bounds(option: str, bits: Any) -> Bounds | None:
    if bits is None:
        return None
    pair = tuple(bits) if isinstance(bits, list | tuple) else (bits, bits)
    if len(pair) == 2 and all(isinstance(one, Integral) and not isinstance(one, bool) for one in pair):
        least, most = map(int, pair)
        if LEAST <= least <= most <= GREATEST:
            return least, most
    raise OptionError(
        "this is no number of bits",
        where=option,
        required=f"None, a whole number from {LEAST} to {GREATEST}, or a pair (least, greatest) of them",
        found=repr(bits),
    )
