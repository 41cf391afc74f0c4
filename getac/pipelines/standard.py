"""Pipelines of getac's own that a text can name; in place of the name their passes run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from getac.axes.wishes import Wishes
from getac.passes import analysis_passes
from getac.pipeline import Pass

__all__ = ["PIPELINES", "Analysis", "NamedPipeline"]


class NamedPipeline(Protocol):
    """Options, and the passes that they stand for. Implementations are frozen dataclasses."""

    name: ClassVar[str]

    def passes(self) -> tuple[Pass, ...]: ...


@dataclass(frozen=True)
class Analysis:
    """All that getac lower does before it chooses units: plans fit models that went through it.

    Args:
        keep: Globs on parameter names: these stay whole.
        prune: Globs on parameter names: these are opened where they are frozen for safety.
    """

    keep: tuple[str, ...] = ()
    prune: tuple[str, ...] = ()

    name: ClassVar[str] = "analysis"

    def passes(self) -> tuple[Pass, ...]:
        return analysis_passes(Wishes(self.keep, self.prune))


PIPELINES: Mapping[str, type[NamedPipeline]] = {Analysis.name: Analysis}
