"""What a prepared module remembers beside its graph: enough to build it again from the model's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from getac.axes.wishes import NO_WISHES, Wishes
from getac.errors import BadInputError
from getac.kernels.fake_quantize import Bits

__all__ = ["Insertion", "Removal", "TrainingState", "state_of"]

KEY = "getac"


@dataclass(frozen=True)
class Insertion:
    """A quantizer that was put behind a value of the captured graph; all is known by name.

    Args:
        node: The node of the value: an activation, or the node that reads (or computes) a weight.
        readers: The nodes that read the quantized value instead.
        name: Where the quantizer's parameters are.
        axis: The dimension that has a step and a range of its own per index.
        bits: Its bounds.
        exponent: Whether its exponent learns.
    """

    node: str
    readers: tuple[str, ...]
    name: str
    axis: int | None
    bits: Bits
    exponent: bool = False


@dataclass(frozen=True)
class Removal:
    """One regeneration.

    Args:
        kept: Class name -> the indices of the units that stayed, counted before it.
        wishes: Those of the analysis that named the classes.
    """

    kept: Mapping[str, Sequence[int]]
    wishes: Wishes = NO_WISHES


@dataclass
class TrainingState:
    """How a module came to be: captured with these inputs, quantized here, sliced in this order.

    Args:
        args: Positional example inputs of the capture.
        kwargs: Keyword example inputs.
        dynamic_batch: Whether the batch size was left open.
        model: The name of the model's class, for people.
        ranges: How the ranges of activations were chosen; see `getac.prepare`.
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    dynamic_batch: bool = True
    insertions: list[Insertion] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    model: str = "the model"
    ranges: str = "auto"


def state_of(module: fx.GraphModule) -> TrainingState:
    """What was noted about a module when it was prepared; deepcopy and regeneration keep it.

    Raises:
        BadInputError: The module does not come from `getac.prepare`.
    """
    state = module.meta.get(KEY) if isinstance(module, fx.GraphModule) else None
    if not isinstance(state, TrainingState):
        raise BadInputError(
            "this module was not prepared by getac",
            found=type(module).__name__,
            required="the module that getac.prepare returned",
            hint="prepared = getac.prepare(model, example_inputs)",
        )
    return state
