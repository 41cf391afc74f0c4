"""The small networks that producers quantize.

Every producer has a CNN, a perceptron and a transformer layer; some have more: a CNN of many kinds of
operators, and recurrent ones.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MORE", "NETWORKS", "SMALL", "Network", "Produced", "Size", "export", "make"]


@dataclass(frozen=True)
class Size:
    """How large the networks are: channels and image, features, and the sequence."""

    channels: int
    image: int
    features: int
    hidden: int
    heads: int
    tokens: int
    batch: int = 2


SMALL = Size(channels=8, image=8, features=16, hidden=32, heads=2, tokens=5)


@dataclass(frozen=True)
class Network:
    """A float module in evaluation mode and inputs to calibrate with, the first to export with."""

    module: nn.Module
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Produced:
    """A quantized model as a tool wrote it.

    Args:
        form: What the tool calls the form, for people.
        network: Which of `NETWORKS` or `MORE` it is.
        standard: The same in ONNX's own operators, where the tool's are others.
    """

    producer: str
    form: str
    network: str
    model: onnx.ModelProto
    inputs: tuple[Tensor, ...]
    standard: onnx.ModelProto | None = None


class Residual(nn.Module):
    """Two convolutions around a shortcut, as in a ResNet, with batch normalisation."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        c = size.channels
        self.stem, self.bn = nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.inner, self.outer = nn.Conv2d(c, 2 * c, 3, padding=1), nn.Conv2d(2 * c, c, 1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn(self.stem(x)))
        x = x + self.outer(self.relu2(self.inner(x)))
        return self.head(self.pool(x).flatten(1))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A transformer layer with the norms in front."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        d, self.heads = size.features, size.heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.up, self.gelu, self.down = nn.Linear(d, size.hidden), nn.GELU(), nn.Linear(size.hidden, d)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        y = self.norm1(x)
        q, k, v = (
            f(y).view(n, t, self.heads, d // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5).softmax(-1)
        x = x + self.o((weights @ v).transpose(1, 2).reshape(n, t, d))
        return x + self.down(self.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class Mixed(nn.Module):
    """A depthwise convolution around a shortcut, two branches end to end, an average, a stride."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        c = size.channels
        self.stem, self.deep = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.bn, self.point = nn.BatchNorm2d(c), nn.Conv2d(c, c, 1)
        self.side, self.down = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(2 * c, 2 * c, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * c, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.point(F.relu(self.bn(self.deep(x)))))
        x = F.avg_pool2d(torch.cat([x, F.relu(self.side(x))], 1), 2)
        x = F.adaptive_avg_pool2d(F.relu(self.down(x)), 1)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """A recurrent layer, and a linear one on its last state."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], size: Size) -> None:
        super().__init__()
        self.layer, self.head = (
            kind(size.features, size.hidden, batch_first=True),
            nn.Linear(size.hidden, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])  # type: ignore[no-any-return]


def perceptron(size: Size) -> nn.Module:
    layers = [
        nn.Linear(size.features, size.hidden),
        nn.ReLU(),
        nn.Linear(size.hidden, size.hidden),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.Linear(size.hidden, 10))


Family = tuple[Callable[[Size], nn.Module], Callable[[Size], tuple[int, ...]]]


def images(size: Size) -> tuple[int, ...]:
    return size.batch, 3, size.image, size.image


def sequences(size: Size) -> tuple[int, ...]:
    return size.batch, size.tokens, size.features


NETWORKS: dict[str, Family] = {
    "CNN": (Residual, images),
    "MLP": (perceptron, lambda size: (size.batch, size.features)),
    "transformer": (Layer, sequences),
}
MORE: dict[str, Family] = {
    "mixed CNN": (Mixed, images),
    "LSTM": (partial(Recurrent, nn.LSTM), sequences),
    "GRU": (partial(Recurrent, nn.GRU), sequences),
}


def make(name: str, size: Size = SMALL, seed: int = 0) -> Network:
    """A network with random weights, and batch statistics that are not those of its start."""
    torch.manual_seed(seed)
    build, shape = {**NETWORKS, **MORE}[name]
    module = build(size)
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            assert one.running_mean is not None and one.running_var is not None
            one.running_mean.normal_(0, 0.2)
            one.running_var.uniform_(0.5, 1.5)
    return Network(module.eval(), tuple(torch.randn(shape(size)) for _ in range(4)))


def export(
    module: nn.Module, example: Tensor, *, dynamo: bool = True, optimize: bool = False
) -> onnx.ModelProto:
    """torch's ONNX exporter; without dynamo the one that traces, which knows torch.ao's fake quantizers."""
    if dynamo:
        program = torch.onnx.export(module, (example,), dynamo=True, optimize=optimize, verbose=False)
        assert program is not None
        return program.model_proto
    stream = io.BytesIO()
    with warnings.catch_warnings():  # that it is the old one
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            stream,  # type: ignore[arg-type]  # this exporter takes it
            dynamo=False,
            opset_version=17,
            input_names=["x"],
        )
    return onnx.load_from_string(stream.getvalue())
