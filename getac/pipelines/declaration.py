"""A pass's dataclass is its declaration: its fields are what Python, a spec and the command line know."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from getac.errors import GetacError, OptionError
from getac.pipeline import Pass
from getac.pipelines.blame import described
from getac.pipelines.spec import PassSpec, SpecValue

__all__ = ["Option", "make_pass", "options_of", "spec_of", "summary_of"]

T = TypeVar("T")

BOOLEANS = {"true": True, "false": False}
NONE = "none"
WORDS = {NoneType: NONE, bool: "|".join(BOOLEANS)}


@dataclass(frozen=True)
class Option:
    """A field of a pass that a text can set.

    Args:
        name: As the field is called.
        kind: Its type: bool, int, float, str, a Literal, a tuple of texts, or one of these or None.
        default: Its default; MISSING where it must be given.
    """

    name: str
    kind: Any
    default: Any = MISSING

    def __str__(self) -> str:
        default = "" if self.default is MISSING else spell(self.default)
        shown = f"[{','.join(default)}]" if isinstance(default, tuple) else default
        return f"{self.name}: {describe(self.kind)}" + (f"={shown}" if self.default is not MISSING else "")


@cache
def options_of(kind: type) -> Mapping[str, Option]:
    """The options of a pass, by name; fields that no text can set, such as callbacks, are none.

    Raises:
        OptionError: An annotation names what is not there.
    """
    try:
        hints = get_type_hints(kind)
    except Exception as error:  # annotations are evaluated: anybody's expressions
        raise OptionError(
            f"the fields of {kind.__name__} have types that cannot be found", found=described(error)
        ) from error
    found = {}
    for field in fields(kind):
        if field.init and is_spellable(hints[field.name]):
            found[field.name] = Option(field.name, hints[field.name], default_of(field))
    return found


def make_pass(kind: type[T], spec: PassSpec) -> T:
    """The pass that a spec describes, or whatever else is declared by its fields.

    Raises:
        OptionError: An option is unknown, given twice or missing, or its value is of another type or outside
            its domain; a field that has no default can be set by no text.
    """
    known = options_of(kind)  # type: ignore[arg-type]  # a class is hashable
    check_given(known, spec)
    values = {name: read(known[name], text, spec) for name, text in spec.options}
    missing = [o.name for o in known.values() if o.default is MISSING and o.name not in values]
    if missing:
        raise OptionError(
            f"the pass {spec.name} needs options", where=str(spec), required=", ".join(missing), found="none"
        )
    init = [one for one in fields(kind) if one.init and one.name not in known]  # type: ignore[arg-type]
    if mute := [one.name for one in init if default_of(one) is MISSING]:
        raise OptionError(
            f"the pass {spec.name} can be made in Python alone",
            where=str(spec),
            required=f"a default for what no text can set: {', '.join(mute)}",
        )
    try:
        return kind(**values)
    except GetacError as error:
        error.where = error.where or str(spec)  # its own words may fit several passes
        raise
    except Exception as error:  # the checks of anybody's pass
        raise OptionError(
            f"the pass {spec.name} refuses its options", where=str(spec), found=described(error)
        ) from error


def check_given(known: Mapping[str, Option], spec: PassSpec) -> None:
    names = [name for name, _ in spec.options]
    for name in names:
        if name not in known or names.count(name) > 1:
            problem = f"it has no option {name}" if name not in known else f"{name} is given twice"
            raise OptionError(
                f"the pass {spec.name} cannot be made: {problem}",
                where=str(spec),
                required=", ".join(map(str, known.values())) or "no options",
                found=name,
            )


def spec_of(one: Pass) -> PassSpec:
    """A pass as text: the options that differ from their defaults."""
    options = options_of(type(one)).values()
    given = [(option, getattr(one, option.name)) for option in options]
    return PassSpec(one.name, tuple((o.name, spell(value)) for o, value in given if value != o.default))


def summary_of(kind: type) -> str:
    """The first line of a pass's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def default_of(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def is_spellable(kind: Any) -> bool:
    return all(
        one in (bool, int, float, str, NoneType) or get_origin(one) is Literal or is_list(one)
        for one in alternatives(kind)
    )


def is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind) == (str, ...)


def describe(kind: Any) -> str:
    words = []
    for one in alternatives(kind):
        if get_origin(one) is Literal:
            words += [str(value) for value in get_args(one)]
        else:
            words.append("list" if is_list(one) else WORDS.get(one, one.__name__))
    return "|".join(words)


def read(option: Option, text: SpecValue, spec: PassSpec) -> Any:
    """The value that a text stands for, by the first of the option's types that it fits; none is None."""
    for kind in sorted(alternatives(option.kind), key=lambda one: one is not NoneType):
        value = converted(kind, text)
        if value is not MISSING:
            return value
    raise OptionError(
        f"{option.name} has a value of another type",
        where=str(spec),
        required=describe(option.kind),
        found=spell(text) if isinstance(text, str) else f"[{','.join(text)}]",
    )


def converted(kind: Any, text: SpecValue) -> Any:
    """The value of a type, or MISSING where the text is none of it."""
    if isinstance(text, tuple) or is_list(kind):
        return ((text,) if isinstance(text, str) else text) if is_list(kind) else MISSING
    if kind is NoneType:
        return None if text == NONE else MISSING
    if kind is bool:
        return BOOLEANS.get(text, MISSING)
    if get_origin(kind) is Literal:
        return next((value for value in get_args(kind) if str(value) == text), MISSING)
    try:
        return kind(text)
    except ValueError:
        return MISSING


def spell(value: Any) -> Any:
    """A value as a text that `read` reads back; a list as a tuple of texts."""
    if isinstance(value, tuple):
        return tuple(map(str, value))
    if value is None or isinstance(value, bool):
        return NONE if value is None else str(value).lower()
    return str(value)
