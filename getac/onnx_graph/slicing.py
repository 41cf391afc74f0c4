"""Carries out slicing on an ONNX graph (see `getac.slicing`)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from getac.axes.axis import Mask
from getac.axes.contents import Site
from getac.onnx_graph.edit import array_of, replace_tensor
from getac.onnx_graph.sites import write_sizes
from getac.slicing import SizeChange

__all__ = ["OnnxEditor"]


@dataclass(frozen=True)
class OnnxEditor:
    """Edits a graph in place."""

    graph: ir.Graph

    def cut(self, parameter: Hashable, masks: Sequence[Mask]) -> None:
        assert isinstance(parameter, ir.Value)
        array = array_of(parameter)
        for dimension, mask in enumerate(masks):
            if not mask.all():
                array = np.compress(mask, array, axis=dimension)
        replace_tensor(parameter, array)

    def write_sizes(self, sizes: Mapping[Site, SizeChange]) -> None:
        write_sizes(sizes)
        self._forget_shapes()

    def write_numbers(self, numbers: Mapping[Site, float]) -> None:
        for site, value in numbers.items():
            assert isinstance(site.node, ir.Node) and isinstance(site.argument, str)
            site.node.attributes[site.argument] = ir.AttrFloat32(site.argument, value)

    def _forget_shapes(self) -> None:
        """Declared shapes of intermediate values are stale; graph inputs and outputs never change."""
        outside = {*self.graph.inputs, *self.graph.outputs}
        for node in self.graph:
            for value in node.outputs:
                if value not in outside:
                    value.shape = None
