"""A pipeline as text.

    fold-quantizers,infer-axes,slice-units{sparsity=0.3,align=8},my_pass.py:Double{times=2}

Passes are separated by commas, options by commas between braces. A name or a value is bare or quoted
('...' or "..."); a value may be a list in brackets. Nothing is evaluated: what a value means is up to the
type of the pass's field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from getac.errors import OptionError

__all__ = ["PassSpec", "SpecValue", "parse"]

SpecValue: TypeAlias = "str | tuple[str, ...]"

QUOTES = "'\""
SPECIAL = ",{}[]=" + QUOTES


@dataclass(frozen=True)
class PassSpec:
    """One pass as it was written: its name, and its options as texts."""

    name: str
    options: tuple[tuple[str, SpecValue], ...] = ()

    def __str__(self) -> str:
        options = ",".join(f"{key}={spelled(value)}" for key, value in self.options)
        name = spelled(self.name)
        return f"{name}{{{options}}}" if options else name


def parse(text: str) -> tuple[PassSpec, ...]:
    """The passes that a text names.

    Raises:
        OptionError: The text is not a pipeline; the position at fault is shown.
    """
    reader = Reader(text)
    return tuple(reader.passes())


def spelled(value: SpecValue) -> str:
    """A value as the parser reads it back."""
    if isinstance(value, tuple):
        return f"[{','.join(map(spelled, value))}]"
    if value and value == value.strip() and not set(value) & set(SPECIAL):
        return value
    quote = '"' if "'" in value else "'"
    return f"{quote}{value}{quote}"


@dataclass
class Reader:
    """A recursive-descent parser over one text."""

    text: str
    at: int = 0

    def passes(self) -> Iterator[PassSpec]:
        while True:
            name = self.text_value("the name of a pass", stops=",{}")
            yield PassSpec(name, tuple(self.options()) if self.take("{") else ())
            if self.ended():
                return
            self.expect(",")

    def options(self) -> Iterator[tuple[str, SpecValue]]:
        if self.take("}"):
            return
        while True:
            key = self.word("the name of an option", stops=",{}[]=")
            self.expect("=")
            yield key, self.value()
            if self.take("}"):
                return
            self.expect(",")

    def value(self) -> SpecValue:
        return tuple(self.entries()) if self.take("[") else self.text_value()

    def entries(self) -> Iterator[str]:
        if self.take("]"):
            return
        while True:
            yield self.text_value()
            if self.take("]"):
                return
            self.expect(",")

    def text_value(self, what: str = "a value", stops: str = ",{}[]") -> str:
        quote = next((one for one in QUOTES if self.take(one)), None)
        if quote is None:
            return self.word(what, stops)
        end = self.text.find(quote, self.at)
        if end < 0:
            raise self.error(f"the closing {quote}", "the end of the text", len(self.text))
        found, self.at = self.text[self.at : end], end + 1
        return found

    def word(self, what: str, stops: str) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in stops:
            self.at += 1
        found = self.text[start : self.at].strip()
        if not found:
            raise self.error(what, self.found(), self.at)
        return found

    def take(self, token: str) -> bool:
        self.skip_spaces()
        taken = self.text.startswith(token, self.at)
        self.at += len(token) if taken else 0
        return taken

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise self.error(repr(token), self.found(), self.at)

    def ended(self) -> bool:
        self.skip_spaces()
        return self.at == len(self.text)

    def skip_spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def found(self) -> str:
        return repr(self.text[self.at]) if self.at < len(self.text) else "the end of the text"

    def error(self, required: str, found: str, at: int) -> OptionError:
        return OptionError(
            "this is not a pipeline",
            where=f"at {self.text[:at]}<here>{self.text[at:]}",
            required=required,
            found=found,
            hint='such as "fold-quantizers,slice-units{sparsity=0.3,align=8}"',
        )
