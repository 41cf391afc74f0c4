"""What the fake quantizer returns without computing: results that are there already, or x itself.

Results are there before the call where many were computed together; x itself is wanted of training in floats.
All of this is set around a forward pass, for the thread that runs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

__all__ = ["clear", "is_left_out", "leave_out", "leaves_out", "put", "take"]

See = Callable[[Tensor, Tensor, int | None], None]
"""Takes x, q_m and the axis."""


class Ahead(threading.local):
    """Of this thread.

    Attributes:
        results: x's identity -> the arguments, their versions, and what was computed of them.
        see: Sees what would be quantized, if quantizers are left out.
    """

    def __init__(self) -> None:
        self.results: dict[int, tuple[Sequence[Tensor], Sequence[Any], Sequence[int], Tensor]] = {}
        self.see: See | None = None


ahead = Ahead()


def put(tensors: Sequence[Tensor], rest: Sequence[Any], result: Tensor) -> None:
    """Keeps the result for the next call with these arguments.

    Args:
        tensors: x, d and q_m.
        rest: The axis, and the bits.
    """
    ahead.results[id(tensors[0])] = tensors, tuple(rest), versions(tensors), result


def take(tensors: Sequence[Tensor], rest: Sequence[Any]) -> Tensor | None:
    """The result, once; None if there is none, or if an argument has changed since."""
    if not ahead.results:
        return None
    known, own, then, result = ahead.results.pop(id(tensors[0]), ((), (), (), None))
    same = len(known) == len(tensors) and all(a is b for a, b in zip(known, tensors, strict=True))
    return result if same and own == tuple(rest) and then == versions(tensors) else None


def clear() -> None:
    """Forgets what nobody has asked for."""
    ahead.results.clear()


def leave_out(see: See | None) -> None:
    """From now on quantizers return x, which `see` sees; None: no longer."""
    ahead.see = see


def leaves_out() -> bool:
    return ahead.see is not None


def is_left_out(x: Tensor, q_m: Tensor, axis: int | None) -> bool:
    if ahead.see is None:
        return False
    ahead.see(x, q_m, axis)
    return True


def versions(tensors: Sequence[Tensor]) -> list[int]:
    return [one._version for one in tensors]
