"""From a trained module to ONNX: quantizers become QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen  # what a captured graph returns
from torch.utils import _pytree as pytree

from getac.fx_graph.call import is_tensor
from getac.fx_graph.onnx_export import export_module
from getac.onnx_graph.output_names import name_outputs
from getac.onnx_graph.read import read_proto
from getac.onnx_graph.write import check_output, write_model
from getac.passes import Pipeline, SpellQuantizers, State
from getac.training.quantizers import is_quantizer, is_stored
from getac.training.state import state_of

__all__ = ["export", "to_onnx"]

OPSET = 21
"""The first that has integers of 4 and 16 bits."""

ONE = "exponent_of_one"


def export(module: fx.GraphModule, path: str | os.PathLike[str]) -> Path:
    """Writes a prepared module, in evaluation mode, to an ONNX file that any ONNX tool understands.

    Parameters keep their names, the batch size stays open, and what the module returns in a dictionary has
    its keys for names. A quantized weight `X` is stored as integers `X.int` with a DequantizeLinear, exactly
    as trained; an activation with an exponent other than 1 is a call of a function
    of the domain `getac` whose body is made of standard operators.

    Raises:
        BadInputError: The module does not come from `getac.prepare`, or cannot be exported.
        OutputError: The file cannot be written.
    """
    check_output(path)  # before the work
    write_model(to_onnx(module), path)
    return Path(path)


def to_onnx(module: fx.GraphModule) -> ir.Model:
    """The same in memory."""
    state = state_of(module)
    spelled = with_symbols(module)
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.cpu, (tuple(state.args), dict(state.kwargs)))
    proto = export_module(spelled, args, kwargs, dynamic_batch=state.dynamic_batch, opset_version=OPSET)
    found = State(read_proto(proto))
    Pipeline((SpellQuantizers(),)).run(found)
    names = result_names(module)
    if len(names) == len(found.model.graph.outputs):
        name_outputs(found.model.graph, names)
    return found.model


def result_names(module: fx.GraphModule) -> list[str]:
    """The keys of a flat dictionary that the module returns, in the order of the outputs; else none."""
    codegen, results = module.graph._codegen, next(iter(module.graph.output_node().args))
    if not isinstance(codegen, _PyTreeCodeGen) or not isinstance(results, tuple | list):
        return []
    spec = codegen.pytree_info.out_spec
    found = pytree.tree_unflatten(list(range(len(results))), spec) if spec is not None else None
    if not isinstance(found, Mapping) or not all(isinstance(index, int) for index in found.values()):
        return []
    keys = {index: str(key) for key, index in found.items()}
    return [keys[index] for index, result in enumerate(results) if isinstance(result, fx.Node)]


def with_symbols(module: fx.GraphModule) -> fx.GraphModule:
    """The module on the CPU with every quantizer a node that torch's exporter hands through."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graph.set_codegen(copy.copy(module.graph._codegen))
    copied = fx.GraphModule(module, graph)
    if any(tensor.device.type != "cpu" for tensor in module.parameters()):
        copied = copy.deepcopy(copied).cpu()
    copied.register_buffer(ONE, torch.ones(()))
    for node in filter(is_quantizer, list(copied.graph.nodes)):
        with copied.graph.inserting_before(node):
            node.target, x, exponent = symbol, node.args[0], node.args[3]
            node.update_arg(3, copied.graph.get_attr(ONE) if exponent is None else exponent)
            if isinstance(x, fx.Node) and x.op == "call_function" and is_stored(x):
                copied.register_buffer(x.name, computed(copied, x))
                node.update_arg(0, copied.graph.get_attr(x.name))
    separate_results(copied.graph)
    copied.graph.eliminate_dead_code()
    return fx.GraphModule(copied, copied.graph)  # without what was only there to compute weights


def separate_results(graph: fx.Graph) -> None:
    """Copies an input that is returned, and what is returned twice: in ONNX each output is a value."""
    output = graph.output_node()
    results, seen = [], set()
    with graph.inserting_before(output):
        for one in output.args[0] if isinstance(output.args[0], tuple | list) else ():
            again = isinstance(one, fx.Node) and is_tensor(one) and (one in seen or one.op == "placeholder")
            seen.add(one)
            results.append(graph.call_function(torch.ops.aten.clone.default, (one,)) if again else one)
    if results:
        output.args = (tuple(results),)


@torch.no_grad()
def computed(module: nn.Module, node: fx.Node) -> Tensor:
    """A weight that a module makes of its parameters, as weight norms do: it will not change any more."""
    if node.op == "get_attr":
        return attrgetter(str(node.target))(module)  # type: ignore[no-any-return]
    assert callable(node.target)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: computed(module, one))
    return node.target(*args, **kwargs)  # type: ignore[no-any-return]


def symbol(
    x: Tensor,
    d: Tensor,
    q_m: Tensor,
    t: Tensor,
    axis: int | None,
    signed: bool,
    least_bits: float,
    most_bits: float,
) -> Tensor:
    """A node `getac::FakeQuantize`, which the pass spell-quantizers rewrites."""
    attributes: dict[str, Any] = {
        "signed": int(signed),
        "least_bits": float(least_bits),
        "most_bits": float(most_bits),
    }
    if axis is not None:
        attributes["axis"] = axis
    return torch.onnx.ops.symbolic(
        "getac::FakeQuantize", (x, d, q_m, t), attributes, dtype=x.dtype, shape=x.shape, version=1
    )
