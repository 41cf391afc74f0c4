"""Results of the fake quantizer that are there before it is called: they were computed with others."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["clear", "put", "take"]


class Ahead(threading.local):
    """What this thread has computed ahead: x's identity -> (arguments, their versions, the result)."""

    def __init__(self) -> None:
        self.results: dict[int, tuple[Sequence[Tensor], Sequence[Any], Sequence[int], Tensor]] = {}


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


def versions(tensors: Sequence[Tensor]) -> list[int]:
    return [one._version for one in tensors]
