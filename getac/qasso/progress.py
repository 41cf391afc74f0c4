"""A live line of a training on a terminal: stage, step, sparsity, bits, bit operations."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from getac.qasso.metrics import Metrics
from getac.qasso.optimizer import QASSO

__all__ = ["LiveLine"]


class LiveLine:
    """Shows how a training stands; nothing is shown where the output is no terminal.

        with LiveLine(optimizer) as line:
            for ...:
                optimizer.step()
                line.update(loss)

    Args:
        every: Steps from one look at the bits to the next, which waits for the device.
        console: None: standard error.
    """

    def __init__(self, optimizer: QASSO, every: int = 20, console: Console | None = None) -> None:
        self._optimizer = optimizer
        self._every = max(every, 1)
        console = console or Console(stderr=True)
        self._live = (
            Live(console=console, transient=False, auto_refresh=False) if console.is_terminal else None
        )

    def __enter__(self) -> LiveLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._show(None)
            self._live.stop()

    def update(self, loss: object = None) -> None:
        """Called after each step.

        Args:
            loss: Shown beside the rest, if given.
        """
        if self._live is not None and self._optimizer.steps_done % self._every == 0:
            self._show(loss)

    def _show(self, loss: object) -> None:
        assert self._live is not None
        text = line_of(self._optimizer.metrics(), self._optimizer.schedule.total)
        if loss is not None:
            text += f"  loss {float(loss):.4f}"  # type: ignore[arg-type]
        self._live.update(Text(text), refresh=True)


def line_of(found: Metrics, total: int) -> str:
    """One line: joint  step 340/1000  sparsity 25% of 50%  bits w 6.1 a 8.0  BOPs 3.1%"""
    bits = [
        f"{label} {number:.1f}"
        for label, number in (("w", found.weight_bits), ("a", found.activation_bits))
        if number is not None
    ]
    parts = [
        f"{found.stage:<10}",
        f"step {found.step}/{max(total, found.step)}",
        f"sparsity {found.sparsity:.0%} of {found.goal:.0%}",
        f"bits {' '.join(bits)}" if bits else "floats",
        f"BOPs {found.bops:.1%}",
    ]
    return "  ".join(parts)
