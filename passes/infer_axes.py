"""infer-axes: finds the pruning classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from getac.axes.analysis import analyze_view
from getac.axes.wishes import Wishes, check_globs
from getac.pipeline import Fact, Refusal, State
from getac.views import rounded_values, view_of

__all__ = ["InferAxes"]


@dataclass(frozen=True)
class InferAxes:
    """Finds the pruning classes: which units can be removed, and what goes with them.

    The graph is one of ONNX or of torch.fx. Operators without a rule are refusals.

    Args:
        keep: Globs on parameter names: these stay whole.
        prune: Globs on parameter names: these are opened where they are frozen for safety.

    Raises:
        OptionError: A glob matches no parameter.
    """

    keep: tuple[str, ...] = ()
    prune: tuple[str, ...] = ()

    name: ClassVar[str] = "infer-axes"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.QUANTIZERS_FOLDED, Fact.SHAPES})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.AXES})
    keeps: ClassVar[frozenset[Fact]] = frozenset(Fact)

    def run(self, state: State) -> None:
        view = view_of(state)
        state.wishes = Wishes(self.keep, self.prune)
        state.analysis = analyze_view(view, state.wishes, rounded_values(state, view))
        check_globs(state.analysis, "keep", self.keep)
        check_globs(state.analysis, "prune", self.prune)
        for node in state.analysis.opaque:
            state.refuse(
                self.name,
                Refusal(node.name, f"{node.operator}: {node.reason}", "what it touches is kept whole"),
            )
