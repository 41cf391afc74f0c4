"""A captured torch.fx module between two passes, as it runs in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx
from torch.utils import _pytree as pytree

from getac.axes.analysis import Analysis
from getac.errors import GetacError
from getac.fx_graph.view import Stored
from getac.pipeline import State
from getac.pipelines.executable import Runnable, check_names
from getac.units.choice import Choice
from getac.verifying.agreement import BOUNDS, Agreement, Batch, Departure, KeepMasks, agreement

__all__ = ["ModuleRunnable"]

_TYPES = {"BFLOAT16": torch.bfloat16, "FLOAT16": torch.float16, "FLOAT": torch.float32}


@dataclass(frozen=True)
class ModuleRunnable:
    """A copy of the module in evaluation; batches give arrays or tensors by the names of its inputs."""

    module: fx.GraphModule

    @classmethod
    def of(cls, state: State, masked: bool) -> ModuleRunnable:
        copy = deepcopy(state.module).eval()
        if masked and state.analysis is not None and state.choice is not None and not state.choice.exact:
            mask(copy, state.analysis, state.choice)
        return cls(copy)

    def outputs(self, batches: Sequence[Batch]) -> list[Batch]:
        return [self.run(batch)[0] for batch in batches]

    def relative_bound(self, output: str) -> float:
        found = {tensor.dtype for tensor in stored(self.module).values()}
        bounds = (bound for kind, bound in BOUNDS.sliced_relative.items() if _TYPES[kind.name] in found)
        return max(bounds, default=min(BOUNDS.sliced_relative.values()))

    def departure(
        self,
        result: Runnable,
        batches: Sequence[Batch],
        departs: Callable[[Agreement], bool],
        keep: KeepMasks,
    ) -> Departure | None:
        assert isinstance(result, ModuleRunnable)
        for batch in batches:
            a, b = self.run(batch)[1], result.run(batch)[1]
            both = [name for name, value in a.items() if name in b and value.shape == b[name].shape]
            agreements = (agreement(name, [a[name]], [b[name]]) for name in both)
            departed = next(filter(departs, agreements), None)
            if departed is not None:
                return Departure(departed.output, departed.relative)
        return None

    def run(self, batch: Batch) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
        """Outputs, and everything else that is computed, by name.

        Raises:
            BadInputError: The inputs are not those of the module.
            GetacError: It does not run.
        """
        names = [str(node.target) for node in self.module.graph.nodes if node.op == "placeholder"]
        check_names(batch, names)
        recorder = Recorder(self.module)
        try:
            with torch.no_grad():
                found = recorder.run(
                    *(torch.as_tensor(batch[name]) for name in names), enable_io_processing=False
                )
        except Exception as error:  # anything that an operator of torch, or of the user, raises
            raise GetacError(
                "the module failed while it ran", where=recorder.at, found=str(error).partition("\n")[0]
            ) from error
        leaves = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        outputs = {f"output_{i}": array_of(leaf) for i, leaf in enumerate(leaves)}
        return outputs, recorder.seen


class Recorder(fx.Interpreter):
    """Runs a module node by node and keeps what each computes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, npt.NDArray[Any]] = {}
        self.at = ""

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name
        value = super().run_node(n)
        if n.op.startswith("call") and isinstance(value, torch.Tensor):
            self.seen[n.name] = array_of(value)
        return value


def mask(module: fx.GraphModule, analysis: Analysis, choice: Choice) -> None:
    """Zeroes what the chosen units own."""
    tensors = stored(module)
    for parameter in analysis.parameters:
        assert isinstance(parameter, Stored)
        for dimension, keep in enumerate(analysis.zero_masks(parameter, choice.masks) or ()):
            with torch.no_grad():
                tensors[parameter.name].movedim(dimension, 0)[torch.from_numpy(~np.asarray(keep))] = 0


def stored(module: fx.GraphModule) -> Mapping[str, torch.Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def array_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    plain = tensor.detach().cpu()
    found: npt.NDArray[Any] = (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy().copy()
    return found
