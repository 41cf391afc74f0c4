"""Cases for layers, norms, pooling, reductions, recurrence and attention (see `tests.fx_graph.cases`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fx_graph.cases import Case, case, image, sequence, vector, volume, weights

__all__ = ["LAYERS"]


def add_row(h: Tensor, row: Tensor) -> Tensor:
    """Uses a reduced value and the whole."""
    return h + row


class Attention(nn.Module):
    """Self-attention over (B, T, 6) with `heads` of size 3, `shared` of them for keys and values."""

    def __init__(
        self,
        heads: int = 2,
        shared: int = 2,
        masked: bool = False,
        fused: bool = False,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.heads, self.shared, self.fused, self.options = heads, shared, fused, options
        self.dropout = dropout
        self.q = nn.Linear(6, 3 * (heads + 2 * shared if fused else heads))
        if not fused:
            self.k, self.v = nn.Linear(6, 3 * shared, bias=False), nn.Linear(6, 3 * shared)
        self.out = nn.Linear(3 * heads, 4)
        self.mask = nn.Parameter(torch.randn(heads, 5, 5)) if masked else None

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        if self.fused:
            parts = self.q(x).split([3 * self.heads, 3 * self.shared, 3 * self.shared], dim=-1)
        else:
            parts = self.q(x), self.k(x), self.v(x)
        q, k, v = (part.view(b, t, -1, 3).transpose(1, 2) for part in parts)
        dropped = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, self.mask, dropped, **self.options)
        return self.out(y.transpose(1, 2).reshape(b, t, -1))  # type: ignore[no-any-return]


class Steps(nn.Module):
    """A recurrent cell, step by step from a zero state."""

    def __init__(self, kind: type[nn.RNNCellBase], states: int = 1, **options: Any) -> None:
        super().__init__()
        self.states = states
        self.into = nn.Linear(6, 7)
        self.cell = kind(7, 5, **options)
        self.out = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in self.into(x).unbind(1):
            state = self.cell(step, state)
        return self.out(state[0] if self.states > 1 else state)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """A recurrent layer between two others; the last states are used, too."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.into = nn.Linear(6, 7)
        self.cell = kind(7, 5, **options)
        self.out = nn.Linear(5 * (2 if options.get("bidirectional") else 1), 4)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.cell(self.into(x))
        last = state[0] if isinstance(state, tuple) else state
        return self.out(y), self.last(last[-1])


def conv(kind: type[nn.Module], *args: Any, **kwargs: Any) -> Any:
    return lambda: {"conv": kind(*args, **kwargs)}


def ran(s: Any, h: Tensor) -> Tensor:
    return F.relu(s.conv(h))  # type: ignore[no-any-return]


def norm(kind: type[nn.Module], *args: Any, **kwargs: Any) -> Any:
    return lambda: {"norm": kind(*args, **kwargs)}


def normed(s: Any, h: Tensor) -> Tensor:
    return s.norm(h)  # type: ignore[no-any-return]


STATEFUL = {"track_running_stats": True, "affine": True}

LAYERS: dict[str, list[Case]] = {
    "linear": [
        sequence(lambda s, h: s.a(h), 8, 7, out=7, parts=lambda: {"a": nn.Linear(8, 7, bias=False)}),
        sequence(
            lambda s, h: F.linear(h, s.w, s.b),
            7,
            8,
            out=7,
            parts=lambda: {"w": weights(7, 8), "b": weights(7)},
        ),
        sequence(lambda s, h: F.linear(F.linear(h, s.w), s.w.t()), 7, 8, parts=lambda: {"w": weights(7, 8)}),
    ],
    "matmul": [
        sequence(lambda s, h: h @ s.w, 8, 7, out=7, parts=lambda: {"w": weights(8, 7)}),
        sequence(lambda s, h: h @ (h.transpose(1, 2) @ h), 8),
    ],
    "bmm": [sequence(lambda s, h: torch.bmm(h, torch.bmm(h.transpose(1, 2), h)), 8)],
    "mm": [vector(lambda s, h: torch.mm(h, s.w), 8, 7, out=7, parts=lambda: {"w": weights(8, 7)})],
    "mv": [
        sequence(
            lambda s, h: s.b * torch.mv(s.w, s.v) + h,
            8,
            7,
            parts=lambda: {"w": weights(8, 7), "v": weights(7), "b": weights(8)},
        )
    ],
    "dot": [
        sequence(lambda s, h: h * torch.dot(s.v, s.w), 7, 8, parts=lambda: {"v": weights(7), "w": weights(7)})
    ],
    "addmm": [
        vector(
            lambda s, h: torch.addmm(s.b, h, s.w),
            8,
            7,
            out=7,
            parts=lambda: {"w": weights(8, 7), "b": weights(7)},
        ),
        vector(lambda s, h: torch.addmm(h, h, s.w, beta=0.5, alpha=2), 8, parts=lambda: {"w": weights(8, 8)}),
        vector(
            lambda s, h: torch.addmm(h.sigmoid(), h, s.w, beta=0).sum(-1, keepdim=True),
            8,
            out=1,
            parts=lambda: {"w": weights(8, 8)},
        ),
    ],
    "baddbmm": [
        sequence(lambda s, h: torch.baddbmm(h, h, h.transpose(1, 2) @ h), 8),
        sequence(lambda s, h: torch.baddbmm(h, h, h.mT @ h, beta=0.5, alpha=8**-0.5), 8),
        sequence(
            lambda s, h: torch.baddbmm(h.sigmoid(), h, h.mT @ h, beta=0).sum(-1, keepdim=True), 8, out=1
        ),
        sequence(
            lambda s, h: torch.baddbmm(h.sigmoid(), h, h.mT @ h, beta=0.5).sum(-1, keepdim=True),
            out=1,
            reason="summed where a removed unit would not be zero",
        ),
    ],
    "tensordot": [
        sequence(
            lambda s, h: torch.tensordot(h, s.w, dims=1).flatten(2),
            8,
            3,
            4,
            out=12,
            parts=lambda: {"w": weights(8, 3, 4)},
        ),
        sequence(
            lambda s, h: torch.tensordot(h.view(-1, 5, 2, 4), s.w, ([3, 2], [0, -1])),
            4,
            7,
            2,
            out=7,
            parts=lambda: {"w": weights(4, 7, 2)},
        ),
    ],
    "einsum": [
        sequence(
            lambda s, h: torch.einsum("btc,cd->btd", h, s.w), 8, 7, out=7, parts=lambda: {"w": weights(8, 7)}
        ),
        sequence(lambda s, h: torch.einsum("btc,buc,bud->btd", h, h, h), 8),
        sequence(
            lambda s, h: torch.einsum("...c,hcd->...hd", h, s.w),
            8,
            7,
            out=7,
            parts=lambda: {"w": weights(2, 8, 7)},
        ),
    ],
    "conv1d": [volume(1, ran, 8, 7, out=7, parts=conv(nn.Conv1d, 8, 7, 3, bias=False))],
    "conv2d": [
        image(ran, 8, 7, out=7, parts=conv(nn.Conv2d, 8, 7, 3, stride=2, padding=1)),
        image(ran, 8, 7, out=7, parts=conv(nn.Conv2d, 8, 7, 3, padding="same", bias=False)),
        image(ran, 4, 2, 3, out=12, parts=conv(nn.Conv2d, 8, 12, 3, groups=4)),
        image(ran, 8, out=8, parts=conv(nn.Conv2d, 8, 8, 3, groups=8, padding=1)),
        image(ran, 8, 2, out=16, parts=conv(nn.Conv2d, 8, 16, 3, groups=8)),
    ],
    "conv3d": [volume(3, ran, 8, 7, out=7, parts=conv(nn.Conv3d, 8, 7, 3))],
    "conv_transpose1d": [volume(1, ran, 8, 7, out=7, parts=conv(nn.ConvTranspose1d, 8, 7, 3))],
    "conv_transpose2d": [
        image(ran, 8, 7, out=7, parts=conv(nn.ConvTranspose2d, 8, 7, 2, stride=2)),
        image(ran, 4, 2, 3, out=12, parts=conv(nn.ConvTranspose2d, 8, 12, 3, groups=4, bias=False)),
        image(ran, 8, out=8, parts=conv(nn.ConvTranspose2d, 8, 8, 3, groups=8)),
    ],
    "conv_transpose3d": [volume(3, ran, 8, 7, out=7, parts=conv(nn.ConvTranspose3d, 8, 7, 3))],
    "batch_norm": [
        image(normed, 8, parts=norm(nn.BatchNorm2d, 8)),
        image(normed, 8, parts=norm(nn.BatchNorm2d, 8, affine=False)),
        image(normed, 8, parts=norm(nn.BatchNorm2d, 8, track_running_stats=False)),
    ],
    "instance_norm": [
        image(normed, 8, parts=norm(nn.InstanceNorm2d, 8)),
        image(normed, 8, parts=norm(nn.InstanceNorm2d, 8, affine=True)),
        image(normed, 8, parts=norm(nn.InstanceNorm2d, 8, **STATEFUL)),
    ],
    "group_norm": [
        image(normed, 4, parts=norm(nn.GroupNorm, 4, 8), reason="a normalised axis"),
        image(normed, 8, parts=norm(nn.GroupNorm, 8, 8)),
        image(normed, parts=norm(nn.GroupNorm, 1, 8), reason="a normalised axis"),
    ],
    "layer_norm": [sequence(normed, parts=norm(nn.LayerNorm, 8), reason="a normalised axis")],
    "rms_norm": [sequence(normed, parts=norm(nn.RMSNorm, 8), reason="a normalised axis")],
    "_weight_norm": [
        image(
            ran,
            8,
            7,
            out=7,
            parts=lambda: {"conv": nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 7, 3))},
        ),
        image(
            lambda s, h: h + s.conv(h).relu(),
            8,
            parts=lambda: {"conv": nn.utils.weight_norm(nn.Conv2d(8, 8, 3, padding=1, bias=False))},
        ),
        image(
            ran,
            8,
            7,
            out=7,
            parts=lambda: {"conv": nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 7, 3), dim=-1)},
        ),
        image(
            ran, 8, 7, out=7, parts=lambda: {"conv": nn.utils.weight_norm(nn.ConvTranspose2d(8, 7, 3), dim=1)}
        ),
    ],
    "prelu": [
        image(normed, 8, parts=norm(nn.PReLU, 8)),
        image(normed, 8, parts=norm(nn.PReLU)),
        sequence(lambda s, h: s.norm(h.transpose(1, 2)).transpose(1, 2), 8, parts=norm(nn.PReLU, 8)),
    ],
    "softmax": [
        sequence(lambda s, h: h.softmax(1), 8),
        sequence(lambda s, h: h.softmax(-1), reason="the axis of a softmax"),
    ],
    "log_softmax": [sequence(lambda s, h: h.log_softmax(1), 8)],
    "_softmax": [sequence(lambda s, h: torch.ops.aten._softmax(h, 1, False), 8)],
    "_log_softmax": [sequence(lambda s, h: torch.ops.aten._log_softmax(h, 1, False), 8)],
    "max_pool1d": [volume(1, lambda s, h: F.max_pool1d(h, 2), 8)],
    "max_pool2d": [image(lambda s, h: F.max_pool2d(h, 3, 2, 1), 8)],
    "max_pool3d": [volume(3, lambda s, h: F.max_pool3d(h, 2), 8)],
    "max_pool2d_with_indices": [image(lambda s, h: F.max_pool2d(h, 2, return_indices=True)[0], 8)],
    "adaptive_avg_pool1d": [volume(1, lambda s, h: F.adaptive_avg_pool1d(h, 2), 8)],
    "adaptive_avg_pool2d": [image(lambda s, h: F.adaptive_avg_pool2d(h, (1, 1)), 8)],
    "adaptive_avg_pool3d": [volume(3, lambda s, h: F.adaptive_avg_pool3d(h, 1), 8)],
    "adaptive_max_pool1d": [volume(1, lambda s, h: F.adaptive_max_pool1d(h, 2), 8)],
    "adaptive_max_pool2d": [image(lambda s, h: F.adaptive_max_pool2d(h, 2), 8)],
    "adaptive_max_pool3d": [volume(3, lambda s, h: F.adaptive_max_pool3d(h, 2), 8)],
    "avg_pool1d": [volume(1, lambda s, h: F.avg_pool1d(h, 2), 8)],
    "avg_pool2d": [
        image(lambda s, h: F.avg_pool2d(h.sigmoid(), 3, 2, 1), 8),
        image(lambda s, h: F.avg_pool2d(h, 2), 8),
    ],
    "avg_pool3d": [volume(3, lambda s, h: F.avg_pool3d(h, 2), 8)],
    "upsample_nearest1d": [volume(1, lambda s, h: F.interpolate(h, scale_factor=2), 8)],
    "upsample_nearest2d": [
        image(lambda s, h: F.interpolate(h, scale_factor=2), 8),
        image(lambda s, h: F.interpolate(h, size=(9, 7)), 8),
    ],
    "upsample_nearest3d": [volume(3, lambda s, h: F.interpolate(h, scale_factor=2), 8)],
    "upsample_linear1d": [volume(1, lambda s, h: F.interpolate(h, scale_factor=2, mode="linear"), 8)],
    "upsample_bilinear2d": [image(lambda s, h: F.interpolate(h, scale_factor=2, mode="bilinear"), 8)],
    "upsample_bicubic2d": [image(lambda s, h: F.interpolate(h, scale_factor=2, mode="bicubic"), 8)],
    "upsample_trilinear3d": [volume(3, lambda s, h: F.interpolate(h, scale_factor=2, mode="trilinear"), 8)],
    "_upsample_bilinear2d_aa": [
        image(lambda s, h: F.interpolate(h, size=(4, 4), mode="bilinear", antialias=True), 8)
    ],
    "_upsample_bicubic2d_aa": [
        image(lambda s, h: F.interpolate(h, size=(4, 4), mode="bicubic", antialias=True), 8)
    ],
    "grid_sampler": [
        image(lambda s, h: F.grid_sample(h, h[:, :2].tanh().permute(0, 2, 3, 1), align_corners=False), 6)
    ],
    "grid_sampler_2d": [
        image(
            lambda s, h: torch.ops.aten.grid_sampler_2d(h, s.g.expand(h.shape[0], -1, -1, -1), 0, 0, False),
            8,
            parts=lambda: {"g": torch.rand(1, 4, 4, 2) - 0.5},
        )
    ],
    "pad": [
        image(lambda s, h: F.pad(h, (1, 2)), 8),
        image(lambda s, h: F.pad(h, (1, 1, 1, 1), mode="reflect"), 8),
        image(
            lambda s, h: F.pad(h, (1, 1), value=0.5).sum(1, keepdim=True),
            out=1,
            reason="summed where a removed unit",
        ),
        sequence(lambda s, h: F.pad(h, (0, 2)), 8, out=10, reason="the padding of a dimension"),
        image(
            lambda s, h: s.w(h) + F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 3, 2)).relu(),
            8,
            out=13,
            parts=lambda: {"w": nn.Conv2d(8, 13, 3, 2, 1)},
        ),
        sequence(lambda s, h: F.pad(h, (1, 2), value=0.5), 8, out=11),
        sequence(lambda s, h: F.pad(h, (0, -2)), out=6, reason="a padded dimension"),
        sequence(lambda s, h: F.pad(h, (1, 1), mode="circular"), out=10, reason="a padded dimension"),
    ],
    "constant_pad_nd": [image(lambda s, h: torch.constant_pad_nd(h, (1, 2), 0.5), 8)],
    "sum": [
        sequence(lambda s, h: h * h.sum(-1, keepdim=True), 8),
        sequence(lambda s, h: h.sum(1), 8),
        sequence(lambda s, h: h + h.sum(), 8),
        sequence(
            lambda s, h: h + h.sigmoid().sum((1, 2), keepdim=True), reason="summed where a removed unit"
        ),
    ],
    "linalg_vector_norm": [sequence(lambda s, h: h * torch.linalg.vector_norm(h, dim=-1, keepdim=True), 8)],
    "norm": [sequence(lambda s, h: h + torch.ops.aten.norm(h, 2.0, [-1], True), 8)],
    "mean": [
        image(lambda s, h: h.mean((2, 3), keepdim=True), 8),
        image(lambda s, h: h + h.mean(), reason="a reduced axis"),
        image(lambda s, h: h + h.mean((-3, 2), True), reason="a reduced axis"),
    ],
    **{
        name: [
            sequence(lambda s, h, name=name: h + getattr(torch, name)(h, 1, True), 8),  # type: ignore[misc]
            sequence(lambda s, h, name=name: h + getattr(torch, name)(h, 2, True), reason=reason),
        ]  # type: ignore[misc]
        for name, reason in (
            ("amax", "a reduced axis"),
            ("amin", "a reduced axis"),
            ("prod", "a reduction that every entry decides"),
            ("logsumexp", "a reduction that every entry decides"),
        )
    },
    **{
        name: [
            sequence(lambda s, h, name=name: h + getattr(torch, name)(h, 1, keepdim=True), 8),  # type: ignore[misc]
            sequence(
                lambda s, h, name=name: h + getattr(torch, name)(h, 2, keepdim=True),
                reason="a reduction that every entry decides",
            ),
        ]  # type: ignore[misc]
        for name in ("std", "var")
    },
    **{
        name: [sequence(lambda s, h, name=name: h + getattr(torch, name)(h > 0, 1, keepdim=True), 8)]
        for name in ("any", "all")
    },  # type: ignore[misc]
    **{
        name: [sequence(lambda s, h, name=name: h + getattr(torch, name)(h, 1, keepdim=True), 8)]
        for name in ("argmax", "argmin")
    },  # type: ignore[misc]
    "var_mean": [
        sequence(
            lambda s, h: h * torch.var_mean(h, 1, keepdim=True)[0] + torch.var_mean(h, (1,), keepdim=True)[1],
            8,
        )
    ],
    "max": [
        sequence(lambda s, h: h + h.max(1, keepdim=True)[0], 8),
        sequence(lambda s, h: torch.max(h, h.tanh()), 8),
        sequence(lambda s, h: h + h.max(), reason="a reduced axis"),
    ],
    "min": [
        sequence(lambda s, h: h + h.min(1)[0][:, None], 8),
        sequence(lambda s, h: torch.min(h, h.tanh()), 8),
    ],
    "scaled_dot_product_attention": [
        case(Attention, (5, 6), 2, 3, 3),
        case(lambda: Attention(fused=True), (5, 6), 2, 3, 3),
        case(lambda: Attention(masked=True), (5, 6), 2, 3, 3),
        case(lambda: Attention(is_causal=True), (5, 6), 2, 3, 3),
        case(lambda: Attention(4, 2, enable_gqa=True), (5, 6), 2, 2, 3, 3),
        case(lambda: Attention(4, 2, True, enable_gqa=True), (5, 6), 2, 2, 3, 3),
        case(lambda: Attention(scale=0.3), (5, 6), 2, 3, 3),
        case(lambda: Attention(dropout=0.2), (5, 6), 2, 3, 3),
    ],
    "lstm": [
        case(lambda: Recurrent(nn.LSTM), (5, 6), 7, 5),
        case(
            lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3),
            (5, 6),
            7,
            5,
        ),
        case(lambda: Recurrent(nn.LSTM, bias=False, batch_first=True), (5, 6), 7, 5),
    ],
    "gru": [
        case(lambda: Recurrent(nn.GRU), (5, 6), 7, 5),
        case(lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True, batch_first=True), (5, 6), 7, 5),
    ],
    "lstm_cell": [
        case(lambda: Steps(nn.LSTMCell, 2), (5, 6), 7, 5),
        case(lambda: Steps(nn.LSTMCell, 2, bias=False), (5, 6), 7, 5),
    ],
    "gru_cell": [case(lambda: Steps(nn.GRUCell), (5, 6), 7, 5)],
    "rnn_tanh_cell": [case(lambda: Steps(nn.RNNCell, bias=False), (5, 6), 7, 5)],
    "rnn_relu_cell": [case(lambda: Steps(nn.RNNCell, nonlinearity="relu"), (5, 6), 7, 5)],
    "rnn_tanh": [case(lambda: Recurrent(nn.RNN, num_layers=2), (5, 6), 7, 5)],
    "rnn_relu": [case(lambda: Recurrent(nn.RNN, nonlinearity="relu", batch_first=True), (5, 6), 7, 5)],
}
