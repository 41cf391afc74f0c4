"""Rewrites the sizes that stand in an ONNX graph after units were removed.

An axis type says what each size becomes; here is only where ONNX keeps it: an attribute, a list in a
stored tensor, or (`Split` with `num_outputs`) nowhere until it has to be said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from getac.axes.axis import Axis, Mask, kept
from getac.axes.contents import Site
from getac.onnx_graph.edit import add_initializer, array_of, own_input, replace_tensor, set_input

__all__ = ["write_sites"]

ATTRIBUTES = {("Conv", "groups"): "group", ("ConvTranspose", "groups"): "group"}
ATTRIBUTES[("GroupNormalization", "groups")] = "num_groups"
INPUTS = {("Slice", "starts"): 1, ("Slice", "ends"): 2, ("Split", "split"): 1}


def write_sites(sites: Mapping[Site, Axis], masks: Mapping[Axis, Mask]) -> None:
    """Writes the new size at every site whose axis changed.

    Args:
        sites: From the analysis; node identities are `ir.Node`.
        masks: Class atom -> which units stay.
    """
    lists: dict[tuple[ir.Node, int], dict[int, tuple[int, int]]] = defaultdict(dict)
    for site, axis in sites.items():
        node = site.node
        assert isinstance(node, ir.Node)
        size = int(kept(axis, masks).sum())
        attribute = ATTRIBUTES.get((node.op_type, str(site.argument)))
        if attribute is None:
            where = site.argument if isinstance(site.argument, int) else INPUTS[(node.op_type, site.argument)]
            lists[(node, where)][site.index] = (axis.size, size)
        elif size != axis.size:
            node.attributes[attribute] = ir.AttrInt64(attribute, size)
    for (node, where), entries in lists.items():
        if any(old != new for old, new in entries.values()):
            write_list(node, where, {index: new for index, (_, new) in entries.items()})


def write_list(node: ir.Node, where: int, entries: Mapping[int, int]) -> None:
    """Replaces entries of a list of integers, in a tensor of the node's own."""
    if node.op_type == "Split" and (len(node.inputs) <= where or node.inputs[where] is None):
        node.attributes.pop("num_outputs", None)
        sizes = np.array([entries[index] for index in range(len(node.outputs))], dtype=np.int64)
        assert isinstance(node.graph, ir.Graph)
        set_input(node, where, add_initializer(node.graph, f"{node.outputs[0].name}.split", sizes))
        return
    value = own_input(node, where)
    numbers = np.array(array_of(value))
    for index, size in entries.items():
        numbers.reshape(-1)[index] = size
    replace_tensor(value, numbers)
