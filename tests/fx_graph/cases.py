"""Small modules around one operator each: layers before and after it, so that units can be removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Case", "Net", "case", "image", "sequence", "vector", "volume"]

BATCH = 3


class Net(nn.Module):
    """x -> layer -> h -> function(self, h) -> layer -> y; the parts are attributes of the module."""

    def __init__(
        self,
        into: nn.Module,
        function: Callable[[Any, Tensor], Tensor],
        out: nn.Module,
        parts: dict[str, Any],
    ) -> None:
        super().__init__()
        self.into, self.function, self.out = into, function, out
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self, self.into(x)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Case:
    """A module, and what the analysis must find in it.

    Args:
        make: Builds the module; parts are built anew each time.
        shape: Of the input, without the batch.
        units: The sizes of the open classes, in the order of the graph.
        reason: One that some frozen axis must have.
        without_gradient: Whether parameters may get no gradient (behind a comparison, say).
    """

    make: Callable[[], nn.Module]
    shape: Sequence[int]
    units: tuple[int, ...]
    reason: str = ""
    without_gradient: bool = False

    def inputs(self) -> tuple[Tensor, ...]:
        return (torch.randn(BATCH, *self.shape),)


Function = Callable[[Any, Tensor], Tensor]
Parts = Callable[[], dict[str, Any]]


def no_parts() -> dict[str, Any]:
    return {}


def sequence(
    f: Function, *units: int, out: int = 8, parts: Parts = no_parts, reason: str = "", stuck: bool = False
) -> Case:
    """x (B, 5, 6) -> h (B, 5, 8) -> f -> (..., out) -> y"""
    return Case(lambda: Net(nn.Linear(6, 8), f, nn.Linear(out, 4), parts()), (5, 6), units, reason, stuck)


def vector(
    f: Function, *units: int, out: int = 8, parts: Parts = no_parts, reason: str = "", stuck: bool = False
) -> Case:
    """x (B, 6) -> h (B, 8) -> f -> (..., out) -> y"""
    return Case(lambda: Net(nn.Linear(6, 8), f, nn.Linear(out, 4), parts()), (6,), units, reason, stuck)


def image(
    f: Function, *units: int, out: int = 8, parts: Parts = no_parts, reason: str = "", stuck: bool = False
) -> Case:
    """x (B, 3, 8, 8) -> h (B, 8, 8, 8) -> f -> (B, out, ...) -> y"""
    return Case(
        lambda: Net(nn.Conv2d(3, 8, 3, padding=1), f, nn.Conv2d(out, 5, 1), parts()),
        (3, 8, 8),
        units,
        reason,
        stuck,
    )


def volume(
    rank: int, f: Function, *units: int, out: int = 8, parts: Parts = no_parts, reason: str = ""
) -> Case:
    """x (B, 3, 6, ...) -> h (B, 8, 6, ...) -> f -> (B, out, ...) -> y, with 1 or 3 spatial dimensions"""
    layer = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    return Case(
        lambda: Net(layer(3, 8, 3, padding=1), f, layer(out, 5, 1), parts()), (3, *(6,) * rank), units, reason
    )


def case(make: Callable[[], nn.Module], shape: Sequence[int], *units: int, reason: str = "") -> Case:
    return Case(make, shape, units, reason)


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.5)


def lambda_of(text: str) -> Function:
    """s: the module; h: what comes in; a in (-1, 1); p at least 1."""
    names = {"torch": torch, "F": F, "aten": torch.ops.aten}
    code = f"lambda s, h: (lambda a, p: {text})(torch.tanh(h) * 0.9, h.abs() + 1)"
    return eval(code, names)  # type: ignore[no-any-return]


UNARY = {
    "abs": "a.abs()",
    "acos": "a.acos()",
    "add": "torch.add(h, a, alpha=2)",
    "addcdiv": "torch.addcdiv(h, a, p, value=0.5)",
    "addcmul": "torch.addcmul(h, a, p)",
    "asin": "a.asin()",
    "atan": "a.atan()",
    "atan2": "torch.atan2(a, p)",
    "celu": "F.celu(h)",
    "clamp": "h.clamp(-0.5, 0.5)",
    "clamp_max": "h.clamp_max(0.5)",
    "clamp_min": "h.clamp_min(0.1)",
    "clip": "h.clip(-0.5, 0.5)",
    "cos": "h.cos()",
    "cosh": "a.cosh()",
    "div": "h / p",
    "elu": "F.elu(h)",
    "erf": "h.erf()",
    "exp": "a.exp()",
    "exp2": "torch.exp2(a)",
    "expm1": "a.expm1()",
    "fmod": "torch.fmod(h, 0.7)",
    "gelu": "F.gelu(h)",
    "hardsigmoid": "F.hardsigmoid(h)",
    "hardswish": "F.hardswish(h)",
    "hardtanh": "F.hardtanh(h, -0.3, 0.4)",
    "leaky_relu": "F.leaky_relu(h, 0.2)",
    "lerp": "torch.lerp(h, a, 0.3)",
    "log": "p.log()",
    "log1p": "p.log1p()",
    "log2": "p.log2()",
    "log_sigmoid": "F.logsigmoid(h)",
    "maximum": "torch.maximum(h, a)",
    "minimum": "torch.minimum(h, a)",
    "mish": "F.mish(h)",
    "nan_to_num": "h.nan_to_num()",
    "neg": "-h",
    "pow": "p ** 1.5",
    "reciprocal": "p.reciprocal()",
    "relu": "h.relu()",
    "relu6": "F.relu6(h)",
    "remainder": "torch.remainder(h, 0.7)",
    "rsqrt": "p.rsqrt()",
    "rsub": "torch.rsub(h, 1.5)",
    "selu": "F.selu(h)",
    "sigmoid": "h.sigmoid()",
    "silu": "F.silu(h)",
    "sin": "h.sin()",
    "sinh": "a.sinh()",
    "softplus": "F.softplus(h)",
    "sqrt": "p.sqrt()",
    "square": "h.square()",
    "sub": "h - 2 * a",
    "tan": "a.tan()",
    "tanh": "h.tanh()",
    "threshold": "F.threshold(h, 0.1, 0.2)",
    "mul": "h * a",
    "masked_fill": "h.masked_fill(a > 0.1, 0.3)",
    "alias": "aten.alias(h)",
    "clone": "h.clone()",
    "contiguous": "h.transpose(1, 2).contiguous().transpose(1, 2)",
    "dropout": "F.dropout(h, training=s.training)",
    "alpha_dropout": "F.alpha_dropout(h, training=s.training)",
    "feature_dropout": "F.dropout1d(h, training=s.training)",
    "feature_alpha_dropout": "F.feature_alpha_dropout(h, training=s.training)",
    "native_dropout": "torch.native_dropout(h, 0.5, s.training)[0]",
    "to": "h.to(torch.float64).to(torch.float32)",
    "type_as": "h.type_as(a)",
    "_to_copy": "aten._to_copy(h, dtype=torch.float32)",
    "lift_fresh_copy": "aten.lift_fresh_copy(h)",
    "where": "torch.where(a > 0.1, h, a)",
    "absolute": "aten.absolute(h)",
    "acosh": "(p + 0.1).acosh()",
    "asinh": "h.asinh()",
    "atanh": "a.atanh()",
    "copysign": "torch.copysign(h, a)",
    "deg2rad": "torch.deg2rad(h)",
    "digamma": "p.digamma()",
    "divide": "aten.divide(h, p)",
    "erfc": "h.erfc()",
    "erfinv": "a.erfinv()",
    "float_power": "torch.float_power(p, 1.5).float()",
    "frac": "h.frac()",
    "hardshrink": "F.hardshrink(h)",
    "hypot": "torch.hypot(h, a)",
    "ldexp": "torch.ldexp(h, torch.tensor(2))",
    "lgamma": "p.lgamma()",
    "logaddexp": "torch.logaddexp(h, a)",
    "logaddexp2": "torch.logaddexp2(h, a)",
    "logit": "a.abs().logit(0.1)",
    "negative": "aten.negative(h)",
    "positive": "aten.positive(h)",
    "rad2deg": "torch.rad2deg(h)",
    "rrelu": "F.rrelu(h)",
    "sinc": "h.sinc()",
    "softshrink": "F.softshrink(h)",
    "special_expm1": "torch.special.expm1(a)",
    "subtract": "aten.subtract(h, a, alpha=2)",
    "true_divide": "aten.true_divide(h, p)",
    "xlogy": "torch.xlogy(h, p)",
    "angle": "torch.complex(p, h).angle()",
    "complex": "torch.complex(h, a).abs()",
    "conj": "aten.conj(torch.complex(h, a)).imag",
    "imag": "(torch.complex(h, a) * torch.complex(a, h)).imag",
    "polar": "torch.polar(p, h).imag",
    "real": "torch.complex(h, a).exp().real",
}
STEPS_AND_COMPARISONS = {
    "bitwise_and": "torch.bitwise_and(h > 0.1, a < 0.5) * h",
    "bitwise_not": "(~(h > 0.1)) * h",
    "bitwise_or": "torch.bitwise_or(h > 0.1, a < 0) * h",
    "ceil": "h.ceil()",
    "eq": "(h == a) + h",
    "floor": "h.floor()",
    "floor_divide": "torch.floor_divide(h.detach(), 0.3) + h",
    "ge": "(h >= a) * h",
    "gt": "(h > a) * h",
    "isinf": "h.isinf() + h",
    "isnan": "h.isnan() + h",
    "fix": "h.fix() + h",
    "heaviside": "torch.heaviside(h.detach(), torch.tensor(0.0)) + h",
    "isclose": "torch.isclose(h, a) + h",
    "isfinite": "h.isfinite() * h",
    "signbit": "h.signbit() * h",
    "le": "(h <= a) * h",
    "logical_and": "torch.logical_and(h > 0, a > 0) * h",
    "logical_not": "torch.logical_not(h > 0) * h",
    "logical_or": "torch.logical_or(h > 0, a > 0) * h",
    "logical_xor": "torch.logical_xor(h > 0, a > 0) * h",
    "lt": "(h < a) * h",
    "ne": "(h != a) * h",
    "round": "h.round()",
    "sgn": "h.sgn()",
    "sign": "h.sign()",
    "trunc": "h.trunc()",
    "__and__": "aten.__and__(h > 0.1, a < 0.5) * h",
    "__or__": "aten.__or__(h > 0.1, a < 0) * h",
    "ones_like": "torch.ones_like(h) + h",
    "zeros_like": "torch.zeros_like(h) + h",
    "detach": "h.detach()",
    "rand_like": "torch.rand_like(h) * 0 + h",
    "randn_like": "torch.randn_like(h) * 0 + h",
    "empty_like": "torch.empty_like(h).bernoulli_(0.5) * 0 + h",
    "full_like": "torch.full_like(h, 2.0) + h",
    "bernoulli": "torch.bernoulli(h.sigmoid()) * 0 + h",
}
ELEMENTWISE = {
    **{name: [sequence(lambda_of(text), 8)] for name, text in UNARY.items()},
    **{name: [sequence(lambda_of(text), 8, stuck=True)] for name, text in STEPS_AND_COMPARISONS.items()},
}
