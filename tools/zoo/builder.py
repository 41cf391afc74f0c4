"""Layers with seeded random weights, so that networks are written without a training framework."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.zoo.graph import Graph, Value

__all__ = ["GraphBuilder", "Value"]


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def window(
    x: Value, kernel: int | tuple[int, int], stride: int, pad: int | tuple[int, int]
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Returns the attributes of a sliding window over (C, H, W), and the (H, W) that it leaves."""
    k, p = pair(kernel), pair(pad)
    height, width = ((x.shape[i + 1] + 2 * p[i] - k[i]) // stride + 1 for i in range(2))
    return {"kernel_shape": k, "strides": (stride, stride), "pads": p + p}, (height, width)


class GraphBuilder(Graph):
    """Appends operators to a graph; each method returns the value that its operator makes.

    Weights follow He's initialisation (arXiv 1502.01852); biases and all four parameters of a batch
    normalisation are random too, so that no folding rule passes by luck.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__(name)
        self._rng = np.random.default_rng(seed)

    # Layers with parameters

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        pad: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = False,
    ) -> Value:
        attributes, size = window(x, kernel, stride, pad)
        inputs: list[Value | str] = [x, self._weight("conv", (channels, x.channels // groups, *pair(kernel)))]
        if bias:
            inputs.append(self._bias("conv", channels))
        return self.emit("Conv", inputs, (channels, *size), group=groups, **attributes)

    def conv_transpose(self, x: Value, channels: int, factor: int = 2) -> Value:
        """Enlarges by `factor` without overlap; the weight is (in, out, k, k), so its fan-in is `in`."""
        weight = self._normal((x.channels, channels, factor, factor), math.sqrt(2 / x.channels))
        name = self.parameter("convtranspose", "weight", weight)
        inputs = (x, name, self._bias("convtranspose", channels))
        shape = (channels, *(size * factor for size in x.shape[1:]))
        return self.emit("ConvTranspose", inputs, shape, kernel_shape=pair(factor), strides=pair(factor))

    def batch_norm(self, x: Value) -> Value:
        op, n = "batchnormalization", x.channels
        parameters = {
            "gamma": self._rng.uniform(0.5, 1.5, n),
            "beta": self._rng.normal(0, 0.2, n),
            "mean": self._rng.normal(0, 0.2, n),
            "var": self._rng.uniform(0.5, 1.5, n),
        }
        names = [self.parameter(op, name, array) for name, array in parameters.items()]
        return self.emit("BatchNormalization", [x, *names], x.shape, epsilon=1e-5)

    def layer_norm(self, x: Value) -> Value:
        op, n = "layernormalization", x.shape[-1]
        scale = self.parameter(op, "scale", self._rng.uniform(0.5, 1.5, n))
        return self.emit("LayerNormalization", [x, scale, self._bias(op, n)], x.shape, axis=-1)

    def gemm(self, x: Value, features: int, *, transposed: bool = True) -> Value:
        """x W^T + b, as torch writes it; x W + b with `transposed=False`."""
        weight = self._normal((features, x.channels), math.sqrt(2 / x.channels))
        name = self.parameter("gemm", "weight", weight if transposed else weight.T)
        inputs = (x, name, self._bias("gemm", features))
        return self.emit("Gemm", inputs, (features,), transB=int(transposed))

    def linear(self, x: Value, features: int) -> Value:
        """MatMul and Add over the last dimension, as exporters write a linear layer of any rank."""
        weight = self._normal((x.shape[-1], features), math.sqrt(2 / x.shape[-1]))
        shape = (*x.shape[:-1], features)
        product = self.emit("MatMul", [x, self.parameter("matmul", "weight", weight)], shape)
        return self.emit("Add", [product, self._bias("add", features)], shape)

    def embedding(self, rows: Value, words: int, width: int) -> Value:
        """Looks up a row of a table for each of some integers."""
        table = self.parameter("gather", "table", self._normal((words, width), 0.02))
        return self.emit("Gather", [table, rows], (*rows.shape, width), axis=0)

    # Operators without parameters

    def unary(self, op: str, x: Value, **attributes: Any) -> Value:
        return self.emit(op, [x], x.shape, **attributes)

    def relu(self, x: Value) -> Value:
        return self.unary("Relu", x)

    def relu6(self, x: Value) -> Value:
        bounds = [self.constant(f"clip.{v}", np.array(v, np.float32)) for v in (0, 6)]
        return self.emit("Clip", [x, *bounds], x.shape)

    def binary(self, op: str, a: Value, b: Value) -> Value:
        """An element-wise operator; `b` may be smaller and is then broadcast."""
        return self.emit(op, [a, b], a.shape)

    def add(self, a: Value, b: Value) -> Value:
        return self.binary("Add", a, b)

    def concat(self, *values: Value) -> Value:
        """Joins along the channels."""
        shape = (sum(value.channels for value in values), *values[0].shape[1:])
        return self.emit("Concat", values, shape, axis=1)

    def max_pool(self, x: Value, kernel: int, stride: int, pad: int = 0) -> Value:
        attributes, size = window(x, kernel, stride, pad)
        return self.emit("MaxPool", [x], (x.channels, *size), **attributes)

    def average_pool(
        self, x: Value, kernel: int, stride: int, pad: int = 0, *, count_include_pad: bool = False
    ) -> Value:
        attributes, size = window(x, kernel, stride, pad)
        attributes["count_include_pad"] = int(count_include_pad)
        return self.emit("AveragePool", [x], (x.channels, *size), **attributes)

    def global_average_pool(self, x: Value) -> Value:
        return self.emit("GlobalAveragePool", [x], (x.channels, 1, 1))

    def flatten(self, x: Value) -> Value:
        return self.emit("Flatten", [x], (math.prod(x.shape),), axis=1)

    def reshape(self, x: Value, target: Sequence[int], shape: tuple[int, ...]) -> Value:
        """Reshapes to `shape`; `target` is what the file says, batch included, with ONNX's 0 and -1."""
        name = self.parameter("reshape", "shape", np.array(target), np.int64)
        return self.emit("Reshape", [x, name], shape)

    def transpose(self, x: Value, *permutation: int) -> Value:
        """Permutes; dimension 0 is the batch, as in the file."""
        shape = tuple(x.shape[axis - 1] for axis in permutation[1:])
        return self.emit("Transpose", [x], shape, perm=permutation)

    def split(self, x: Value, *sizes: int) -> list[Value]:
        """Cuts along the channels."""
        name = self.parameter("split", "sizes", np.array(sizes), np.int64)
        return self.emit_all("Split", [x, name], [(size, *x.shape[1:]) for size in sizes], axis=1)

    def classify(self, x: Value, classes: int) -> Value:
        """Averages each channel over the image and ends in one Gemm."""
        return self.gemm(self.flatten(self.global_average_pool(x)), classes)

    # Random numbers

    def _normal(self, shape: tuple[int, ...], deviation: float) -> NDArray[Any]:
        return self._rng.normal(0, deviation, shape)

    def _weight(self, op: str, shape: tuple[int, ...]) -> str:
        return self.parameter(op, "weight", self._normal(shape, math.sqrt(2 / math.prod(shape[1:]))))

    def _bias(self, op: str, size: int) -> str:
        return self.parameter(op, "bias", self._normal((size,), 0.1))
