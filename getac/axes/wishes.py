"""What a person asks of the analysis: keep some parameters whole, open others that are frozen for safety."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["NO_WISHES", "Wishes"]


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

    def keeps(self, name: str) -> bool:
        return any(fnmatchcase(name, glob) for glob in self.keep)

    def opens(self, name: str) -> bool:
        return any(fnmatchcase(name, glob) for glob in self.prune)


NO_WISHES = Wishes()
