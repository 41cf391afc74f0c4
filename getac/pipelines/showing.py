"""Watchers that show a model between passes: as text, and as files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from getac.errors import OutputError
from getac.onnx_graph.provenance import provenance_of
from getac.onnx_graph.write import atomic_write_text, check_output, write_model
from getac.pipeline import Pass, State, Watcher
from getac.pipelines.executable import executable

__all__ = ["ALL", "Dumped", "Printed", "graph_text"]

ALL = "all"


@dataclass(frozen=True)
class Printed(Watcher):
    """Prints the graph after some passes.

    Args:
        names: Names of passes, or "all".
        say: Prints.
    """

    names: Collection[str]
    say: Callable[[str], None]

    def after(self, one: Pass, state: State) -> None:
        if ALL in self.names or one.name in self.names:
            self.say(f"after {one.name}:\n{graph_text(state)}\n")


@dataclass
class Dumped(Watcher):
    """Writes `NN-name.onnx` after every pass, quantizers written as Q/DQ, so that each of the files runs.

    Of a torch.fx module it writes the code, `NN-name.py`, which is there to be read.

    Args:
        inputs: Files that are not to be overwritten.

    Raises:
        OutputError: The folder cannot be made, or a file not be written or is an input.
    """

    folder: Path
    count: int = 0
    inputs: Sequence[Path] = ()

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                "the folder for dumps cannot be made", where=str(self.folder), found=error.strerror
            ) from error

    def after(self, one: Pass, state: State) -> None:
        self.count += 1
        path = self.folder / f"{self.count:02d}-{one.name}"
        if isinstance(state.program, ir.Model):
            file = path.with_name(f"{path.name}.onnx")
            check_output(file, self.inputs)
            write_model(executable(state), file)
        else:
            atomic_write_text(path.with_name(f"{path.name}.py"), graph_text(state))


def graph_text(state: State) -> str:
    """The nodes of the main graph in order, a line each: operator, inputs, outputs, records, origin.

    Of a torch.fx module, its code.
    """
    if not isinstance(state.program, ir.Model):
        return state.program.code.strip()
    graph = state.model.graph
    stored = [value for value in graph.initializers.values() if value in state.quantizers]
    inputs = ", ".join(value_text(value, state) for value in graph.inputs)
    lines = [f"inputs   {inputs}", *(f"stored   {value_text(value, state)}" for value in stored)]
    lines += [f"  {node_text(node, state)}" for node in graph]
    return "\n".join([*lines, f"outputs  {', '.join(str(value.name) for value in graph.outputs)}"])


def node_text(node: ir.Node, state: State) -> str:
    outputs = ", ".join(value_text(value, state) for value in node.outputs)
    inputs = ", ".join("-" if value is None else str(value.name) for value in node.inputs)
    attributes = ", ".join(f"{key}={attribute_text(value)}" for key, value in node.attributes.items())
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    passes = provenance_of(node).passes
    origin = f"   # {provenance_of(node)}" if passes else ""
    return f"{outputs} = {operator}({inputs}{'; ' + attributes if attributes else ''}){origin}"


def attribute_text(attribute: ir.Attr) -> str:
    value = attribute.value
    return f"<{type(value).__name__}>" if isinstance(value, ir.TensorProtocol | ir.Graph) else str(value)


def value_text(value: ir.Value, state: State) -> str:
    """A value with its type and shape, and the record of its quantizer."""
    known = state.shapes.dims.get(value) if state.shapes is not None else None
    dtype = value.dtype if state.shapes is None else state.shapes.dtypes.get(value, value.dtype)
    shape = known if known is not None else value.shape
    sizes = ",".join(map(str, shape)) if shape is not None else "..."
    record = state.quantizers.get(value)
    rounded = f" @{record.bits} bits {record.low}..{record.high}" if record is not None else ""
    return f"{value.name}: {dtype.name.lower() if dtype is not None else '?'}[{sizes}]{rounded}"
