"""The keyword arguments of `getac.lower` and `getac.apply`, which are fields of `Options`.

Type checkers read them off the dictionaries here (PEP 692), `help` and `inspect` off the signature.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from typing import Any, Literal, TypedDict, TypeVar, cast

from getac.options import Options
from getac.passes import Progress

__all__ = ["ApplyKeywords", "LowerKeywords", "spelled_out"]

F = TypeVar("F", bound=Callable[..., Any])


class ApplyKeywords(TypedDict, total=False):
    """What is asked whatever says which units go and how many bits are kept."""

    ranges: str
    target: str
    bench: bool
    force: bool
    seed: int
    on_step: Callable[[str], None] | None
    on_sample: Progress | None


class LowerKeywords(ApplyKeywords, total=False):
    """What a plan says where there is one."""

    sparsity: float | Literal["auto"]
    align: int | Literal["auto"]
    weight_bits: int | Literal["auto"]
    activation_bits: int
    block: int | Literal["auto"] | None
    embedding_bits: int | None
    cost: str | os.PathLike[str] | None
    latency_budget: float | None
    keep: Sequence[str]


def spelled_out(names: type) -> Callable[[F], F]:
    """Spells out the last parameter of a function, `**options`, with the defaults of `Options`.

    Args:
        names: The TypedDict of its keys.

    Raises:
        TypeError: From the function: it was called with any other keyword.
    """
    keywords = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in fields(Options)
        if one.name in names.__annotations__
    ]

    def decorate(function: F) -> F:
        own = inspect.signature(function)
        *given, _ = own.parameters.values()
        signature = own.replace(parameters=[*given, *keywords])

        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            return function(*args, **kwargs)

        checked.__signature__ = signature  # type: ignore[attr-defined]  # what inspect asks for first
        return cast(F, checked)

    return decorate
