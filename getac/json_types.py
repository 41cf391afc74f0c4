"""What was read from JSON, if it is of the type that it should be."""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["of_type", "texts"]

T = TypeVar("T")


def of_type(kind: type[T], value: Any, what: str) -> T:
    """The value, if its type is exactly this one: JSON's `true` is no number."""
    if type(value) is not kind:
        raise TypeError(f"{what} is of type {type(value).__name__}, not {kind.__name__}")
    return value


def texts(value: Any, what: str) -> tuple[str, ...]:
    return tuple(of_type(str, one, what) for one in of_type(list, value, what))
