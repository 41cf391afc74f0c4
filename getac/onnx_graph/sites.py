"""Rewrites the sizes that stand in an ONNX graph after units were removed.

An axis type says what each size becomes; here is only where ONNX keeps it: an attribute, a list in a
stored tensor, or (`Split` with `num_outputs`) nowhere until it has to be said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from getac.axes.contents import Site
from getac.onnx_graph.edit import add_initializer, array_of, own_input, replace_tensor, set_input
from getac.slicing import SizeChange

__all__ = ["write_sizes"]

ATTRIBUTES = {("Conv", "groups"): "group", ("ConvTranspose", "groups"): "group"}
ATTRIBUTES[("GroupNormalization", "groups")] = "num_groups"
ATTRIBUTES |= {(operator, "hidden"): "hidden_size" for operator in ("LSTM", "GRU", "RNN")}
INPUTS = {("Slice", "starts"): 1, ("Slice", "ends"): 2, ("Split", "split"): 1}


def write_sizes(sizes: Mapping[Site, SizeChange]) -> None:
    """Writes the new size at every site whose size changed; node identities are `ir.Node`."""
    lists: dict[tuple[ir.Node, int], dict[int, SizeChange]] = defaultdict(dict)
    for site, (old, new) in sizes.items():
        node = site.node
        assert isinstance(node, ir.Node)
        attribute = ATTRIBUTES.get((node.op_type, str(site.argument)))
        if attribute is None:
            where = site.argument if isinstance(site.argument, int) else INPUTS[(node.op_type, site.argument)]
            sign = -1 if site.from_end else 1
            lists[(node, where)][site.index] = (sign * old, sign * new)
        elif new != old:
            node.attributes[attribute] = ir.AttrInt64(attribute, new)
    for (node, where), entries in lists.items():
        changed = {index: new for index, (old, new) in entries.items() if old != new}
        if not changed:
            continue
        if node.op_type == "Split" and (len(node.inputs) <= where or node.inputs[where] is None):
            write_split(node, [entries[index][1] for index in range(len(node.outputs))])
        else:
            write_list(node, where, changed)


def write_split(node: ir.Node, sizes: Sequence[int]) -> None:
    """Says the sizes of the parts, which followed from their number before."""
    assert isinstance(node.graph, ir.Graph)
    node.attributes.pop("num_outputs", None)
    name = f"{node.outputs[0].name}.split"
    set_input(node, 1, add_initializer(node.graph, name, np.array(sizes, dtype=np.int64)))


def write_list(node: ir.Node, where: int, changed: Mapping[int, int]) -> None:
    """Replaces entries of a list of integers, in a tensor of the node's own.

    The others stay as they are written: a -1 or an end "at infinity" means more than one size.
    """
    value = own_input(node, where)
    numbers = np.array(array_of(value))
    for index, size in changed.items():
        numbers.reshape(-1)[index] = size
    replace_tensor(value, numbers)
