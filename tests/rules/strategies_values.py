"""Strategies for the rules of operators that compute element by element, reduce or contract by letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.rules.strategies import Draw, Drawn, Shape, attributes, axis_of, drawn, shape_of, some, spelled

__all__ = ["einsum", "elementwise", "gated", "reduction", "selection"]

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Softplus": F.softplus,
    "HardSwish": F.hardswish,
    "Gelu": F.gelu,
    "Elu": F.elu,
    "Cos": torch.cos,
    "Sign": torch.sign,
    "Floor": torch.floor,
}
BINARY: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "Add": ("u = Add({}, {})", torch.add),
    "Sub": ("u = Sub({}, {})", torch.sub),
    "Mul": ("u = Mul({}, {})", torch.mul),
    "Max": ("u = Max({}, {})", torch.maximum),
    "Min": ("u = Min({}, {})", torch.minimum),
    "Div": ("d = Softplus({1})  u = Div({0}, d)", lambda a, b: a / F.softplus(b)),
    "PRelu": ("u = PRelu({}, {})", lambda h, p: torch.where(h < 0, h * p, h)),
}


def broadcast(draw: Draw, shape: Sequence[int], grows: bool = True) -> Shape:
    """What combines with a shape: sizes become 1 or stay, 1 becomes larger; leading ones go."""
    made = [1, *(draw(st.sampled_from([1, size if size > 1 or not grows else 3])) for size in shape[1:])]
    return tuple(made[draw(st.integers(0, len(made))) :])


@st.composite
def elementwise(draw: Draw) -> Drawn:
    """A function, an operator with a second operand of any fitting shape, a function."""
    before, after = draw(st.sampled_from(sorted(UNARY))), draw(st.sampled_from(sorted(UNARY)))
    name = draw(st.sampled_from(sorted(BINARY)))
    h = shape_of(draw, 1, 3, low=1, high=4)
    (node, operator), exchanged = BINARY[name], draw(st.booleans()) and name != "PRelu"
    values, tensors = [h], {}
    if draw(st.booleans()) and name != "PRelu":
        values.append(tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in h))
    else:
        tensors["p"] = broadcast(draw, (1, *h), grows=name != "PRelu")
    operands = ("t", "p" if tensors else "g")
    text = f"t = {before}(h)  {node.format(*(reversed(operands) if exchanged else operands))}  r = {after}(u)"

    def run(p: Any, h: Tensor, *others: Tensor) -> Tensor:
        one, other = UNARY[before](h), others[0] if others else p.p
        return UNARY[after](operator(other, one) if exchanged else operator(one, other))

    return drawn(values, text, run, **tensors)


@st.composite
def selection(draw: Draw) -> Drawn:
    """where, with two values or a value and a stored tensor, by a comparison."""
    h = shape_of(draw, 1, 3, low=1, high=4)
    p, bound = broadcast(draw, (1, *h)), np.array(draw(st.sampled_from([-0.5, 0.0, 0.5])), np.float32)
    turned = draw(st.booleans())
    text = f"t = Greater(g, bound)  r = Where(t, {'p, h' if turned else 'h, p'})"

    def run(p: Any, h: Tensor, g: Tensor) -> Tensor:
        return torch.where(g > p.bound, p.p, h) if turned else torch.where(g > p.bound, h, p.p)

    return drawn([h, h], text, run, p=p, bound=bound)


REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL2": torch.linalg.vector_norm,
    "ReduceLogSumExp": torch.logsumexp,
}


@st.composite
def reduction(draw: Draw) -> Drawn:
    """Over some dimensions, kept or not; what is kept is combined with the whole."""
    h, name = shape_of(draw, 2, 4, high=4), draw(st.sampled_from(sorted(REDUCTIONS)))
    if draw(st.integers(0, 4)) == 0:
        return draw(position(h))  # type: ignore[no-any-return]
    axes = [spelled(draw, axis + 1, h) for axis in some(draw, len(h))]
    kept, before = draw(st.booleans()), draw(st.sampled_from(["Identity", "Sigmoid", "Relu"]))
    after = "Mul(u, h)" if kept else "Cos(u)"
    text = f"t = {before}(h)  u = {name}{attributes(keepdims=kept)}(t, axes)  r = {after}"

    def run(p: Any, h: Tensor) -> Tensor:
        u = REDUCTIONS[name](UNARY.get(before, torch.clone)(h), dim=axes, keepdim=kept)
        return u * h if kept else u.cos()

    return drawn([h], text, run, axes=np.array(axes))


@st.composite
def position(draw: Draw, h: Shape) -> Drawn:
    axis, kept = spelled(draw, axis_of(draw, h), h), draw(st.booleans())
    text = f"t = ArgMax{attributes(axis=axis, keepdims=kept)}(h)  r = Cast<to=1>(t)"
    return drawn([h], text, lambda p, h: h.argmax(axis, kept).to(h.dtype))


@st.composite
def gated(draw: Draw) -> Drawn:
    """glu along any dimension."""
    h = list(shape_of(draw, 1, 3, high=4))
    axis = axis_of(draw, h)
    h[axis - 1] *= 2
    dim = spelled(draw, axis, h)
    text = f"a, b = Split{attributes(axis=dim, num_outputs=2)}(h)  c = Sigmoid(b)  r = Mul(a, c)"
    return drawn([h], text, lambda p, h: F.glu(h, dim))


LETTERS = "abcde"


@st.composite
def einsum(draw: Draw) -> Drawn:
    """Two or three operands of random letters, the batch in all but the stored one."""
    sizes = dict(zip(LETTERS, shape_of(draw, 5, 5, 2, 4), strict=True))
    subset = st.lists(st.sampled_from(LETTERS), min_size=1, max_size=3, unique=True).map("".join)
    values = draw(st.lists(subset, min_size=1, max_size=2))
    stored = draw(st.lists(subset, min_size=0 if len(values) > 1 else 1, max_size=1))
    used = sorted(set("".join([*values, *stored])))
    result = "".join(draw(st.permutations(used)))[: draw(st.integers(1, 4))]
    equation = ",".join([*(f"n{letters}" for letters in values), *stored]) + f"->n{result}"
    inputs = ", ".join(["h", "g"][: len(values)] + ["p"] * len(stored))
    tensors = {"p": tuple(sizes[letter] for letter in stored[0])} if stored else {}

    def run(p: Any, *operands: Tensor) -> Tensor:
        return torch.einsum(equation, *operands, *([p.p] if stored else []))

    shapes = [tuple(sizes[letter] for letter in letters) for letters in values]
    assert prod(map(len, shapes)) > 0
    return drawn(shapes, f"r = Einsum{attributes(equation=equation)}({inputs})", run, **tensors)
