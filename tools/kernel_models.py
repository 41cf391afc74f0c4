"""Models that repeat one layer side by side, in the forms that `getac lower` writes, to time one kernel.

    x -> layer -> crop -+
      -> layer -> crop -+- Concat -> y       what n layers take more than one, over n - 1, is one layer

What surrounds the layers (an input that is quantized, or laid out anew for the kernel; the call itself) is
there once whatever n is, and drops out of the difference. A crop keeps one position of what a layer made, so
that nothing is measured but the layer. (That of an integer layer comes back to floats, which takes it a
microsecond longer: nothing where it matters.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from getac.data.calibration import CalibrationData
from getac.kernel_costs import Kind, LayerShape, Strategy
from getac.onnx_graph.signature import signature_of
from getac.passes import (
    Calibrate,
    FoldQuantizers,
    InferShapes,
    LowerIntegers,
    Pipeline,
    QuantizeWeights,
    RemoveDead,
    State,
)
from tools.zoo.builder import GraphBuilder, Value

__all__ = ["Case", "Feed", "addition_model", "feed", "idle_model", "layer_model", "pair_model"]

BLOCK = 32
"""Weights of MatMulNBits that share a scale: onnxruntime's own default."""

Feed = dict[str, npt.NDArray[Any]]
Layer = Callable[[GraphBuilder, Value], Value]


@dataclass(frozen=True)
class Case:
    """What a layer works on.

    Args:
        side: Height and width of the image of a convolution; rows of a matrix product.
    """

    kind: Kind
    channels: int
    side: int

    @property
    def is_image(self) -> bool:
        return self.kind is not Kind.LINEAR

    @property
    def shape(self) -> LayerShape:
        return LayerShape.square(self.kind, self.channels, self.side**2 if self.is_image else self.side)

    @property
    def sample(self) -> tuple[int, ...]:
        """The sizes of one sample of the input."""
        into = self.shape.channels_in
        return (into, self.side, self.side) if self.is_image else (into,)

    @property
    def elements(self) -> int:
        """Entries of what the layer makes."""
        return self.channels * self.shape.positions

    def layer(self, g: GraphBuilder, x: Value) -> Value:
        """The layer as exporters write it: a convolution with a Relu, a Gemm with its bias."""
        if not self.is_image:
            return g.gemm(x, self.channels)
        window = round(self.shape.taps**0.5)
        y = g.conv(x, self.channels, window, pad=window // 2, groups=self.shape.groups, bias=True)
        return g.relu(y)

    def crop(self, g: GraphBuilder, x: Value) -> Value:
        """One position of a layer's result."""
        if self.is_image:
            return g.max_pool(x, 1, self.side)
        ends = [g.constant(name, np.array([k], np.int64)) for name, k in (("zero", 0), ("one", 1))]
        return g.emit("Slice", [x, *ends, ends[0]], x.shape)


def feed(case: Case) -> Feed:
    """One input, around zero."""
    rows = 1 if case.is_image else case.side
    return {"x": np.random.default_rng(0).normal(size=(rows, *case.sample)).astype(np.float32)}


def layer_model(case: Case, strategy: Strategy, repeats: int) -> bytes:
    """Layers of one case side by side; integer ones are calibrated on the input that they are timed on."""
    if strategy in (Strategy.WEIGHT_ONLY_8, Strategy.WEIGHT_ONLY_4):
        return weight_only_model(case, 8 if strategy is Strategy.WEIGHT_ONLY_8 else 4, repeats)
    return lowered(case, [case.layer], repeats, [strategy is Strategy.INTEGER])


def pair_model(case: Case, first: Strategy, second: Strategy, repeats: int) -> bytes:
    """Two layers in a row, which may be of two types."""
    integer = [one is Strategy.INTEGER for one in (first, second)]
    return lowered(case, [case.layer, case.layer], repeats, integer)


def addition_model(case: Case, strategy: Strategy, added: bool, repeats: int) -> bytes:
    """Two layers, with or without an addition of their results in front of the second one's input."""

    def layer_and_sum(g: GraphBuilder, x: Value) -> Value:
        y = case.layer(g, x)
        return g.add(y, x) if added else y

    return lowered(case, [layer_and_sum, case.layer], repeats, [strategy is Strategy.INTEGER] * 2)


def idle_model(nodes: int) -> bytes:
    """Operators on a single number, one after the other: what a node takes that has nothing to do."""
    g = GraphBuilder("idle")
    x = g.input("x", 1)
    for _ in range(nodes):
        x = g.unary("Tanh", x)
    return serialized(g.build(x))


def lowered(case: Case, chain: Sequence[Layer], repeats: int, integer: Sequence[bool]) -> bytes:
    """Chains side by side, lowered where a layer of the chain shall run on integers."""
    g = GraphBuilder("kernels")
    x = g.input("x", *case.sample)
    ends = []
    for _ in range(repeats):
        y = x
        for one in chain:
            y = one(g, y)
        ends.append(case.crop(g, y))
    proto = g.build(g.concat(*ends))
    return on_integers(proto, feed(case), integer) if any(integer) else serialized(proto)


def on_integers(proto: onnx.ModelProto, inputs: Feed, integer: Sequence[bool]) -> bytes:
    """The passes that write integer kernels, with the layers in turn on integers or in floats."""
    model = ir.serde.deserialize_model(proto)
    data = CalibrationData.open(inputs, signature_of(model))
    layers = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    floats = {node: "timed" for i, node in enumerate(layers) if not integer[i % len(integer)]}
    passes = (FoldQuantizers(), InferShapes(), QuantizeWeights(), Calibrate(), LowerIntegers(), RemoveDead())
    state = State(model, calibration=data, bindings=data.settle(), floats=floats)
    return serialized(ir.serde.serialize_model(Pipeline(passes).run(state).model))


def weight_only_model(case: Case, bits: int, repeats: int) -> bytes:
    """MatMul behind a DequantizeLinear in blocks along K: onnxruntime makes MatMulNBits of the two."""
    g = GraphBuilder("weight-only products")
    x, sizes, rng = g.input("x", case.channels), (case.channels, case.channels), np.random.default_rng(0)
    ends, stored = [], []
    for i in range(repeats):
        stored += stored_blocks(f"w{i}", case.channels, bits, rng)
        w = g.emit("DequantizeLinear", [f"w{i}.int", f"w{i}.scale"], sizes, axis=0, block_size=BLOCK)
        ends.append(case.crop(g, g.emit("MatMul", [x, w], (case.channels,))))
    proto = g.build(g.concat(*ends))
    proto.graph.initializer.extend(stored)
    return serialized(proto)


def stored_blocks(name: str, channels: int, bits: int, rng: np.random.Generator) -> list[onnx.TensorProto]:
    """A square matrix of integers, and the scales of its blocks."""
    high = 2 ** (bits - 1) - 1
    integers = rng.integers(-high, high + 1, (channels, channels))
    kind = TensorProto.INT4 if bits == 4 else TensorProto.INT8
    scales = np.full((-(-channels // BLOCK), channels), 0.5 / high / channels**0.5, np.float32)
    return [
        helper.make_tensor(f"{name}.int", kind, integers.shape, integers.ravel()),
        numpy_helper.from_array(scales, f"{name}.scale"),
    ]


def serialized(proto: onnx.ModelProto) -> bytes:
    return bytes(proto.SerializeToString())
