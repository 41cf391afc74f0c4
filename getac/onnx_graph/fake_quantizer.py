"""The quantizer of a training, as the exporter hands it over: one node of the domain getac.

    y = FakeQuantize(x, d, q_m, t)    attributes axis (absent: per tensor), signed, least_bits, most_bits

d, q_m and t are stored in float32, d and q_m of shape () or (size of the axis,), t of shape ().
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.errors import InvalidModelError, UnsupportedModelError
from getac.kernels.domain import EXPONENTS, GREATEST, LEAST, VANISHING, top_of
from getac.onnx_graph.edit import array_of, is_stored

__all__ = ["DOMAIN", "FakeQuantizer", "is_fake_quantizer", "read_fake_quantizer"]

DOMAIN = "getac"
Floats = npt.NDArray[np.float32]
Numbers = TypeVar("Numbers", Floats, npt.NDArray[np.int64])


@dataclass(frozen=True, eq=False)
class FakeQuantizer:
    """The parameters that a quantizer really uses, in float32 as training computes them.

        y = sgn(x) d round(min(|x|, q_m)^t / d)        round half to even; unsigned: negative x count as 0

    Equations (1) to (3) of arXiv 2502.16638.

    Args:
        step: d, cut to the bounds that the numbers of bits set; shape () or (size of the axis,).
        range: q_m, likewise.
        exponent: t.
        high: The greatest integer, round(q_m^t / d), of the shape of the step.
        signed: Whether the lattice is symmetric around 0; otherwise it starts there.
        axis: The dimension of x that has a step and a range of its own per index; None: per tensor.
    """

    step: Floats
    range: Floats
    exponent: np.float32
    high: npt.NDArray[np.int64]
    signed: bool
    axis: int | None

    @property
    def highest(self) -> int:
        return int(self.high.max())

    def along(self, parameter: Numbers, rank: int) -> Numbers:
        """A parameter, shaped to broadcast against an x of a rank."""
        if self.axis is None:
            return parameter
        return parameter.reshape([-1 if i == self.axis % rank else 1 for i in range(rank)])

    def integers(self, x: Floats) -> npt.NDArray[np.int32]:
        """y / d."""
        step, range_ = self.along(self.step, x.ndim), self.along(self.range, x.ndim)
        if not self.signed:
            x = np.maximum(x, np.float32(0))
        with np.errstate(over="ignore", under="ignore"):
            cut = np.minimum(np.abs(x), range_)
            powers = cut if self.exponent == 1 else cut**self.exponent
            magnitudes = np.minimum(np.rint(powers / step), self.along(self.high, x.ndim))
        integers: npt.NDArray[np.int32] = (np.sign(x) * magnitudes).astype(np.int32)
        return integers


def is_fake_quantizer(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == "FakeQuantize"


def read_fake_quantizer(node: ir.Node) -> FakeQuantizer:
    """What a FakeQuantize node says.

    Raises:
        InvalidModelError: Parameters that are no numbers, or do not have their shapes.
        UnsupportedModelError: Parameters that are computed, or integers of more than 16 bits.
    """
    d, q_m, t = (parameter(node, index, name) for index, name in enumerate(("d", "q_m", "t"), 1))
    signed = bool(node.attributes.get_int("signed", 1))
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else None
    x = node.inputs[0]
    sizes = None if x is None or x.shape is None else list(x.shape)
    if t.shape != () or d.shape != q_m.shape or not fits(d, axis, sizes):
        raise InvalidModelError(
            "a quantizer has parameters of other shapes than it needs",
            where=where(node),
            required="t: (); d and q_m: () without an axis, (size of the axis,) with one",
            found=f"t: {t.shape}; d: {d.shape}; q_m: {q_m.shape}; axis: {axis}; x: {sizes}",
        )
    axis = axis if axis is None or sizes is None else axis % len(sizes)
    bits = node.attributes.get_float("least_bits", 2.0), node.attributes.get_float("most_bits", 16.0)
    fewest, most = (np.float32(top_of(b, signed)) for b in bits)
    q_m, exponent = np.clip(q_m, np.float32(LEAST), np.float32(GREATEST)), np.float32(np.clip(t, *EXPONENTS))
    reach = q_m if exponent == 1 else power_of(q_m, exponent)
    step = np.asarray(np.minimum(np.maximum(d, reach / most), reach / fewest))
    top = most if bits[0] == bits[1] else reach / step
    high = np.broadcast_to(np.rint(top), step.shape).astype(np.int64)
    check_high(node, int(high.max()), signed)
    return FakeQuantizer(step, np.asarray(q_m), exponent, high, signed, axis)


def power_of(q_m: Floats, exponent: np.float32) -> Floats:
    """q_m^t, where training can use it."""
    with np.errstate(over="ignore", under="ignore"):
        power: Floats = np.clip(q_m**exponent, np.float32(VANISHING), np.float32(GREATEST))
    return power


def fits(d: Floats, axis: int | None, sizes: Sequence[int | ir.SymbolicDim] | None) -> bool:
    """Whether there is a step for every index of the axis."""
    if axis is None or d.ndim != 1 or sizes is None:
        return d.ndim == (axis is not None)
    size = sizes[axis] if -len(sizes) <= axis < len(sizes) else 0
    return not isinstance(size, int) or size == d.size


def parameter(node: ir.Node, index: int, name: str) -> Floats:
    value = node.inputs[index] if index < len(node.inputs) else None
    if not is_stored(value):
        raise UnsupportedModelError(
            f"{name} of a quantizer is not stored", where=where(node), required="a stored tensor"
        )
    array = np.asarray(array_of(value))
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise InvalidModelError(
            f"{name} of a quantizer is not a finite float32",
            where=where(node),
            found=f"{array.dtype} from {array.min()} to {array.max()}" if array.size else "nothing",
        )
    return array


def check_high(node: ir.Node, high: int, signed: bool) -> None:
    most = 2**15 - 1 if signed else 2**16 - 1
    if high > most:
        raise UnsupportedModelError(
            "a quantizer has too many integers to be written to a file",
            where=where(node),
            required="at most 16 bits",
            found=f"{'-' + str(high) if signed else 0} to {high}",
            hint="train it with at most 16 bits",
        )


def where(node: ir.Node) -> str:
    x = node.inputs[0] if node.inputs else None
    return f"FakeQuantize node {node.name or ''} of {x.name if x is not None else 'nothing'}"
