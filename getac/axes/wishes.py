"""What a person asks of the analysis: keep some parameters whole, open others that are frozen for safety."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from getac.errors import OptionError

if TYPE_CHECKING:
    from getac.axes.analysis import Analysis

__all__ = ["NO_WISHES", "Wishes", "check_globs"]

SHOWN_NAMES = 5


@dataclass(frozen=True)
class Wishes:
    """Globs on parameter names, such as `layer4.*`.

    Args:
        keep: No unit of these parameters is removed.
        prune: Axes of these parameters may lose units although statistics are taken over them (layer norms,
            means). The sliced model is then another function than the masked one.
    """

    keep: Sequence[str] = ()
    prune: Sequence[str] = ()

    @classmethod
    def of(cls, keep: Sequence[str] = (), prune: Sequence[str] = ()) -> Wishes:
        """Raises OptionError for what is no sequence of globs: of a text alone, every letter would be one."""
        return cls(as_globs("keep", keep), as_globs("prune", prune))

    def keeps(self, name: str) -> bool:
        return any(fnmatchcase(name, glob) for glob in self.keep)

    def opens(self, name: str) -> bool:
        return any(fnmatchcase(name, glob) for glob in self.prune)


NO_WISHES = Wishes()


def as_globs(option: str, globs: Sequence[str]) -> tuple[str, ...]:
    if isinstance(globs, str) or not all(isinstance(glob, str) for glob in globs):
        raise OptionError(
            f"{option} is a sequence of globs",
            required=f'such as {option}=["layer4.*"]',
            found=repr(globs),
        )
    return tuple(globs)


def check_globs(analysis: Analysis, option: str, globs: Sequence[str]) -> None:
    """Raises OptionError for a glob on parameter names that matches none of them."""
    names = sorted(analysis.view.name_of(value) for value in analysis.parameters)
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            more = ["..."] if len(names) > SHOWN_NAMES else []
            raise OptionError(
                f"a glob of {option} matches no parameter",
                required="a name, or a pattern such as 'layer4.*'",
                found=f"{glob!r}; the parameters are {', '.join([*names[:SHOWN_NAMES], *more])}",
                hint="getac inspect --json lists the parameters, as they are once constants are folded",
            )
