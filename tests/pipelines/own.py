"""A pass of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from getac.pipeline import Fact, State

__all__ = ["SOURCE", "Own"]

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar
from getac.passes import Fact, State

@dataclass(frozen=True)
class Mine:
    """Counts."""
    times: int = 1
    name: ClassVar[str] = "mine"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()
    def run(self, state: State) -> None:
        pass
'''
"""A file with a pass, as a user writes one."""


@dataclass(frozen=True)
class Own:
    """Does what a test wants."""

    action: Callable[[State], object]
    name: ClassVar[str] = "own"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, state: State) -> None:
        self.action(state)
