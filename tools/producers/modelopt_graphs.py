"""Graphs in the forms that NVIDIA's Model Optimizer documents, written by hand: it is not installed here.

- INT8: QuantizeLinear and DequantizeLinear with zero points of 0 around every input, weights per channel
  rounded when the graph runs (W -> Q -> DQ);
- INT4 AWQ: weights of INT4 behind a DequantizeLinear in blocks of the input dimension, the inputs divided by
  AWQ's scales before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import torch

from tools.onnx_text import model_of
from tools.producers.networks import SMALL, Produced, Size

__all__ = ["produced"]

Floats = npt.NDArray[np.float32]
Tensors = dict[str, npt.NDArray[np.generic]]
Part = tuple[str, Mapping[str, npt.NDArray[np.generic]]]
ZERO, F32 = np.asarray(np.int8(0)), np.float32


def activation(name: str, source: str, top: float) -> tuple[str, Tensors]:
    text = f"{name}_q = QuantizeLinear({source}, {name}_s, zero)  "
    text += f"{name} = DequantizeLinear({name}_q, {name}_s, zero)  "
    return text, {f"{name}_s": np.asarray(top / 127, F32), "zero": ZERO}


def rounded_weight(name: str, weight: Floats, axis: int) -> tuple[str, Tensors]:
    """W -> Q -> DQ, per channel."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = (np.abs(weight).max(axis=others) / 127).astype(F32)
    text = f"{name}_q = QuantizeLinear<axis = {axis}>({name}_f, {name}_s, {name}_z)  "
    text += f"{name} = DequantizeLinear<axis = {axis}>({name}_q, {name}_s, {name}_z)  "
    return text, {f"{name}_f": weight, f"{name}_s": scale, f"{name}_z": np.zeros(scale.shape, np.int8)}


def block_weight(name: str, weight: Floats, block: int) -> tuple[str, Tensors]:
    """W (K, N) as INT4 behind a DequantizeLinear in blocks of K."""
    parts = weight.reshape(-1, block, weight.shape[1])
    scale = (np.abs(parts).max(axis=1) / 7).astype(F32)
    integers = np.rint(parts / scale[:, None]).clip(-8, 7).reshape(weight.shape)
    text = f"{name} = DequantizeLinear<axis = 0, block_size = {block}>({name}_i, {name}_s)  "
    return text, {f"{name}_i": integers.astype(ml_dtypes.int4), f"{name}_s": scale}


def written(
    body: Sequence[tuple[str, Mapping[str, npt.NDArray[np.generic]]]], shape: tuple[int, ...]
) -> onnx.ModelProto:
    text = "".join(part for part, _ in body)
    return model_of(text, {"x": shape}, {name: array for _, new in body for name, array in new.items()})


def random(*shape: int) -> Floats:
    fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
    numbers = np.random.default_rng(sum(shape)).normal(size=shape).astype(F32)
    scaled: Floats = numbers / F32(fan_in**0.5)
    return scaled


def convolutions(size: Size) -> onnx.ModelProto:
    c, image = size.channels, (size.batch, 3, size.image, size.image)
    pads = "pads = [1, 1, 1, 1]"
    body: list[Part] = [
        activation("a", "x", 4), rounded_weight("w", random(c, 3, 3, 3), 0),
        (f"b = Conv<{pads}>(a, w, wb)  r = Relu(b)  ", {"wb": random(c, 1)[:, 0]}),
        activation("d", "r", 4), rounded_weight("v", random(2 * c, c, 3, 3), 0),
        (f"e = Conv<{pads}>(d, v)  f = Relu(e)  g = GlobalAveragePool(f)  h = Flatten(g)  ", {}),
        activation("i", "h", 2), rounded_weight("u", random(2 * c, 10), 1),
        ("y = MatMul(i, u)", {}),
    ]  # fmt: skip
    return written(body, image)


def perceptron(size: Size) -> onnx.ModelProto:
    f, h = size.features, size.hidden
    body: list[Part] = [
        activation("a", "x", 4), rounded_weight("w", random(f, h), 1),
        ("b = MatMul(a, w)  r = Relu(b)  ", {}),
        activation("d", "r", 4), rounded_weight("v", random(h, 10), 1),
        ("y = MatMul(d, v)", {}),
    ]  # fmt: skip
    return written(body, (size.batch, f))


def awq(size: Size) -> onnx.ModelProto:
    """The feed-forward part of a transformer, with AWQ's scales in front of each product."""
    f, h, block = size.features, size.hidden, 16
    scales = {name: np.linspace(0.5, 2, n, dtype=F32) for name, n in (("p", f), ("q", h))}
    body: list[Part] = [
        ("n = LayerNormalization(x, g)  a = Mul(n, p)  ", {"g": np.ones(f, F32), "p": scales["p"]}),
        block_weight("w", random(f, h) / scales["p"][:, None], block),
        ("b = MatMul(a, w)  c = Gelu(b)  d = Mul(c, q)  ", {"q": scales["q"]}),
        block_weight("v", random(h, f) / scales["q"][:, None], block),
        ("e = MatMul(d, v)  y = Add(e, x)", {}),
    ]
    return written(body, (size.batch, size.tokens, f))


def produced(size: Size = SMALL) -> Iterator[Produced]:
    for form, name, build in (
        ("INT8", "CNN", convolutions),
        ("INT8", "MLP", perceptron),
        ("INT4 AWQ", "transformer", awq),
    ):
        model = build(size)
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
        torch.manual_seed(0)
        yield Produced("modelopt (by hand)", form, name, model, tuple(torch.randn(shape) for _ in range(4)))
