"""Cases for operators that lay out, cut, index and size (see `tests.fx_graph.cases`)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.fx_graph.cases import Case, case, image, sequence, vector, weights

__all__ = ["LAYOUT"]

aten = torch.ops.aten


def picks(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


class Embedded(nn.Module):
    """An embedding by what is largest, and by fixed positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.out = (
            nn.Embedding(6, 8),
            nn.Embedding(9, 8, padding_idx=0),
            nn.Linear(8, 4),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = torch.arange(x.shape[1])
        return self.out(self.words(x.argmax(-1)) + self.places(place))  # type: ignore[no-any-return]


class Rotary(nn.Module):
    """Attention of 2 heads of 4 dimensions, of which neighbours are rotated as pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 4)
        self.register_buffer("angles", torch.arange(5)[:, None] / 10 ** torch.arange(2))

    def rotated(self, heads: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).view(-1, 5, 2, 4).transpose(1, 2) for f in (self.query, self.key, self.value))
        heads = (self.rotated(q) @ self.rotated(k).mT / 2).softmax(-1) @ v
        return self.out(heads.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class InterleavedRotary(Rotary):
    """As GPT-J and RoFormer write it."""

    def rotated(self, heads: torch.Tensor) -> torch.Tensor:
        sine, cosine = (f(self.angles).repeat_interleave(2, 1) for f in (torch.sin, torch.cos))
        turned = torch.stack((-heads[..., 1::2], heads[..., ::2]), -1).flatten(-2)
        return heads * cosine + turned * sine


class ComplexRotary(Rotary):
    """As the first LLaMA writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turns", torch.polar(torch.ones(5, 2), self.angles))

    def rotated(self, heads: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(heads.reshape(*heads.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turns).flatten(3)


class Tied(nn.Module):
    """An embedding whose table is the last layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(6, 8), nn.Linear(8, 6, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.table(x.argmax(-1)).tanh())  # type: ignore[no-any-return]


LAYOUT: dict[str, list[Case]] = {
    "view": [
        sequence(
            lambda s, h: (h.view(h.shape[0], 5, 2, 4) * s.w).view(-1, 5, 8),
            2,
            4,
            parts=lambda: {"w": weights(2, 1)},
        ),
        sequence(lambda s, h: h.view(-1, 8), 8),
        sequence(
            lambda s, h: h.view(torch.int32).view(torch.float32),
            reason="arguments that are not followed: a view of the same bits as another type",
            stuck=True,
        ),
    ],
    "_unsafe_view": [
        sequence(lambda s, h: aten._unsafe_view(h, [h.shape[0], 5, 2, 4]).transpose(2, 3).flatten(2), 2, 4)
    ],
    "reshape": [
        sequence(
            lambda s, h: (
                h.transpose(1, 2).reshape(h.shape[0], 2, 4, 5).permute(0, 3, 2, 1).reshape(h.shape[0], -1, 8)
            ),
            2,
            4,
        ),
        image(
            lambda s, h: h.reshape(h.shape[0], 4, 2, 64).softmax(1).reshape(h.shape),
            2,
            reason="the axis of a softmax",
        ),
    ],
    "unflatten": [
        sequence(
            lambda s, h: (h.unflatten(2, (2, -1)) * s.w).flatten(2), 2, 4, parts=lambda: {"w": weights(2, 1)}
        ),
        sequence(lambda s, h: h.unflatten(-1, (4, 2)).transpose(2, 3).flatten(2), 4, 2),
    ],
    "flatten": [
        image(lambda s, h: h.flatten(2)[..., None], 8),
        vector(lambda s, h: h.view(-1, 2, 4).flatten(1), 2, 4),
    ],
    "ravel": [sequence(lambda s, h: h * s.w.ravel(), 2, 4, parts=lambda: {"w": weights(2, 4)})],
    "squeeze": [
        image(lambda s, h: h.mean((2, 3), keepdim=True).squeeze(-1).squeeze((2,))[..., None, None], 8),
        image(lambda s, h: h.mean((2, 3), keepdim=True)[None].squeeze()[:, :, None, None], 8),
    ],
    "unsqueeze": [sequence(lambda s, h: h.unsqueeze(1) * h.unsqueeze(2), 8)],
    "transpose": [sequence(lambda s, h: h.transpose(1, -1).transpose(-1, 1), 8)],
    "swapaxes": [sequence(lambda s, h: h.swapaxes(1, -1).swapaxes(-1, 1), 8)],
    "permute": [image(lambda s, h: h.permute(0, 3, 1, -2).permute(0, 2, 1, 3), 8)],
    "movedim": [image(lambda s, h: h.movedim(1, -1).movedim((1, -1), (2, 1)), 8)],
    "moveaxis": [image(lambda s, h: h.moveaxis(1, -1).moveaxis(-1, 1), 8)],
    "diff": [sequence(lambda s, h: h.diff(dim=1), 8)],
    "view_as_complex": [case(ComplexRotary, (5, 6), 2, 2, 4)],
    "view_as_real": [
        sequence(lambda s, h: torch.view_as_real(torch.complex(h, h.tanh())).flatten(2), 8, out=16)
    ],
    "glu": [sequence(lambda s, h: F.glu(h), 4, out=4), image(lambda s, h: F.glu(h, 1), 4, out=4)],
    "t": [vector(lambda s, h: h.t().t(), 8)],
    "mT": [sequence(lambda s, h: h.mT.mT, 8)],
    "adjoint": [sequence(lambda s, h: h.adjoint().mT, 8)],
    "numpy_T": [sequence(lambda s, h: h @ s.w.T, 7, 8, out=7, parts=lambda: {"w": weights(7, 8)})],
    "expand": [
        sequence(lambda s, h: h * s.w.expand(h.shape[0], 5, 8), 8, parts=lambda: {"w": weights(1, 1, 8)}),
        sequence(lambda s, h: h * s.w.expand(-1, 8), 8, parts=lambda: {"w": weights(5, 1)}),
        sequence(lambda s, h: h[:, :, None].expand(-1, -1, 3, -1).reshape(-1, 5, 24), 8, 3, out=24),
    ],
    "broadcast_to": [
        sequence(lambda s, h: h * s.w.broadcast_to(h.shape), 8, parts=lambda: {"w": weights(8)})
    ],
    "expand_as": [sequence(lambda s, h: h * s.w.expand_as(h), 8, parts=lambda: {"w": weights(8)})],
    "cat": [
        sequence(
            lambda s, h: torch.cat([h, s.a(h), h.tanh()], -1),
            8,
            7,
            out=23,
            parts=lambda: {"a": nn.Linear(8, 7)},
        ),
        sequence(
            lambda s, h: torch.cat([s.w.expand(h.shape[0], -1, -1), h], 1),
            8,
            parts=lambda: {"w": weights(1, 1, 8)},
        ),
        sequence(lambda s, h: torch.cat([s.e, h], 1), 8, parts=lambda: {"e": torch.empty(0)}),
    ],
    "concat": [sequence(lambda s, h: aten.concat([h, h.tanh()], 2), 8, out=16)],
    "split": [
        sequence(lambda s, h: torch.cat([p.tanh() for p in h.split(3, -1)], -1), 3, 3, 2),
        sequence(lambda s, h: h.split(2, 1)[0], 8),
    ],
    "split_with_sizes": [sequence(lambda s, h: torch.cat(h.split_with_sizes([5, 3], 2)[::-1], 2), 5, 3)],
    "chunk": [
        sequence(lambda s, h: (lambda a, b: a * b.sigmoid())(*h.chunk(2, -1)), 4, out=4),
        sequence(lambda s, h: h.chunk(3, dim=2)[1].tanh(), 3, 3, 2, out=3),
    ],
    "unsafe_chunk": [sequence(lambda s, h: (lambda a, b: a * b)(*h.unsafe_chunk(2, -1)), 4, out=4)],
    "unsafe_split": [sequence(lambda s, h: (lambda a, b: a * b)(*h.unsafe_split(4, -1)), 4, out=4)],
    "tensor_split": [
        sequence(lambda s, h: (lambda a, b: a * b.sigmoid())(*h.tensor_split(2, -1)), 4, out=4),
        sequence(lambda s, h: h.tensor_split([3], dim=-1)[1], 3, 5, out=5),
    ],
    "slice": [
        sequence(lambda s, h: h[..., :3], 3, 5, out=3),
        sequence(lambda s, h: h[..., -3:], 5, 3, out=3),
        sequence(lambda s, h: h[..., :-2].sigmoid() * h[..., 2:], 2, out=6),
        sequence(lambda s, h: h[:, 1:-1] + h[:, :3], 8),
        sequence(lambda s, h: h[..., ::2] * h[..., 1::2].sigmoid(), 4, out=4),
        sequence(lambda s, h: torch.cat([h[..., 2:8:4], h[..., :-2:4]], -1), 2, out=4),
        sequence(lambda s, h: h[:, ::2] + h[:, :3], 8),
        sequence(lambda s, h: h[..., ::3], out=3, reason="sliced in steps"),
        sequence(lambda s, h: h[..., -7::2], out=4, reason="sliced in steps"),
        sequence(lambda s, h: h[..., 2::2], out=3, reason="sliced in steps"),
        case(InterleavedRotary, (5, 6), 2, 2, 4),
        sequence(lambda s, h: aten.slice(h, 2, None, 3), 3, 5, out=3),
        sequence(lambda s, h: aten.slice(h, 2, 1, None), 7, out=7),
    ],
    "slice_scatter": [sequence(lambda s, h: torch.slice_scatter(h, h[:, :2].tanh(), 1, 1, 3), 8)],
    "select": [
        sequence(lambda s, h: h[:, -1] * h.select(1, 0), 8),
        sequence(lambda s, h: h + h[..., 3:4].select(-1, 0)[..., None], 3, 4),
    ],
    "unbind": [
        sequence(
            lambda s, h: (lambda q, k, v: q * k.sigmoid() + v)(*s.w(h).view(-1, 5, 3, 4).unbind(2)),
            8,
            4,
            out=4,
            parts=lambda: {"w": nn.Linear(8, 12)},
        )
    ],
    "stack": [
        sequence(lambda s, h: torch.stack([h, h.tanh()], 1).sum(1), 8),
        sequence(lambda s, h: torch.stack([h, h.tanh()], -1)[..., 0], 8),
    ],
    "embedding": [case(Embedded, (5, 6), 8), case(Tied, (5, 6), 8)],
    "index_select": [
        sequence(lambda s, h: h.index_select(1, s.i), 8, parts=lambda: {"i": picks(0, 2)}),
        sequence(
            lambda s, h: h.index_select(2, s.i),
            2,
            out=2,
            parts=lambda: {"i": picks(0, 2)},
            reason="an indexed axis",
        ),
    ],
    "index": [
        sequence(lambda s, h: h[:, s.i], 8, parts=lambda: {"i": picks(0, 2, 2)}),
        image(lambda s, h: h[:, :, s.i, s.i][..., None], 8, parts=lambda: {"i": picks(0, 2, 2)}),
        image(
            lambda s, h: h.permute(0, 2, 1, 3)[:, s.i, :, s.i].permute(1, 2, 0)[..., None],
            8,
            parts=lambda: {"i": picks(0, 2, 2)},
        ),
        sequence(
            lambda s, h: h[:, s.m], 8, parts=lambda: {"m": torch.tensor([True, False, True, True, False])}
        ),
        sequence(lambda s, h: s.a(h)[h[..., 0] > 0].sum(0), 7, out=7, parts=lambda: {"a": nn.Linear(8, 7)}),
        sequence(lambda s, h: h[h > 0].sum()[None].expand(8), 8, reason="an indexed axis"),
        sequence(
            lambda s, h: torch.cat([h[h > 0], h[h < 0]]).sum()[None].expand(8), 8, reason="an indexed axis"
        ),
    ],
    "index_put": [
        sequence(
            lambda s, h: h.index_put((s.b[:, None], s.i), h[:1, :2].tanh()),
            8,
            parts=lambda: {"b": picks(0, 1), "i": picks(0, 2)},
        ),
        sequence(
            lambda s, h: h.index_put((s.b, s.i), h[0, :2], accumulate=True),
            8,
            parts=lambda: {"b": picks(0, 1), "i": picks(0, 2)},
        ),
    ],
    "index_add": [sequence(lambda s, h: h.index_add(1, s.i, h[:, :2]), 8, parts=lambda: {"i": picks(0, 2)})],
    "index_copy": [
        sequence(lambda s, h: h.index_copy(1, s.i, h[:, :2]), 8, parts=lambda: {"i": picks(4, 2)})
    ],
    "gather": [
        sequence(lambda s, h: h.gather(1, h.argsort(1)), 8),
        sequence(
            lambda s, h: h.gather(2, s.i.expand(h.shape[0], 5, 2)),
            2,
            out=2,
            reason="an indexed axis",
            parts=lambda: {"i": picks(0, 3)},
        ),
    ],
    "scatter": [
        sequence(lambda s, h: h.scatter(1, h.argsort(1), h.tanh()), 8),
        sequence(
            lambda s, h: h.scatter(1, s.i.expand(h.shape[0], -1, 8), 0.5),
            8,
            parts=lambda: {"i": picks(2, 0)[:, None]},
        ),
    ],
    "scatter_add": [sequence(lambda s, h: h.scatter_add(1, h.argsort(1), h.tanh()), 8)],
    "scatter_reduce": [sequence(lambda s, h: h.scatter_reduce(1, h.argsort(1), h.tanh(), "amax"), 8)],
    "topk": [
        sequence(lambda s, h: h.topk(2, dim=1)[0], 8),
        sequence(lambda s, h: h.topk(2)[0], out=2, reason="a sorted axis"),
    ],
    "sort": [sequence(lambda s, h: h.sort(1)[0], 8)],
    "argsort": [sequence(lambda s, h: h.argsort(1) + h, 8)],
    "one_hot": [sequence(lambda s, h: aten.one_hot(h.argmax(1), 5).float() @ h, reason="a graph output")],
    "pixel_shuffle": [
        image(lambda s, h: F.pixel_shuffle(h, 2), 2, out=2, reason="the block of a pixel shuffle")
    ],
    "pixel_unshuffle": [image(lambda s, h: F.pixel_unshuffle(h, 2), 8, out=32)],
    "channel_shuffle": [image(lambda s, h: F.channel_shuffle(h, 2), 2, 4)],
    "native_channel_shuffle": [
        image(lambda s, h: torch.native_channel_shuffle(h.detach(), 2), 2, 4, stuck=True)
    ],
    "im2col": [
        image(lambda s, h: F.unfold(h, 3, padding=1).transpose(1, 2)[..., None].transpose(1, 2), 8, out=72)
    ],
    "col2im": [image(lambda s, h: F.fold(F.unfold(h, 2), (8, 8), 2), 8)],
    "unfold": [sequence(lambda s, h: h.unfold(1, 2, 1).transpose(2, 3), 8)],
    "repeat": [
        sequence(lambda s, h: h.repeat(1, 2, 3), 8, 3, out=24),
        sequence(lambda s, h: h * s.w.repeat(5, 1), 8, parts=lambda: {"w": weights(8)}),
    ],
    "repeat_interleave": [
        sequence(lambda s, h: h.repeat_interleave(3, -1), 8, 3, out=24),
        sequence(lambda s, h: h.repeat_interleave(2, dim=1), 8),
    ],
    "roll": [
        sequence(lambda s, h: h.roll(1, 1), 8),
        image(lambda s, h: h.roll((1, 2), (2, 3)), 8),
        sequence(lambda s, h: h.roll(1, -1), reason="rolled"),
    ],
    "flip": [sequence(lambda s, h: h.flip(1), 8), sequence(lambda s, h: h.flip(-1), reason="reversed")],
    "tril": [image(lambda s, h: h.tril(), 8)],
    "triu": [image(lambda s, h: h.triu(1), 8)],
    "cumsum": [
        sequence(lambda s, h: h.cumsum(1), 8),
        sequence(lambda s, h: h.cumsum(-1), reason="a cumulative sum"),
    ],
    "cumprod": [sequence(lambda s, h: h.cumprod(1), 8)],
    "logcumsumexp": [sequence(lambda s, h: h.logcumsumexp(1), 8)],
    "cummax": [sequence(lambda s, h: h.cummax(1)[0], 8)],
    "cummin": [sequence(lambda s, h: h.cummin(1)[0], 8)],
    "zeros": [sequence(lambda s, h: torch.cat([torch.zeros(h.shape[0], 1, 8), h], 1), 8)],
    "new_zeros": [sequence(lambda s, h: torch.cat([h.new_zeros(h.shape[0], 1, 8), h], 1), 8)],
    "ones": [sequence(lambda s, h: h * torch.ones(5, 8), 8)],
    "new_ones": [sequence(lambda s, h: h * h.new_ones(h.shape), 8)],
    "full": [sequence(lambda s, h: h + torch.full((5, 8), 2.0), 8)],
    "new_full": [sequence(lambda s, h: h + h.new_full((5, 8), 2.0), 8)],
    "empty": [sequence(lambda s, h: h + 0 * torch.empty(5, 8).bernoulli_(0.5), 8)],
    "new_empty": [sequence(lambda s, h: h + 0 * h.new_empty(5, 8).bernoulli_(0.5), 8)],
    "rand": [sequence(lambda s, h: h + 0 * torch.rand(h.shape[0], 5, 8), 8)],
    "randn": [sequence(lambda s, h: h + 0 * torch.randn(5, 8), 8)],
    "arange": [
        sequence(lambda s, h: h * torch.arange(5)[:, None], 8),
        sequence(lambda s, h: h * torch.arange(8), reason="a range"),
    ],
    "linspace": [sequence(lambda s, h: h * torch.linspace(0, 1, 5)[:, None], 8)],
    "eye": [sequence(lambda s, h: torch.eye(5) @ h, 8)],
    "scalar_tensor": [sequence(lambda s, h: h * torch.scalar_tensor(0.5), 8)],
    "sym_size": [sequence(lambda s, h: h.view(h.shape[0], 5, 2, 4).flatten(2), 2, 4)],
    "mul": [sequence(lambda s, h: h.reshape(h.shape[0] * 5, 8), 8)],
    "add": [sequence(lambda s, h: torch.cat([h, torch.zeros(h.shape[0] + 1, 5, 8)], 0), 8)],
    "sub": [sequence(lambda s, h: h[: h.shape[0] - 1], 8)],
    "floordiv": [
        sequence(
            lambda s, h: h.expand(h.shape[0] * 2 // 2, 5, 8) + torch.zeros(h.shape[0] // 2, 1, 1).sum(), 8
        )
    ],
    "mod": [sequence(lambda s, h: h + torch.zeros(h.shape[0] % 7 + 1, 1, 1).sum(), 8)],
}
