"""Errors for people: where, what was required, what was found, what to try.

Every error that getac raises on purpose derives from `GetacError`; the command line prints it as one
paragraph and exits with its `exit_code`. Anything else that escapes is a bug of getac.
"""

from __future__ import annotations

__all__ = [
    "BadInputError",
    "CalibrationError",
    "GetacError",
    "InvalidModelError",
    "OptionError",
    "OutputError",
    "PassError",
    "UnsupportedModelError",
    "VerificationError",
]


class GetacError(Exception):
    """The base of all errors that getac raises on purpose.

    Args:
        message: What went wrong, one sentence without a full stop.
        where: The file, node, or option at fault.
        required: What getac needs there.
        found: What it saw instead.
        hint: What the user can do about it.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        required: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.where = where
        self.required = required
        self.found = found
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        details = [
            ("where", self.where),
            ("required", self.required),
            ("found", self.found),
            ("try", self.hint),
        ]
        lines = [f"  {label:<9} {text}" for label, text in details if text]
        return "\n".join([self.message, *lines])


class BadInputError(GetacError):
    """The user's input cannot be used as it is."""


class InvalidModelError(BadInputError):
    """The model file is broken: not ONNX, truncated, cyclic, missing data, NaN weights."""


class UnsupportedModelError(BadInputError):
    """The model file is valid, and uses a feature that getac does not handle."""


class CalibrationError(BadInputError):
    """The calibration data does not fit the model."""


class OptionError(BadInputError):
    """An option has a value outside its domain, or contradicts another."""


class OutputError(BadInputError):
    """The output cannot be written."""


class PassError(GetacError):
    """A pass was run where what it needs does not hold, or broke what it promised (a bug of the pass)."""


class VerificationError(GetacError):
    """The result does not compute what the original computes; nothing was written."""

    exit_code = 1
