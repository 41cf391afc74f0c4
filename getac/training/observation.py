"""The magnitudes that quantizers start with: of weights from themselves, of activations from data."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from getac.errors import CalibrationError, GetacError, OptionError
from getac.kernels.ranges import METHODS, RangeEstimator, range_estimator
from getac.training.batches import Call
from getac.training.state import Insertion

__all__ = ["check_method", "observed_maxima", "weight_maxima"]

AUTO = "auto"
FINE = 8  # bits from which the outermost values may decide
RESIDUE = 1e-3  # of constant data, a smaller range is one of rounding errors


def check_method(method: str) -> None:
    if method not in (AUTO, *METHODS):
        raise OptionError(
            "there is no such way to choose ranges",
            where="ranges",
            required=" | ".join((AUTO, *METHODS)),
            found=repr(method),
        )


def estimator_of(method: str, insertion: Insertion) -> RangeEstimator:
    """An estimator of magnitudes: half of a symmetric lattice has a bit less."""
    bits = int(insertion.bits.most)
    if method == AUTO:
        method = "minmax" if bits >= FINE else "mse"
    return range_estimator(method, bits - insertion.bits.signed)


def weight_maxima(module: fx.GraphModule, insertions: Sequence[Insertion]) -> dict[str, Tensor]:
    """Name of a quantizer -> the greatest magnitude of its weight, per index of its axis."""
    nodes = {node.name: node for node in module.graph.nodes}
    with torch.no_grad():
        return {one.name: maximum_of(stored_value(module, nodes[one.node]), one) for one in insertions}


def greatest(weight: Tensor, axis: int | None) -> Tensor:
    """The greatest magnitude per index of the axis; of all for None."""
    others = [d for d in range(weight.ndim) if d != axis]
    return weight.abs().amax(others) if others else weight.abs()


def maximum_of(weight: Tensor, insertion: Insertion) -> Tensor:
    maximum = greatest(weight, insertion.axis)
    if not maximum.isfinite().all():
        raise CalibrationError("a weight is not finite", where=insertion.node, found="NaN or infinity")
    return maximum


def stored_value(module: fx.GraphModule, node: Any) -> Any:
    """A stored tensor, or what is computed from stored tensors alone."""
    if node.op == "get_attr":
        return attrgetter(str(node.target))(module)
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda one: stored_value(module, one))
    return node.target(*args, **kwargs)


def magnitudes(x: Tensor) -> Any:
    """As estimators of ranges take them."""
    return x.detach().abs().float().cpu().numpy()


def magnitude_of(estimator: RangeEstimator) -> Tensor:
    """What a quantizer should cover; 0 if there was nothing."""
    return torch.tensor(max(map(abs, estimator.range())))


class Observer(nn.Module):
    """Sees one activation of every batch."""

    def __init__(self, node: str, estimator: RangeEstimator) -> None:
        super().__init__()
        self.node, self.estimator = node, estimator

    def forward(self, x: Tensor) -> None:
        self.estimator.update(magnitudes(x))
        if self.estimator.skipped:
            raise CalibrationError(
                "an activation is not finite",
                where=self.node,
                found=f"{self.estimator.skipped} values that are NaN or infinite",
                hint="look for bad samples, and for NaN among the parameters",
            )


class InputCheck(nn.Module):
    """Compares an input of every batch with the example that the graph was captured with."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__()
        self.name, self.example = node.name, node.meta["val"]
        self.varies = not self.example.is_floating_point()  # of tokens, one is enough

    def forward(self, x: Any) -> None:
        wanted = [size if isinstance(size, int) else None for size in self.example.shape]
        fits = isinstance(x, Tensor) and len(wanted) == x.ndim and x.dtype == self.example.dtype
        if not fits or any(w not in (None, size) for w, size in zip(wanted, x.shape, strict=True)):
            raise CalibrationError(
                "calibration data does not fit the model",
                where=self.name,
                required=described(self.example.dtype, wanted),
                found=described(x.dtype, x.shape) if isinstance(x, Tensor) else type(x).__name__,
                hint="a batch is what the model is called with: leave targets out",
            )
        self.varies = self.varies or bool((x != x.flatten()[:1]).any())


def described(dtype: torch.dtype, sizes: Iterable[int | None]) -> str:
    """float32 (?, 3, 16, 16)"""
    listed = ", ".join("?" if size is None else str(size) for size in sizes)
    return f"{str(dtype).removeprefix('torch.')} ({listed})"


def observed_maxima(
    module: fx.GraphModule, insertions: Sequence[Insertion], calls: Iterable[Call], method: str = AUTO
) -> dict[str, Tensor]:
    """Name of a quantizer -> the magnitude that it should cover, from one pass over the data.

    The module runs in evaluation mode without gradients; per activation a few numbers or one histogram are
    kept, however much data there is. Only a batch norm whose running statistics are still those of a new
    one (mean 0, variance 1) normalises by the batch's: the ranges would mean nothing otherwise.

    Args:
        calls: The positional and the keyword inputs of each batch.
        method: "minmax", "percentile" or "mse"; "auto": minmax from 8 bits on, mse below.

    Returns:
        Magnitudes; 1 at least, with a warning, if batches are constant and leave rounding errors.

    Raises:
        CalibrationError: No batch, one that the model does not take, or an activation that is not finite.
    """
    estimators = {one.name: estimator_of(method, one) for one in insertions}
    observing = with_observers(module, {one.node: estimators[one.name] for one in insertions})
    count = 0
    for count, given in enumerate(calls, start=1):
        run(observing, given, count - 1)
    if count == 0:
        raise CalibrationError(
            "there is no calibration data", where="calibration", found="no batch", required="one at least"
        )
    maxima = {name: magnitude_of(one) for name, one in estimators.items()}
    checks = [one for one in observing.modules() if isinstance(one, InputCheck)]
    is_constant = bool(checks) and not any(one.varies for one in checks)
    return at_least_one(maxima) if is_constant and any(one < RESIDUE for one in maxima.values()) else maxima


def at_least_one(maxima: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of zeros, and behind a normalisation of constants, ranges are rounding errors: nothing could learn."""
    warnings.warn(
        "the data for the ranges of activations is constant and shows none: those start at 1 or more, and"
        " that of the inputs stays so (it does not learn, unless requires_grad_() on its d and q_m makes"
        " it); give a few batches of real data, prepare(..., calibration=batches)",
        stacklevel=4,
    )
    return {name: one.clamp(min=1.0) for name, one in maxima.items()}


def with_observers(module: fx.GraphModule, estimators: Mapping[str, RangeEstimator]) -> fx.GraphModule:
    """A module with the same parameters that hands what it computes to estimators."""
    observing = fx.GraphModule(module, copy.deepcopy(module.graph))
    graph = observing.graph
    last_input = [node for node in graph.nodes if node.op == "placeholder"][-1:]
    for node in list(graph.nodes):
        after = last_input[0] if node.op == "placeholder" else node
        if node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor):
            call(observing, f"check_of_{node.name}", InputCheck(node), node, after)
        if node.name in estimators:
            observer = Observer(node.name, estimators[node.name])
            call(observing, f"observer_of_{node.name}", observer, node, after)
        if node.target is torch.ops.aten.batch_norm.default and is_new(module, node):
            node.args = (*node.args[:3], None, None, True, *node.args[6:])
    observing.recompile()
    return observing.eval()


def is_new(module: fx.GraphModule, norm: fx.Node) -> bool:
    """Whether a batch norm has running statistics that have seen no batch."""
    mean, variance = norm.args[3], norm.args[4]
    if mean is None or variance is None or norm.args[5] is False:  # the last: frozen on purpose
        return False
    return bool((stored_value(module, mean) == 0).all() and (stored_value(module, variance) == 1).all())


def call(module: fx.GraphModule, name: str, part: nn.Module, x: fx.Node, after: fx.Node) -> None:
    module.add_submodule(name, part)
    with module.graph.inserting_after(after):
        module.graph.call_module(name, (x,))


def run(module: fx.GraphModule, given: Call, position: int) -> None:
    args, kwargs = given
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except GetacError:
        raise
    except Exception as error:  # whatever the model's operators raise on data that does not fit
        raise CalibrationError(
            "the model does not run on the calibration data",
            where=f"batch {position}",
            found=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            hint="a batch is what the model is called with: leave targets out",
        ) from error
