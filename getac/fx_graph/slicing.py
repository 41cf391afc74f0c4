"""Carries out slicing on a torch.fx graph (see `getac.slicing`): the graph module is regenerated smaller.

Parameters stay the same objects under the same names, tied ones stay tied, buffers stay persistent or not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from getac.axes.axis import Mask
from getac.axes.contents import Site
from getac.fx_graph.arguments import set_argument
from getac.fx_graph.call import Call
from getac.fx_graph.operators import call_of
from getac.fx_graph.reader import CallReader
from getac.fx_graph.refresh import SizesOf, refresh_sizes
from getac.fx_graph.view import FxView
from getac.rules.parts import Split
from getac.slicing import SizeChange

__all__ = ["FxEditor", "cut_tensor", "kept_part"]

aten = torch.ops.aten


@dataclass(frozen=True)
class FxEditor:
    """Edits a captured module in place.

    Args:
        sizes_of: The sizes that a value will have (see `getac.fx_graph.refresh`).
    """

    view: FxView
    sizes_of: SizesOf = lambda *_: None

    def cut(self, parameter: Hashable, masks: Sequence[Mask]) -> None:
        cut_tensor(self.view.tensor(parameter), masks)

    def write_sizes(self, sizes: Mapping[Site, SizeChange]) -> None:
        by_node: dict[fx.Node, dict[Site, SizeChange]] = defaultdict(dict)
        for site, change in sizes.items():
            assert isinstance(site.node, fx.Node)
            by_node[site.node][site] = change
        changed = {
            node: changes
            for node, changes in by_node.items()
            if any(old != new for old, new in changes.values())
        }
        for node, changes in changed.items():
            write_node(node, changes)
        self.view.module.recompile()
        refresh_sizes(self.view.module, self.sizes_of, changed)

    def write_numbers(self, numbers: Mapping[Site, float]) -> None:
        """Compiling is left to `write_sizes`."""
        for site, value in numbers.items():
            assert isinstance(site.node, fx.Node)
            call = call_of(site.node)
            assert call is not None
            write(site.node, argument_name(call, site), site.index, value)


def kept_part(data: torch.Tensor, masks: Sequence[Mask]) -> torch.Tensor:
    """The marked indices of each dimension."""
    for dimension, mask in enumerate(masks):
        if not mask.all():
            data = data.index_select(dimension, torch.from_numpy(mask.nonzero()[0]).to(data.device))
    return data if data.is_sparse else data.contiguous()


def cut_tensor(tensor: torch.Tensor, masks: Sequence[Mask]) -> None:
    """Slices a stored tensor in place, so that whoever holds it (an optimizer, a tie) holds the small one.

    Its gradient is sliced with it.
    """
    data, grad = kept_part(tensor.detach(), masks), tensor.grad
    tensor.grad = None  # of the old shape
    # An earlier loss that is still alive keeps autograd's accumulator of the gradient, which expects the old
    # shape: the next backward would fail. Only a change of type makes autograd let go of it.
    other = torch.float16 if tensor.dtype != torch.float16 else torch.float32
    tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data
    if grad is not None:
        tensor.grad = kept_part(grad.detach(), masks)


def write_node(node: fx.Node, changes: Mapping[Site, SizeChange]) -> None:
    """Rewrites the sizes among one call's arguments."""
    call = call_of(node)
    assert call is not None
    parts = {site.index: new for site, (_, new) in changes.items() if site.argument == "split"}
    if parts:
        assert isinstance(call.rule, Split)
        write_split(node, [parts[index] for index in range(len(parts))], call.rule.axis)
        return
    for site, (old, new) in changes.items():
        if old != new:
            write(node, argument_name(call, site), site.index, -new if site.from_end else new)


def argument_name(call: Call, site: Site) -> str:
    """The schema's name of the argument that a site stands in."""
    return call.lists[site.argument] if isinstance(site.argument, int) else call.sites[site.argument]


def write(node: fx.Node, name: str, index: int, value: Any) -> None:
    """Sets an argument, or one entry of a list."""
    old = CallReader(node).arguments[name]
    if isinstance(old, list | tuple):
        value = [value if position == index else entry for position, entry in enumerate(old)]
    set_argument(node, name, value)


def write_split(node: fx.Node, sizes: list[int], dimension: int) -> None:
    """chunk(x, n) and split(x, size) cannot say unequal parts; split_with_sizes can."""
    node.target = aten.split_with_sizes.default
    node.args = (CallReader(node).get("self"), sizes, dimension)
    node.kwargs = {}
