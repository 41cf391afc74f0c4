"""Cases for composite operators and rarer sums (see `tests.fx_graph.cases`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.fx_graph.cases import Case, case, image, sequence, vector, volume, weights

__all__ = ["COMPOSITE"]

aten = torch.ops.aten
untyped: Any = torch  # some of its functions have no types, or wrong ones


class Bagged(nn.Module):
    """Rows of a table, in bags of 5."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.table, self.out = nn.EmbeddingBag(9, 8, mode=mode), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.table(x.argmax(-1)))  # type: ignore[no-any-return]


def table(*names: str) -> dict[str, nn.Parameter]:
    return {name: weights(8) for name in names}


SUMMED = "summed where a removed unit would not be zero"
EVERY = "a reduction that every entry decides"

COMPOSITE: dict[str, list[Case]] = {
    "view_as": [sequence(lambda s, h: h.view(h.shape[0], 5, 2, 4).view_as(h), 2, 4)],
    "reshape_as": [
        sequence(
            lambda s, h: h.reshape(h.shape[0], 5, 2, 4).mT.reshape_as(s.w(h)) * s.w(h),
            2,
            4,
            parts=lambda: {"w": nn.Linear(8, 8)},
        )
    ],
    "broadcast_tensors": [
        sequence(lambda s, h: untyped.broadcast_tensors(s.w, h)[0] * h, 8, parts=lambda: table("w")),
        sequence(lambda s, h: untyped.broadcast_tensors(s.w, h)[1] + s.w, 8, parts=lambda: table("w")),
    ],
    "hstack": [sequence(lambda s, h: torch.hstack([h, h.tanh()]), 8)],
    "vstack": [
        sequence(lambda s, h: torch.vstack([h, h.tanh()]), 8),
        sequence(lambda s, h: h * torch.vstack([s.v, s.w]).sum(0), 8, parts=lambda: table("v", "w")),
    ],
    "row_stack": [sequence(lambda s, h: aten.row_stack([h, h.tanh()]), 8)],
    "column_stack": [
        sequence(lambda s, h: aten.column_stack([h, h.tanh()]), 8),
        sequence(lambda s, h: h * aten.column_stack([s.v, s.w]).sum(1), 8, parts=lambda: table("v", "w")),
    ],
    "dstack": [
        sequence(lambda s, h: torch.dstack([h, h.tanh()]), 8, out=16),
        vector(lambda s, h: torch.dstack([h, h.tanh()]).sum(2), 8),
        sequence(
            lambda s, h: h * torch.dstack([s.v, s.w]).sum((0, 2)),
            parts=lambda: table("v", "w"),
            reason="arguments that are not followed: tensors of several ranks, or of too few dimensions",
        ),
    ],
    "hsplit": [
        sequence(lambda s, h: untyped.hsplit(h, [2])[0], 8),
        vector(lambda s, h: (lambda a, b: a * b.sigmoid())(*untyped.hsplit(h, 2)), 4, out=4),
    ],
    "vsplit": [sequence(lambda s, h: h * untyped.vsplit(s.w, 2)[0], 8, parts=lambda: {"w": weights(2, 8)})],
    "dsplit": [
        sequence(lambda s, h: (lambda a, b: torch.cat([b, a.tanh()], 2))(*untyped.dsplit(h, [3])), 3, 5)
    ],
    "atleast_1d": [sequence(lambda s, h: untyped.atleast_1d(h), 8)],
    "atleast_2d": [sequence(lambda s, h: h * untyped.atleast_2d(s.w), 8, parts=lambda: table("w"))],
    "atleast_3d": [
        vector(lambda s, h: untyped.atleast_3d(h)[..., 0], 8),
        sequence(lambda s, h: h * untyped.atleast_3d(s.w).mT, 8, parts=lambda: table("w")),
    ],
    "tile": [
        sequence(lambda s, h: h.tile(1, 1, 3), 8, 3, out=24),
        sequence(lambda s, h: h.tile(3), 8, 3, out=24),
    ],
    "outer": [
        sequence(
            lambda s, h: h @ torch.outer(s.v, s.w),
            8,
            7,
            out=7,
            parts=lambda: {"v": weights(8), "w": weights(7)},
        )
    ],
    "ger": [
        sequence(
            lambda s, h: h @ torch.ger(s.v, s.w),
            8,
            7,
            out=7,
            parts=lambda: {"v": weights(8), "w": weights(7)},
        )
    ],
    "inner": [
        sequence(lambda s, h: torch.inner(h, s.w), 7, 8, out=7, parts=lambda: {"w": weights(7, 8)}),
        sequence(lambda s, h: h * torch.inner(s.v, s.w), 8, 8, parts=lambda: table("v", "w")),
    ],
    "addr": [
        sequence(
            lambda s, h: h @ torch.addr(s.u, s.v, s.w, beta=0.5, alpha=2),
            8,
            7,
            out=7,
            parts=lambda: {"u": weights(8, 7), "v": weights(8), "w": weights(7)},
        )
    ],
    "addmv": [
        sequence(
            lambda s, h: h * torch.addmv(s.b, s.w, s.v, beta=2, alpha=0.3),
            8,
            7,
            parts=lambda: {"w": weights(8, 7), "v": weights(7), "b": weights(8)},
        )
    ],
    "addbmm": [
        sequence(
            lambda s, h: h * torch.addbmm(h[0], s.w.expand(h.shape[0], 5, 5), h, alpha=0.5),
            8,
            parts=lambda: {"w": weights(1, 5, 5)},
        )
    ],
    "meshgrid": [
        sequence(
            lambda s, h: h * torch.meshgrid(s.r, torch.tanh(s.w), indexing="ij")[1],
            8,
            parts=lambda: {"r": torch.rand(5), "w": weights(8)},
        ),
        sequence(
            lambda s, h: h * torch.meshgrid(s.w, s.r, indexing="xy")[0],
            8,
            parts=lambda: {"r": torch.rand(5), "w": weights(8)},
        ),
    ],
    "diagonal": [
        sequence(lambda s, h: h + h[:, :, None].expand(-1, 5, 5, 8).diagonal(dim1=1, dim2=2).mT, 8),
        sequence(lambda s, h: h[:, :, :5].diagonal(1, -2, -1), 3, out=4, reason="a diagonal"),
    ],
    "take_along_dim": [
        sequence(
            lambda s, h: torch.take_along_dim(h, s.i, 1),
            8,
            parts=lambda: {"i": torch.ones(1, 2, 1, dtype=torch.long)},
        ),
        sequence(lambda s, h: torch.take_along_dim(h, h.argsort(1), -2), 8),
    ],
    "select_scatter": [
        sequence(lambda s, h: h.select_scatter(h[:, 0].tanh(), 1, 3), 8),
        sequence(lambda s, h: h.select_scatter(h[..., 0], -1, 3), reason="an indexed axis"),
    ],
    "fill": [
        sequence(lambda s, h: h + torch.empty_like(h).fill_(2.0), 8),
        sequence(
            lambda s, h: h.sum(-1, keepdim=True) + aten.fill(h, 2.0).sum(-1, keepdim=True),
            out=1,
            reason=SUMMED,
        ),
        sequence(lambda s, h: h * aten.fill(h.detach(), h.sum()), 8),
    ],
    "zero": [
        sequence(lambda s, h: h + torch.empty_like(h).zero_(), 8),
        sequence(lambda s, h: h.sum(-1, keepdim=True) + aten.zero(h).sum(-1, keepdim=True), 8, out=1),
    ],
    "copy": [
        sequence(lambda s, h: torch.empty_like(h).copy_(h.tanh()), 8),
        sequence(lambda s, h: torch.empty_like(h).copy_(s.w) + h, 8, parts=lambda: table("w")),
    ],
    "count_nonzero": [
        sequence(lambda s, h: h + torch.count_nonzero(h, 1)[:, None], 8),
        sequence(lambda s, h: h + torch.count_nonzero(h, 2)[..., None], 8),
        sequence(lambda s, h: h + torch.count_nonzero(h.sigmoid(), (1, 2))[:, None, None], reason=SUMMED),
    ],
    "nansum": [sequence(lambda s, h: h * h.nansum(-1, keepdim=True), 8)],
    "nanmean": [
        sequence(lambda s, h: h * h.nanmean(1, keepdim=True), 8),
        sequence(lambda s, h: h * h.nanmean(2, keepdim=True), reason="a reduced axis"),
    ],
    "aminmax": [
        sequence(lambda s, h: h + torch.aminmax(h, dim=1, keepdim=True)[1], 8),
        sequence(lambda s, h: h + torch.aminmax(h)[0], reason="a reduced axis"),
    ],
    "std_mean": [sequence(lambda s, h: h * torch.std_mean(h, 1, keepdim=True)[0], 8)],
    "median": [
        sequence(lambda s, h: h + h.median(1, keepdim=True)[0], 8),
        sequence(lambda s, h: h + h.median(), reason=EVERY),
    ],
    "trapezoid": [
        sequence(lambda s, h: h + torch.trapezoid(h, dim=1)[:, None], 8),
        sequence(lambda s, h: h + torch.trapezoid(h)[..., None], reason=EVERY),
    ],
    "trapz": [sequence(lambda s, h: h + torch.trapz(h, dim=1)[:, None], 8)],
    "cosine_similarity": [
        sequence(
            lambda s, h: h * F.cosine_similarity(h, s.w(h), -1)[..., None],
            8,
            parts=lambda: {"w": nn.Linear(8, 8)},
        ),
        sequence(lambda s, h: h + F.cosine_similarity(h, h.tanh(), 1)[:, None], 8),
        sequence(lambda s, h: h + F.cosine_similarity(h, h.exp(), -1)[..., None], reason=SUMMED),
        sequence(lambda s, h: h + F.cosine_similarity(h, h[..., :1], -1)[..., None], reason=EVERY),
    ],
    "pairwise_distance": [
        sequence(lambda s, h: h + F.pairwise_distance(h, h.tanh(), eps=0.0, keepdim=True), 8),
        sequence(lambda s, h: h + F.pairwise_distance(h, h.tanh(), keepdim=True), reason=EVERY),
    ],
    "bilinear": [
        sequence(
            lambda s, h: s.w(h, s.a(h)).tanh(),
            8,
            7,
            5,
            out=7,
            parts=lambda: {"w": nn.Bilinear(8, 5, 7), "a": nn.Linear(8, 5)},
        ),
        sequence(lambda s, h: s.w(h, h), 8, 7, out=7, parts=lambda: {"w": nn.Bilinear(8, 8, 7, bias=False)}),
    ],
    "embedding_bag": [case(lambda mode=mode: Bagged(mode), (5, 6), 8) for mode in ("sum", "mean", "max")],  # type: ignore[misc]
    "max_pool1d_with_indices": [volume(1, lambda s, h: F.max_pool1d(h, 2, return_indices=True)[0], 8)],
    "linalg_multi_dot": [
        sequence(
            lambda s, h: h @ torch.linalg.multi_dot([s.u, s.v, s.w]),
            8,
            7,
            5,
            6,
            out=6,
            parts=lambda: {"u": weights(8, 7), "v": weights(7, 5), "w": weights(5, 6)},
        ),
        sequence(
            lambda s, h: h * torch.linalg.multi_dot([s.u, s.v]),
            8,
            7,
            parts=lambda: {"u": weights(8, 7), "v": weights(7)},
        ),
    ],
    "chain_matmul": [
        sequence(
            lambda s, h: h @ aten.chain_matmul([s.u, s.v]),
            8,
            7,
            8,
            parts=lambda: {"u": weights(8, 7), "v": weights(7, 8)},
        )
    ],
    "cdist": [
        sequence(lambda s, h: torch.cdist(h, h.tanh()) @ h, 8),
        sequence(lambda s, h: torch.cdist(h, h.sigmoid()) @ h, reason=SUMMED),
    ],
    "bucketize": [
        sequence(lambda s, h: h + torch.bucketize(h, s.b), 8, parts=lambda: {"b": torch.tensor([-0.5, 0.5])})
    ],
    "rot90": [
        image(lambda s, h: h.rot90(1, (2, 3)), 8),
        sequence(lambda s, h: h.rot90(1, (1, 2)), out=5, reason="a reversed axis"),
    ],
    **{
        f"fft_{name}": [sequence(lambda s, h, name=name: getattr(torch.fft, name)(h, dim=1).real, 8)]  # type: ignore[misc]
        for name in ("fft", "ifft", "rfft")
    },
    **{
        f"fft_{name}": [image(lambda s, h, name=name: getattr(torch.fft, name)(h, dim=(2, 3)).real, 8)]  # type: ignore[misc]
        for name in ("fft2", "ifft2", "rfft2", "fftn", "ifftn", "rfftn")
    },
    "fft_irfft": [
        sequence(lambda s, h: torch.fft.irfft(torch.fft.rfft(h, dim=1), n=5, dim=1), 8),
        sequence(lambda s, h: torch.fft.irfft(torch.fft.rfft(h), n=8), reason="a Fourier transform"),
    ],
    **{
        name: [
            image(lambda s, h, n=name[4:]: getattr(torch.fft, n)(torch.fft.rfft2(h), dim=(2, 3)), 8)  # type: ignore[misc]
        ]
        for name in ("fft_irfft2", "fft_irfftn")
    },
    "multiply": [sequence(lambda s, h: aten.multiply(h, h.sigmoid()), 8)],
    "swapdims": [sequence(lambda s, h: aten.swapdims(aten.swapdims(h, 1, -1), -1, 1), 8)],
    "concatenate": [sequence(lambda s, h: aten.concatenate([h, h.tanh()], 2), 8, out=16)],
}
