"""What the analysis sees of a graph: nodes with a rule, values with sizes. Both graphs offer this view.

The analysis is written once against these protocols; `getac.onnx_graph.view` implements them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from getac.axes.reasons import Reason
    from getac.rules.base import Rule

__all__ = ["Array", "GraphView", "NodeView"]

Array = npt.NDArray[np.generic]


class NodeView(Protocol):
    """One operator of a graph. Values are hashable and compared by identity."""

    @property
    def identity(self) -> Hashable: ...

    @property
    def name(self) -> str: ...

    @property
    def operator(self) -> str:
        """The operator's name in its graph, such as `Conv` or `com.example::Fancy`."""
        ...

    @property
    def signature(self) -> Hashable:
        """The operator with its arguments: nodes of equal signature compute the same function."""
        ...

    @property
    def rule(self) -> Rule | None:
        """The rule that this node follows; None where there is none, which makes the node opaque."""
        ...

    @property
    def refusal(self) -> Reason | None:
        """Why the node follows no rule; None where it follows one."""
        ...

    @property
    def inputs(self) -> Sequence[Hashable | None]: ...

    @property
    def captured(self) -> Sequence[Hashable]:
        """Values that the node reads in another way than as an input of its rule: in its subgraphs, as
        scalars among its arguments."""
        ...

    def entries(self, index: int) -> Sequence[int | Hashable] | None:
        """The entries of a rule's input that is a list of integers in the node itself, not a value."""
        ...

    @property
    def outputs(self) -> Sequence[Hashable]: ...

    def evaluate(self, inputs: Sequence[Array | None]) -> Array:
        """Runs the operator itself on the given arrays and returns its first output."""
        ...


class GraphView(Protocol):
    """A graph in execution order."""

    @property
    def nodes(self) -> Sequence[NodeView]: ...

    @property
    def inputs(self) -> Sequence[Hashable]: ...

    @property
    def outputs(self) -> Sequence[Hashable]: ...

    @property
    def parameters(self) -> Sequence[Hashable]:
        """Stored tensors, floats and integers alike."""
        ...

    def name_of(self, value: Hashable) -> str: ...

    def sizes(self, value: Hashable) -> tuple[int, ...] | None:
        """The value's shape, symbolic dimensions at their probe; None where it is unknown."""
        ...

    def sizes_per_sample(self, value: Hashable) -> tuple[int, ...] | None:
        """The value's shape for a batch of one sample, other symbolic dimensions at a size that works."""
        ...

    def is_float(self, value: Hashable) -> bool: ...

    def storage_bits(self, parameter: Hashable) -> int:
        """The bits that one entry of a parameter is stored in."""
        ...

    def small_constant(self, value: Hashable) -> Array | None:
        """The numbers of a small stored or computed constant; None for anything else."""
        ...

    def array(self, parameter: Hashable) -> Array:
        """The numbers of a parameter, read when asked for."""
        ...
