"""Operators that read or write at given places."""

from __future__ import annotations

from getac.onnx_graph.node_reader import NodeReader, NotConstant
from getac.onnx_graph.operator_table import Maker, table
from getac.rules.base import Rule
from getac.rules.indexing import GatherElements, GatherND, OneHot, TopK
from getac.rules.parts import Gather
from getac.rules.scatter import ScatterElements, ScatterND

__all__ = ["INDEXING"]


def gather(n: NodeReader) -> Rule:
    axis = n.axis(0)
    try:
        picks = n.numbers(1)
    except NotConstant:
        picks = None
    return Gather(axis=axis, picks=picks if n.rank() == 1 else None)


def gather_elements(n: NodeReader) -> Rule:
    return GatherElements(n.axis(0))


def gather_nd(n: NodeReader) -> Rule:
    return GatherND(n.integer("batch_dims", 0))


def adds(n: NodeReader) -> bool:
    return n.text("reduction", "none") in ("add", "mul")


def scatter_elements(n: NodeReader) -> Rule:
    return ScatterElements(n.axis(0), adds(n))


def scatter_nd(n: NodeReader) -> Rule:
    return ScatterND(adds(n))


def top_k(n: NodeReader) -> Rule:
    return TopK(n.axis(-1))


def one_hot(n: NodeReader) -> Rule:
    return OneHot(n.integer("axis", -1))


INDEXING: dict[str, Maker] = table(
    {
        gather_elements: "GatherElements",
        gather_nd: "GatherND",
        scatter_elements: "ScatterElements",
        scatter_nd: "ScatterND",
        top_k: "TopK",
        one_hot: "OneHot",
        gather: "Gather",
    }
)
