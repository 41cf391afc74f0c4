"""Random PyTorch networks, for the property that masked equals sliced.

    python -m tools.random_modules --count 1000

A network grows step by step from an example: a step applies a function (with layers of its own, perhaps) to
values that are there, and the example's result tells the new shape. The same seed gives the same network.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.double_precision import DOUBLE_TOLERANCE
from tools.fx_law import FxOutcome, check_law

__all__ = ["TOLERANCE", "RandomModule", "check", "random_module"]

BATCH, LARGEST = 3, 1024
TOLERANCE = 1e-5  # relative to the largest output
T = TypeVar("T")


class RandomModule(nn.Module):
    """Functions of earlier values, one after another; the last values are what it answers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.layers = nn.ModuleList()
        self.numbers = nn.ParameterList()
        self.steps: list[tuple[Callable[..., Tensor], tuple[int, ...]]] = []
        self.examples: list[Tensor] = []
        self.used: set[int] = set()
        self.outputs: list[int] = []

    def forward(self, x: Tensor) -> list[Tensor]:
        values = [x]
        for function, inputs in self.steps:
            values.append(function(*(values[i] for i in inputs)))
        return [values[i] for i in self.outputs]

    def pick(self, *options: T) -> T:
        return options[int(self.rng.integers(len(options)))]

    def coin(self, probability: float = 0.5) -> bool:
        return bool(self.rng.random() < probability)

    def shape(self, value: int) -> tuple[int, ...]:
        """Without the batch."""
        return tuple(self.examples[value].shape[1:])

    def add(self, function: Callable[..., Tensor], *inputs: int) -> int:
        """Applies a function to values; answers the position of the new one."""
        with torch.no_grad():
            self.examples.append(function(*(self.examples[i] for i in inputs)).clone())
        self.steps.append((function, inputs))
        self.used.update(inputs)
        return len(self.examples) - 1

    def layer(self, layer: nn.Module, x: int) -> int:
        self.layers.append(layer)
        return self.add(lambda h: layer(h), x)

    def parameter(self, *shape: int) -> Callable[[], Tensor]:
        """A new parameter, to be read anew each time: capturing exchanges it for another tensor."""
        self.numbers.append(nn.Parameter(torch.randn(*shape) * 0.5))
        position = len(self.numbers) - 1
        return lambda: self.numbers[position]

    def other(self, x: int) -> int:
        """Another value of the same shape, or the value itself."""
        same = [i for i in range(1, len(self.examples)) if self.shape(i) == self.shape(x)]
        return self.pick(*same)

    def divisor(self, size: int) -> int:
        return self.pick(*(d for d in range(1, size + 1) if size % d == 0))


def random_module(seed: int, steps: int | None = None) -> tuple[RandomModule, Tensor]:
    """A random network of 5 to 30 steps and an input."""
    torch.manual_seed(seed)
    net = RandomModule(seed)
    x = torch.randn(BATCH, *net.pick((6,), (4, 6), (3, 6, 6), (3, 6, 6)))
    net.examples.append(x)
    linear(net, 0) if x.ndim < 4 else net.layer(nn.Conv2d(3, 12, 3, padding=1), 0)
    for _ in range(steps if steps is not None else int(net.rng.integers(5, 31))):
        unused = [i for i in range(1, len(net.examples)) if i not in net.used]
        value = net.pick(*unused) if unused and net.coin(0.7) else int(net.rng.integers(1, len(net.examples)))
        step = net.pick(*STEPS[len(net.shape(value))])
        step(net, value)
    for value in [i for i in range(1, len(net.examples)) if i not in net.used][-4:]:
        net.outputs.append(leave(net, value))
    return net, x


def leave(net: RandomModule, x: int) -> int:
    if net.coin(0.1):
        return x
    return net.layer(nn.Conv2d(net.shape(x)[0], 4, 1), x) if len(net.shape(x)) == 3 else linear(net, x)


def axis(net: RandomModule, x: int) -> int:
    return int(net.rng.integers(len(net.shape(x)))) + 1


def activation(net: RandomModule, x: int) -> None:
    functions: list[Callable[..., Tensor]] = [
        F.relu,
        F.gelu,
        F.silu,
        torch.tanh,
        torch.sigmoid,
        F.softplus,
        torch.abs,
        F.hardswish,
        torch.cos,
        F.leaky_relu,
        lambda h: F.relu(h.clone(), inplace=True),
        lambda h: h.clamp(-1, 1),
        lambda h: torch.tanh(h).exp(),
        lambda h: torch.where(h > 0.1, h, 0.5),
        lambda h: h.masked_fill(h < 0, 0.0),
        lambda h: F.dropout(h, 0.1, training=False),
    ]
    net.add(net.pick(*functions), x)


def residual(net: RandomModule, x: int) -> None:
    functions: list[Callable[..., Tensor]] = [torch.add, torch.add, torch.mul, torch.sub, torch.maximum]
    net.add(net.pick(*functions), x, net.other(x))


def scale(net: RandomModule, x: int) -> None:
    shape = [size if net.coin(0.4) else 1 for size in net.shape(x)]
    functions: list[Callable[..., Tensor]] = [torch.add, torch.mul, torch.sub]
    number, function = net.parameter(*shape), net.pick(*functions)
    net.add(lambda h: function(h, number()), x)


def concat(net: RandomModule, x: int) -> None:
    dim = axis(net, x)
    if net.shape(x)[dim - 1] <= 24:
        net.add(lambda a, b: torch.cat([a, b], dim), x, net.other(x))


def divide(net: RandomModule, x: int) -> None:
    dim = axis(net, x)
    size = net.shape(x)[dim - 1]
    if size < 3:
        return
    count, first = net.pick(2, 3), int(net.rng.integers(1, size))
    part = net.pick(0, 1)
    kind = net.pick(
        lambda h: h.chunk(count, dim)[0],
        lambda h: h.chunk(count, dim)[-1],
        lambda h: h.split([first, size - first], dim)[part],
        lambda h: h.narrow(dim, 0, first),
        lambda h: h.tensor_split(count, dim)[part],
    )
    net.add(kind, x)


def gated(net: RandomModule, x: int) -> None:
    width = net.pick(4, 6, 8)
    layer = nn.Linear(net.shape(x)[-1], 2 * width)
    net.layers.append(layer)

    def gate(h: Tensor) -> Tensor:
        a, b = layer(h).chunk(2, -1)
        return torch.mul(a, b.sigmoid())

    net.add(gate, x)


def regroup(net: RandomModule, x: int) -> None:
    """Views a dimension as two, does something to them, and merges them again."""
    dim = axis(net, x)
    outer = net.divisor(net.shape(x)[dim - 1])
    swapped, number = net.coin(), net.parameter(outer, 1, *(1,) * (len(net.shape(x)) - dim))

    def change(h: Tensor) -> Tensor:
        apart: Tensor = torch.unflatten(h, dim, (outer, -1)) * number()
        return (apart.transpose(dim, dim + 1) if swapped else apart).flatten(dim, dim + 1)

    net.add(change, x)


def reshape(net: RandomModule, x: int) -> None:
    if math.prod(net.shape(x)) <= 4 * LARGEST:
        start = axis(net, x)
        net.add(lambda h: h.flatten(start), x)


def exchange(net: RandomModule, x: int) -> None:
    if max(net.shape(x)) <= 24:
        order = [0, *(int(i) + 1 for i in net.rng.permutation(len(net.shape(x))))]
        net.add(lambda h: h.permute(order), x)


def reduce(net: RandomModule, x: int) -> None:
    dim = axis(net, x)
    functions: list[Callable[..., Tensor]] = [torch.mean, torch.sum, torch.amax]
    function = net.pick(*functions)
    net.add(lambda h: function(h, dim), x)


def moved(net: RandomModule, x: int) -> None:
    dim = axis(net, x)
    net.add(
        net.pick(
            lambda h: h.roll(1, dim), lambda h: h.flip(dim), lambda h: h.cumsum(dim), lambda h: h.softmax(dim)
        ),
        x,
    )


def repeated(net: RandomModule, x: int) -> None:
    dim, times = axis(net, x), net.pick(2, 3)
    if math.prod(net.shape(x)) * times <= LARGEST and net.shape(x)[dim - 1] <= 12:
        net.add(lambda h: h.repeat_interleave(times, dim) if times == 2 else torch.cat([h] * times, dim), x)


def linear(net: RandomModule, x: int) -> int:
    return net.layer(nn.Linear(net.shape(x)[-1], net.pick(6, 8, 12, 24), bias=net.coin()), x)


def layer_norm(net: RandomModule, x: int) -> None:
    net.layer(net.pick(nn.LayerNorm, nn.RMSNorm)(net.shape(x)[-1]), x)


def attention(net: RandomModule, x: int) -> None:
    """Fused or grouped attention with an implicit scale."""
    c = net.shape(x)[-1]
    shared, depth = net.pick(1, 2), net.pick(2, 3)
    heads, causal = shared * net.pick(1, 2), net.coin(0.3)
    layer = nn.Linear(c, (heads + 2 * shared) * depth)
    net.layers.append(layer)

    def attend(h: Tensor) -> Tensor:
        parts = layer(h).split([heads * depth, shared * depth, shared * depth], -1)
        q, k, v = (torch.unflatten(part, -1, (-1, depth)).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=heads != shared)
        return y.transpose(1, 2).flatten(2)

    linear(net, net.add(attend, x))


def recurrent(net: RandomModule, x: int) -> None:
    if net.shape(x)[0] > 6:  # capturing runs every step of it
        return
    cell = net.pick(nn.LSTM, nn.GRU)(net.shape(x)[-1], 5, bidirectional=net.coin(), batch_first=True)
    net.layers.append(cell)
    net.add(lambda h: cell(h)[0], x)


def to_image(net: RandomModule, x: int) -> None:
    channels, size = net.pick(4, 6), net.pick(2, 4)
    made = net.layer(nn.Linear(net.shape(x)[-1], channels * size * size), x)
    net.add(lambda h: h.view(-1, channels, size, size), made)


def convolution(net: RandomModule, x: int) -> None:
    channels, kernel = net.shape(x)[0], net.pick(1, 3)
    groups = net.pick(1, 1, net.divisor(channels), channels)
    out = groups * net.pick(1, 2, 3) if groups > 1 else net.pick(6, 8, 12)
    if min(net.shape(x)[1:]) and out <= 48:
        net.layer(
            nn.Conv2d(channels, out, kernel, net.pick(1, 1, 2), kernel // 2, groups=groups, bias=net.coin()),
            x,
        )


def larger(net: RandomModule, x: int) -> None:
    if max(net.shape(x)[1:]) <= 6:
        made = net.pick(nn.Upsample(scale_factor=2), nn.ConvTranspose2d(net.shape(x)[0], 6, 2, 2))
        net.layer(made, x)


def image_norm(net: RandomModule, x: int) -> None:
    c = net.shape(x)[0]
    net.layer(net.pick(nn.BatchNorm2d(c), nn.GroupNorm(net.divisor(c), c, eps=1e-2), nn.PReLU(c)), x)


def pool(net: RandomModule, x: int) -> None:
    if min(net.shape(x)[1:]) >= 2:
        net.layer(net.pick(nn.MaxPool2d(2), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(1)), x)


def squeeze_excite(net: RandomModule, x: int) -> None:
    c, inner = net.shape(x)[0], net.pick(3, 4)
    down, up = nn.Conv2d(c, inner, 1), nn.Conv2d(inner, c, 1)
    net.layers.extend([down, up])
    net.add(lambda h: h * up(F.relu(down(h.mean((2, 3), keepdim=True)))).sigmoid(), x)


def shuffle(net: RandomModule, x: int) -> None:
    c, h, _ = net.shape(x)
    if c % 4 == 0 and h <= 6:
        net.add(lambda v: F.pixel_shuffle(v, 2), x)
    elif h % 2 == 0 and c <= 12 and net.shape(x)[2] % 2 == 0:
        net.add(lambda v: F.pixel_unshuffle(v, 2), x)


def tokens(net: RandomModule, x: int) -> None:
    net.add(lambda h: h.flatten(2).transpose(1, 2), x)


ANY: list[Callable[[RandomModule, int], Any]] = [
    activation,
    activation,
    residual,
    residual,
    scale,
    concat,
    divide,
    regroup,
    repeated,
    moved,
]
STEPS: dict[int, list[Callable[[RandomModule, int], Any]]] = {
    1: [*ANY, linear, linear, linear, gated, to_image],
    2: [*ANY, linear, linear, gated, attention, attention, layer_norm, recurrent, reduce, reshape, exchange],
    3: [
        *ANY,
        convolution,
        convolution,
        convolution,
        larger,
        image_norm,
        image_norm,
        pool,
        squeeze_excite,
        shuffle,
        tokens,
        reduce,
        reshape,
        exchange,
    ],
}


def check(seed: int, *, double: bool = False) -> FxOutcome:
    """Grows one network and holds it to the law; every eighth, which captures slowly, at two batch sizes.

    Args:
        double: Whether to compute in float64, where rounding vanishes and a bug does not.
    """
    net, x = random_module(seed)
    if double:
        net, x = net.double(), x.double()
    return check_law(net, (x,), seed=seed, other_batch=BATCH + 2 if seed % 8 == 0 else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    worst, failed, began = 0.0, 0, time.monotonic()
    for seed in range(options.first, options.first + options.count):
        try:
            outcome = check(seed)
        except Exception as error:  # any failure is what we are looking for
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        worst = max(worst, outcome.difference)
        if outcome.difference > TOLERANCE:
            exact = check(seed, double=True).difference
            failed += exact > DOUBLE_TOLERANCE
            print(f"seed {seed}: difference {outcome.difference:.1e}, in float64 {exact:.1e}")
    seconds = time.monotonic() - began
    print(f"{options.count} networks, {failed} failed, worst difference {worst:.1e}, {seconds:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
