"""Single fake-quantized layers in the operators of training, and what lowering makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from getac.compression import compress
from getac.onnx_graph.read import load
from getac.options import Options
from getac.passes import SpellQuantizers
from getac.pipeline import Pipeline, State
from getac.runtime import open_session, run

F32 = np.float32
SIGNATURES = {  # of x, y and the weight; the dimension of output units; the attributes
    "Conv": ("N,4,6,6", "N,8,4,4", (8, 4, 3, 3), 0, ""),
    "grouped Conv": ("N,4,6,6", "N,8,4,4", (8, 2, 3, 3), 0, "<group=2>"),
    "depthwise Conv": ("N,16,6,6", "N,16,4,4", (16, 1, 3, 3), 0, "<group=16>"),
    "Gemm": ("N,16", "N,8", (16, 8), 1, ""),
    "transposed Gemm": ("N,16", "N,8", (8, 16), 0, "<transB=1>"),
    "MatMul": ("N,5,16", "N,5,8", (16, 8), 1, ""),
    "ConvTranspose": ("N,4,6,6", "N,8,7,7", (4, 8, 2, 2), 1, ""),
}
KERNELS = {"Conv": {"QLinearConv"}, "Gemm": {"QGemm"}, "MatMul": {"QLinearMatMul", "QGemm"}}


@dataclass(frozen=True)
class Rounding:
    """A quantizer as it is trained: bits, sign, range and exponent."""

    bits: int
    signed: bool
    range: float | np.ndarray
    exponent: float = 1.0

    @property
    def parameters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """d, q_m and t."""
        q_m, t = np.asarray(self.range, F32), F32(self.exponent)
        levels = 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1
        return (np.power(q_m, t) / F32(levels)).astype(F32), q_m, t

    @property
    def step(self) -> np.ndarray:
        return self.parameters[0]


@dataclass(frozen=True)
class Layer:
    """A layer with quantizers on its input, its weight, and its output, each where it is not None."""

    operator: str
    weight: np.ndarray
    bias: np.ndarray | None
    weights: Rounding | None
    inputs: Rounding | None
    outputs: Rounding | None

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(2 if size == "N" else int(size) for size in SIGNATURES[self.operator][0].split(","))

    @property
    def kernels(self) -> set[str]:
        """What it may run as on integers."""
        return KERNELS[self.operator.split()[-1]]

    @property
    def bias_error(self) -> float:
        """How far the rounding of the bias may move a result: half a step of INT32, s_x s_w / 2 at most."""
        assert self.inputs is not None and self.weights is not None
        return 0.0 if self.bias is None else 0.5 * float(self.inputs.step) * float(np.max(self.weights.step))

    def model(self) -> onnx.ModelProto:
        """The layer in standard operators, as training exports it."""
        x, y, _, axis, attributes = SIGNATURES[self.operator]
        lines, names, tensors = [], {}, {"W": self.weight}
        for name, rounding in (("x", self.inputs), ("W", self.weights)):
            names[name] = name if rounding is None else f"{name}Q"
            if rounding is not None:
                lines.append(quantized(names[name], name, rounding, axis))
                tensors |= parameters(name, rounding)
        factors = f"{names['x']}, {names['W']}"
        if self.bias is not None:
            factors, tensors["B"] = f"{factors}, B", self.bias
        result = "y" if self.outputs is None else "c"
        lines.append(f"{result} = {self.operator.split()[-1]}{attributes}({factors})")
        if self.outputs is not None:
            lines.append(quantized("y", "c", self.outputs, axis))
            tensors |= parameters("c", self.outputs)
        return spelled(f"(float[{x}] x) => (float[{y}] y) {{\n" + "\n".join(lines) + "\n}", tensors)


def quantized(result: str, x: str, rounding: Rounding, axis: int) -> str:
    along = f", axis={axis}" if np.ndim(rounding.range) else ""
    signed = int(rounding.signed)
    return f"{result} = getac.FakeQuantize<signed={signed}{along}>({x}, {x}_d, {x}_q, {x}_t)"


def parameters(x: str, rounding: Rounding) -> dict[str, np.ndarray]:
    return {f"{x}_{name}": array for name, array in zip("dqt", rounding.parameters, strict=True)}


def spelled(text: str, tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A graph with FakeQuantize nodes, in the operators that every tool knows."""
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21, "getac": 1]> graph ' + text)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type.lower()}_{index}"
    model = ir.serde.deserialize_model(proto)
    Pipeline([SpellQuantizers()]).run(State(model))
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def lowered(proto: onnx.ModelProto, target: str = "portable") -> ir.Model:
    """The model on the kernels of its quantizers, without calibration data."""
    return compress(load(proto), None, None, Options(sparsity=0.0, target=target)).models.lowered


def output(model: onnx.ModelProto | ir.Model, x: np.ndarray, optimize: bool) -> np.ndarray:
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return run(open_session(source, optimize=optimize), {"x": x})["y"]
