"""The smallest part of a model on which something is still true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.errors import OptionError, PassError
from getac.onnx_graph.shapes import infer_shapes
from getac.passes import Fact
from getac.pipelines.optimizing import optimize, reduce_failure
from getac.pipelines.reducing import part_of, reduce_model
from getac.runtime import open_session, run
from tools.onnx_text import model_of

CHAIN = "a = Relu(x)  b = Tanh(a)  c = MatMul(b, w)  d = Sigmoid(c)  e = Add(d, d)  y = Neg(e)"
LONG = "  ".join(f"v{i} = Relu({f'v{i - 1}' if i else 'x'})" for i in range(30)) + "  y = Tanh(v29)"


def chain(body=CHAIN, tensors=None):
    return ir.from_proto(model_of(body, {"x": ["N", 4]}, {"w": (4, 4)} if tensors is None else tensors))


def kinds(model):
    return [node.op_type for node in model.graph]


def has(*wanted):
    def fails(model):
        return set(wanted) <= set(kinds(model))

    return fails


def is_valid(model):
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return True


@pytest.mark.parametrize("wanted", [("Tanh",), ("MatMul", "Neg"), ("Relu", "Neg"), ("Sigmoid", "Add", "Neg")])
def test_what_does_not_matter_is_left_out(wanted):
    part, tries = reduce_model(chain(), has(*wanted))
    assert kinds(part) == [kind for kind in kinds(chain()) if kind in wanted]
    assert 0 < tries < 40 and is_valid(part)


def test_edges_count():
    """A failure that needs two nodes in a row."""

    def fails(model):
        return any(
            node.op_type == "Sigmoid"
            and node.inputs[0].producer() is not None
            and node.inputs[0].producer().op_type == "MatMul"
            for node in model.graph
        )

    part, _ = reduce_model(chain(), fails)
    assert kinds(part) == ["MatMul", "Sigmoid"]
    assert [one.name for one in part.graph.inputs] == ["b"] and list(part.graph.initializers) == ["w"]
    assert [one.name for one in part.graph.outputs] == ["d"]


def test_a_long_model_takes_few_tries():
    part, tries = reduce_model(chain(LONG, {}), has("Tanh"))
    assert kinds(part) == ["Tanh"] and tries < 20


def test_tries_are_bounded():
    part, tries = reduce_model(chain(LONG, {}), lambda model: len(model.graph) > 2, max_tries=3)
    assert tries <= 4 and 2 < len(part.graph) < 31


def test_nothing_can_be_left_out():
    model = chain()
    part, _ = reduce_model(model, lambda one: len(one.graph) == 6)
    assert kinds(part) == kinds(model)


def test_the_model_stays_as_it_is():
    model = chain()
    before = str(ir.to_proto(model))
    reduce_model(model, has("Add"))
    assert str(ir.to_proto(model)) == before


def test_a_part_computes_what_the_model_computes():
    model = chain()
    part = part_of(model, [2, 3], infer_shapes(model))
    b = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    w = model.graph.initializers["w"].const_value.numpy()
    (found,) = run(open_session(part), {"b": b}).values()
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-b @ w)), rtol=1e-5)


def test_parts_that_cannot_be_typed_are_skipped():
    """Nobody knows the type of what an operator without a schema makes: nothing can be cut there."""
    text = """<ir_version: 10, opset_import: ["" : 21, "mine" : 1]>
    g (float[2, 4] x) => (float[2, 4] y) { a = Relu(x)  b = mine.Odd(a)  c = Tanh(b)  y = Neg(c) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert part_of(model, [2, 3], infer_shapes(model)) is None
    part, _ = reduce_model(model, has("Tanh"))
    assert kinds(part) == ["Odd", "Tanh"]


def test_branches_go_with_their_node():
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[2] x, bool c) => (float[2] y) {
        a = Relu(x)  b = If(c) <then_branch = t () => (float[2] o) { o = Neg(a) },
                                else_branch = e () => (float[2] p) { p = Abs(a) }>  y = Tanh(b) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    part, _ = reduce_model(model, has("If"))
    assert kinds(part) == ["If"] and {one.name for one in part.graph.inputs} == {"a", "c"}
    assert is_valid(part)


@dataclass(frozen=True)
class Picky:
    """Raises at a Sigmoid, and in another way at a Neg."""

    name: ClassVar[str] = "picky"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, state):
        found = kinds(state.model)
        if "Sigmoid" in found:
            raise LookupError("a Sigmoid")
        if "Neg" in found:
            raise ValueError("a Neg")


def test_another_failure_is_not_the_same(tmp_path):
    """Without the Sigmoid the pass fails as well, and differently."""
    found = reduce_failure(chain(), [Picky()], tmp_path / "small.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node] == ["Sigmoid"]
    assert found.nodes == (6, 1) and found.tries > 0
    assert isinstance(found.error, PassError) and "LookupError: a Sigmoid" in found.error.found
    with pytest.raises(PassError, match="the pass picky failed"):
        optimize(tmp_path / "small.onnx", [Picky()])


def test_nothing_to_reduce(tmp_path):
    with pytest.raises(OptionError, match="there is nothing to reduce") as error:
        reduce_failure(chain("y = Relu(x)", {}), [Picky()], tmp_path / "small.onnx")
    assert "--verify-each" in error.value.hint
    assert list(tmp_path.iterdir()) == []
