"""What the strategies of all rule families share: an operator drawn at random, between layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tools.onnx_text import Tensor as Stored
from tools.onnx_text import model_of

__all__ = [
    "BATCH",
    "WIDTH",
    "Draw",
    "Drawn",
    "Ends",
    "Frames",
    "Shape",
    "attributes",
    "axis_of",
    "drawn",
    "shape_of",
    "some",
    "spelled",
]

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]
NAMES = "hgkm"
BATCH, WIDTH, OUTPUTS = 3, 5, 3


@dataclass(frozen=True)
class Ends:
    """What stands before and behind a drawn function, and what its rule must know for it.

    Args:
        lifted: Its values are sigmoids: a removed unit is one half, not zero.
        summed: All of its result is summed, too: a removed unit is open only where it is known to be zero.
    """

    lifted: bool
    summed: bool


@dataclass(frozen=True)
class Drawn:
    """A function of values that layers make, and what another layer reads; no shape includes the batch.

    Every dimension of every value is open at first: a layer makes them as one, x (N, 5) -> (N, a * b * c).

    Args:
        values: The shapes of h, g, k, m.
        result: The shape of r.
        nodes: Of ONNX, from h, g, k, m to r; None where ONNX has no such operator.
        call: The same of torch, of the stored tensors and h, g, k, m; None where torch has none.
        tensors: The stored tensors: shapes are parameters, arrays are constants.
    """

    values: tuple[Shape, ...]
    result: Shape
    nodes: str | None
    call: Callable[..., Tensor] | None = field(repr=False)
    tensors: Mapping[str, Stored]

    def model(self, seed: int, ends: Ends) -> onnx.ModelProto:
        assert self.nodes is not None
        tensors = {**self.tensors, "w_out": (prod(self.result), OUTPUTS)}
        body = ""
        for name, shape in zip(NAMES, self.values, strict=False):
            body += f"flat_{name} = MatMul(x, w_{name})  made_{name} = Reshape(flat_{name}, s_{name})  "
            body += f"{name} = {'Sigmoid' if ends.lifted else 'Identity'}(made_{name})  "
            tensors[f"w_{name}"] = (WIDTH, prod(shape))
            tensors[f"s_{name}"] = np.array([-1, *shape])
        body += f"{self.nodes}  flat = Flatten(r)  read = MatMul(flat, w_out)  "
        if ends.summed:
            tensors["rest"] = np.array([1])
            body += "total = ReduceSum(flat, rest)  y = Add(read, total)"
        else:
            body += "y = Identity(read)"
        return model_of(body, {"x": ("N", WIDTH)}, tensors, seed=seed)


class Parameters(nn.Module):
    """The stored tensors of a drawn function, under their names."""

    def __init__(self, tensors: Mapping[str, Stored]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            if isinstance(tensor, np.ndarray):
                self.register_buffer(name, torch.from_numpy(tensor))
            else:
                self.register_parameter(name, nn.Parameter(torch.randn(tuple(tensor))))


class Frame(nn.Module):
    """x -> a layer for each value -> the drawn function -> a layer -> y"""

    def __init__(self, one: Drawn, ends: Ends) -> None:
        super().__init__()
        self.ends = ends
        assert one.call is not None
        self.shapes, self.function, self.stored = one.values, one.call, Parameters(one.tensors)
        self.into = nn.ModuleList(nn.Linear(WIDTH, prod(shape)) for shape in one.values)
        self.out = nn.Linear(prod(one.result), OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        values = [
            layer(x).view(x.shape[0], *shape) for layer, shape in zip(self.into, self.shapes, strict=True)
        ]
        if self.ends.lifted:
            values = [value.sigmoid() for value in values]
        flat = self.function(self.stored, *values).unsqueeze(-1).flatten(1)
        y: Tensor = self.out(flat)
        return y + flat.sum(1, keepdim=True) if self.ends.summed else y


class Frames(nn.Module):
    """Several side by side: capturing costs more than they do."""

    def __init__(self, several: Sequence[tuple[Drawn, Ends]]) -> None:
        super().__init__()
        self.frames = nn.ModuleList(Frame(one, ends) for one, ends in several)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [frame(x) for frame in self.frames]


def drawn(
    values: Sequence[Sequence[int]],
    nodes: str | None,
    call: Callable[..., Tensor],
    **tensors: Any,
) -> Drawn:
    """torch's function tells the shape of the result, also where ONNX alone is to be checked."""
    shapes = tuple(map(tuple, values))
    with torch.no_grad():
        result = call(Parameters(tensors), *(torch.zeros(2, *shape) for shape in shapes))
    return Drawn(shapes, tuple(result.shape[1:]), nodes, call, tensors)


def shape_of(draw: Draw, least: int, most: int, low: int = 2, high: int = 5) -> Shape:
    """A shape of `least` to `most` dimensions."""
    return tuple(draw(st.lists(st.integers(low, high), min_size=least, max_size=most)))


def axis_of(draw: Draw, shape: Sequence[int]) -> int:
    """A dimension of a value, counted with the batch."""
    return int(draw(st.integers(1, len(shape))))


def spelled(draw: Draw, axis: int, shape: Sequence[int]) -> int:
    """The same dimension, perhaps counted from the end."""
    return axis - len(shape) - 1 if draw(st.booleans()) else axis


def some(draw: Draw, count: int) -> list[int]:
    """Some of the numbers below `count`, at least one, in any order."""
    return draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))  # type: ignore[no-any-return]


def attributes(**values: Any) -> str:
    """ONNX's text form of attributes."""

    def text(value: Any) -> str:
        return (
            f'"{value}"' if isinstance(value, str) else str(int(value) if isinstance(value, bool) else value)
        )

    return f"<{', '.join(f'{name}={text(value)}' for name, value in values.items())}>" if values else ""
