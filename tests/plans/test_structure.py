"""What two checkpoints of an architecture have in common, and how structures differ, in words."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from getac.analyzing import analyze_onnx
from getac.axes.wishes import NO_WISHES
from getac.plans.structure import structure_of
from getac.plans.structure_differences import differences, first_differences
from tools.onnx_text import model_of
from tools.zoo.registry import ZOO

BODY = "c = Conv(x, conv1)  r = Relu(c)  d = Conv(r, conv2)  f = Reshape(d, sizes)  y = MatMul(f, fc)"
SHAPES = {"conv1": (8, 3, 3, 3), "conv2": (4, 8, 1, 1), "fc": (64, 10)}
SIZES = np.array([-1, 64])


def structure(body=BODY, inputs=("N", 3, 6, 6), seed=0, edit=None, **tensors):
    model = model_of(body, {"x": list(inputs)}, {**SHAPES, "sizes": SIZES, **tensors}, seed=seed)
    return of_proto(edit(model) or model if edit else model)


def of_proto(model):
    state, _ = analyze_onnx(model, NO_WISHES)
    return structure_of(state.model, state.shapes)


def words(**other):
    return list(differences(structure(), structure(**other)))


def test_weights_are_no_part_of_it():
    assert structure().hash == structure(seed=1).hash
    assert structure().hash.startswith("sha256:")
    assert words(seed=1) == []


def test_the_file_and_its_names_are_no_part_of_it():
    def rename(model):
        model.producer_name, model.doc_string, model.graph.name = "somebody", "words", "other"
        model.metadata_props.add(key="a", value="b")
        for node in model.graph.node:
            node.name, node.doc_string = f"other_{node.name}", "words"

    assert structure(edit=rename).hash == structure().hash
    assert structure(inputs=("batch", 3, 6, 6)).hash == structure().hash


def test_the_text_of_a_structure():
    found = structure()
    assert [(one.name, one.type, one.shape) for one in found.inputs] == [("x", "float", "N x 3 x 6 x 6")]
    shapes = {one.name: (one.shape, one.contents) for one in found.parameters}
    assert shapes["conv1"] == ("8 x 3 x 3 x 3", "") and shapes["sizes"] == ("2", "[-1, 64]")
    conv, relu = found.operations[:2]
    assert (conv.name, conv.operator, conv.inputs) == ("c", "Conv", ("<0>", "conv1"))
    assert conv.shapes == ("N x 8 x 4 x 4",)
    assert (relu.operator, relu.inputs) == ("Relu", ("#0",))
    assert found.outputs == ("#4",)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            {"conv1": (16, 3, 3, 3), "conv2": (4, 16, 1, 1)},
            [
                "conv1: 8 x 3 x 3 x 3 in the plan, 16 x 3 x 3 x 3 here",
                "conv2: 4 x 8 x 1 x 1 in the plan, 4 x 16 x 1 x 1 here",
            ],
        ),
        ({"inputs": (2, 3, 6, 6)}, ["the input x: N x 3 x 6 x 6 in the plan, 2 x 3 x 6 x 6 here"]),
        ({"body": BODY.replace("Relu", "Tanh")}, ["node 1, r: Relu in the plan, Tanh here"]),
        (
            {"body": BODY.replace("Relu(c)", "LeakyRelu<alpha=0.5>(c)")},
            ["node 1, r: Relu in the plan, LeakyRelu here"],
        ),
        (
            {"body": BODY.replace("Conv(r, conv2)", "Conv<group=1>(r, conv2)")},
            ["node 2, d (Conv): no attributes in the plan, group=1 here"],
        ),
        ({"sizes": np.array([0, 64])}, ["sizes: [-1, 64] in the plan, [0, 64] here"]),
        (
            {"body": BODY.replace("Relu(c)", "Relu(c)  q = Relu(r)").replace("Conv(r", "Conv(q")},
            ["node 2, q: Conv in the plan, Relu here", "5 nodes in the plan, 6 here"],
        ),
        (
            {"body": BODY.replace("conv2", "other"), "other": (4, 8, 1, 1)},
            [
                "conv2 (4 x 8 x 1 x 1) is not here",
                "other (4 x 8 x 1 x 1) is not in the plan",
                "node 2, d (Conv) reads: #1, conv2 in the plan, #1, other here",
            ],
        ),
    ],
)
def test_differences_are_told(other, told):
    assert words(**other) == told
    assert structure(**other).hash != structure().hash


def test_other_edges_are_a_difference():
    body = "a = Relu(x)  b = Tanh(x)  y = Sub(a, b)"
    found = list(differences(structure(body), structure(body.replace("a, b", "b, a"))))
    assert found == ["node 2, y (Sub) reads: #0, #1 in the plan, #1, #0 here"]


def test_branches_are_compared():
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] o) { o = Neg(x) },
                   else_branch = e () => (float[2] p) { p = Abs(x) }> }"""
    one = of_proto(onnx.parser.parse_model(text))
    same = of_proto(onnx.parser.parse_model(text.replace("o = ", "q = ").replace("[2] o", "[2] q")))
    other = of_proto(onnx.parser.parse_model(text.replace("Neg", "Relu")))
    assert "then_branch={Neg(<0>; ): 2" in one.operations[0].attributes
    assert one.hash == same.hash != other.hash


def test_many_differences_are_cut_short():
    tensors = {f"{name}{i}": shape for i in range(3) for name, shape in SHAPES.items()}
    here = structure("y = Relu(x)")
    planned = structure(f"{BODY}  " + "  ".join(f"u{i} = Neg({n})" for i, n in enumerate(tensors)), **tensors)
    text = first_differences(planned, here)
    assert text.startswith("conv1 (8 x 3 x 3 x 3) is not here; ") and " more" in text


@pytest.mark.parametrize("name", ZOO)
def test_every_family_has_a_structure_that_is_read_twice_alike(name):
    one, again = of_proto(ZOO[name]()), of_proto(ZOO[name]())
    assert one.hash == again.hash and list(differences(one, again)) == []
    assert "0x" not in str(one.as_content())  # no object's address
