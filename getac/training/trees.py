"""Nested tensors and numbers as JSON and named tensors: example inputs, the state of an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from getac.errors import BadInputError

__all__ = ["decode", "encode"]


def encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """What JSON can say of a value; its tensors go to `tensors`, by their paths in it.

    Args:
        value: A tensor, number, string, None, or a tuple, list or dict of such.
        name: Its path.

    Raises:
        BadInputError: Another kind of value.
    """
    if isinstance(value, Tensor):
        while name in tensors:  # the keys 1 and "1" have one path
            name += "_"
        tensors[name] = value.detach()
        return {"tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (tuple, list):
        return {type(value).__name__: [encode(one, f"{name}/{i}", tensors) for i, one in enumerate(value)]}
    if type(value) is dict:
        return {"dict": [[encode(k, name, {}), encode(v, f"{name}/{k}", tensors)] for k, v in value.items()]}
    raise BadInputError(
        "this kind of value cannot be stored in a checkpoint",
        where=name,
        found=type(value).__name__,
        required="tensors, numbers, strings, None; tuples, lists and dictionaries of them",
    )


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `encode` was given; its tensors are copies.

    Raises:
        KeyError, TypeError, ValueError: This does not come from `encode`.
    """
    if not isinstance(value, dict):
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"{type(value).__name__} without its kind")
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content].clone()  # else it would be a view of the file
    if kind == "dict":
        return {decode(key, {}): decode(one, tensors) for key, one in content}
    return {"tuple": tuple, "list": list}[kind](decode(one, tensors) for one in content)
