"""Names the lines of a model that make training and evaluation differ."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import fx

from getac.errors import UnsupportedModelError
from getac.fx_graph.reader import operator_name
from getac.fx_graph.training import literal_flag

__all__ = ["lines_of_one_mode"]

FRAME = re.compile(r'File "(?P<file>.+?)", line (?P<line>\d+), in [^\n]*(\n\s*(?P<code>[^\n]*))?')
MOST = 3


def lines_of_one_mode(training: fx.Graph, export: Callable[[], fx.GraphModule]) -> list[str]:
    """The first few source lines that run in one mode alone, or drop in evaluation too; none if unknown.

    Args:
        training: The captured graph.
        export: Exports the same model in evaluation.
    """
    try:
        evaluation = export().graph
    except UnsupportedModelError:
        return []
    calls = calls_of(evaluation)
    always = [node for node in calls if literal_flag(node)]  # a dropout that evaluation keeps
    lines = dict.fromkeys(source_line(node) for node in (*apart(calls_of(training), calls), *always))
    return [line for line in lines if line][:MOST]


def calls_of(graph: fx.Graph) -> list[fx.Node]:
    """Calls of the model's own code: flags and what reads them have no line."""
    return [
        node
        for node in graph.nodes
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.stack_trace
    ]


def apart(training: Sequence[fx.Node], evaluation: Sequence[fx.Node]) -> Iterator[fx.Node]:
    ours, theirs = ([operator_name(n).removesuffix("_") for n in nodes] for nodes in (training, evaluation))
    for kind, a, b, c, d in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind != "equal":
            yield from training[a:b]
            yield from evaluation[c:d]


def source_line(node: fx.Node) -> str:
    """The innermost line that is not torch's."""
    frames = [one for one in FRAME.finditer(node.stack_trace or "") if "/torch/" not in one["file"]]
    return (
        f"{frames[-1]['file']}:{frames[-1]['line']}: {(frames[-1]['code'] or '').strip()}" if frames else ""
    )
