"""Which pass failed, why it ran, and at which line of its author's."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from getac.errors import GetacError, PassError
from getac.pipeline import Pass, State, Watcher

__all__ = ["Blame", "described", "last_line", "own_failures"]


@dataclass
class Blame(Watcher):
    """Remembers which pass ran last.

    Args:
        passes: What was asked for; whatever else runs was added by the pipeline.
    """

    passes: Sequence[Pass]
    running: Pass | None = field(default=None, init=False)
    _started: int = field(default=0, init=False)
    _added: bool = field(default=False, init=False)

    def before(self, one: Pass, state: State) -> None:
        self.running = one
        self._added = not (self._started < len(self.passes) and one is self.passes[self._started])
        self._started += not self._added

    @property
    def name(self) -> str:
        return self.running.name if self.running is not None else ""

    def __str__(self) -> str:
        if not self._added:
            return f"the pass {self.name}"
        if self._started == len(self.passes):
            return f"the pass {self.name}, which every pipeline ends with"
        return f"the pass {self.name}, which was added: {self.passes[self._started].name} needs what it gives"

    def sign(self, error: GetacError) -> None:
        """Says in an error out of which pass it came, where it does not."""
        if self.running is not None and self.name not in error.message:
            error.where = f"{error.where}; in {self}" if error.where else str(self)


@contextmanager
def own_failures(blame: Blame) -> Iterator[None]:
    """Whatever a pass raises that is no error of getac becomes one that names the pass and the place."""
    try:
        yield
    except GetacError as error:
        blame.sign(error)
        raise
    except (Exception, SystemExit) as error:  # a pass is anybody's code
        assert blame.running is not None
        last = last_line(error, own_files(blame.running))
        raise PassError(
            f"{blame} failed",
            where=f"{last.filename}, line {last.lineno}, in {last.name}",
            found=described(error),
            hint="GETAC_DEBUG=1 shows the traceback",
        ) from error


def last_line(error: BaseException, files: set[str]) -> traceback.FrameSummary:
    """The deepest line of these files that an exception went through; the deepest of all without one."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if frame.filename in files), frames[-1])


def own_files(one: Pass) -> set[str]:
    """The files of a pass's author: of its class, and of the functions that it was given."""
    given = getattr(one, "__dict__", {}).values()
    functions = (inspect.unwrap(f) for f in (type(one).run, *given) if callable(f))
    codes = (getattr(function, "__code__", None) for function in functions)
    module = getattr(sys.modules.get(type(one).__module__), "__file__", None)
    return {code.co_filename for code in codes if code is not None} | ({module} if module else set())


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
