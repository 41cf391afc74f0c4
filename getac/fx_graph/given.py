"""What a person gives to a public function, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from getac.errors import BadInputError, OptionError

__all__ = ["check_call", "check_flags", "check_module"]


def check_module(model: Any) -> None:
    """Raises BadInputError for what is no module."""
    if not isinstance(model, nn.Module):
        raise BadInputError("this is no module", found=type(model).__name__, required="a torch.nn.Module")


def check_call(args: Any, kwargs: Any) -> None:
    """Raises BadInputError for what no module can be called with."""
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise BadInputError(
            "example inputs are not a sequence",
            found=type(args).__name__,
            required="a tuple of the positional inputs, such as (x,)",
        )
    if not isinstance(kwargs, Mapping | None):
        raise BadInputError(
            "keyword inputs are not given by name",
            found=type(kwargs).__name__,
            required="a dictionary: name of the input -> its value",
        )
    for name in kwargs or {}:  # they become names in the code of the captured graph
        if not (isinstance(name, str) and name.isidentifier()):
            raise BadInputError(
                "a keyword input has no name that Python admits", found=repr(name), required="an identifier"
            )


def check_flags(**flags: Any) -> None:
    """Raises OptionError for what is neither True nor False: of a text, `"no"` would mean yes."""
    for option, value in flags.items():
        if not isinstance(value, bool):
            raise OptionError(
                "an option is on or off", where=option, required="True or False", found=repr(value)
            )
