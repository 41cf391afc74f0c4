"""getac.optimize: a pipeline from a file to a file."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import getac
from getac.errors import BadInputError, GetacError, OptionError, PassError, VerificationError
from getac.onnx_graph.edit import array_of, replace_tensor
from getac.passes import FoldBatchNorm, Refusal
from getac.pipelines.optimizing import optimize
from tests.pipelines.own import Own
from tools.onnx_text import model_of
from tools.zoo.registry import ZOO

BODY = "c = Conv(x, w)  r = Relu(c)  y = Conv(r, v)"
F32 = np.float32


@pytest.fixture
def model():
    return model_of(BODY, {"x": [2, 3, 6, 6]}, {"w": (16, 3, 3, 3), "v": (4, 16, 1, 1)})


def raises(error):
    def action(state):
        raise error

    return Own(action)


def test_text_and_passes_are_the_same(model):
    one = optimize(model, "fold-batch-norm,remove-dead")
    other = optimize(model, [FoldBatchNorm(), "x" and getac.passes.RemoveDead()])
    assert [record.name for record in one.passes] == [record.name for record in other.passes]
    assert [record.added for record in one.passes] == [True, False, False]


def test_the_model_that_was_given_stays(model):
    before = model.SerializeToString()
    found = optimize(model, "slice-units{sparsity=0.5,align=8}")
    assert model.SerializeToString() == before
    assert found.model.graph.initializers["w"].shape.numpy() == (8, 3, 3, 3)
    assert found.state.choice.removed == 8


def test_records_are_written_back(tmp_path):
    """The result of passes that fold quantizers is quantized as before."""
    data = {"features": np.random.default_rng(0).normal(size=(8, 64)).astype(F32)}
    getac.lower(ZOO["mlp_gemm"](), tmp_path / "q.onnx", calibration=data, bench=False)
    found = optimize(tmp_path / "q.onnx", "fold-quantizers", tmp_path / "out.onnx", verify_each=True)
    assert [record.name for record in found.passes] == ["fold-quantizers", "write-quantizers", "remove-dead"]
    assert getac.compare(tmp_path / "q.onnx", tmp_path / "out.onnx", data).passed
    assert not any(node.op_type == "Relu" for node in found.model.graph)


@pytest.mark.parametrize("name", ["resnet", "transformer", "mlp_gemm"])
def test_every_pass_is_verified_on_quantized_models(tmp_path, name):
    model, rng = ZOO[name](), np.random.default_rng(0)
    data = {
        one.name: rng.normal(size=[d.dim_value or 4 for d in one.type.tensor_type.shape.dim]).astype(F32)
        for one in model.graph.input
    }
    getac.lower(model, tmp_path / "q.onnx", calibration=data, bench=False)
    passes = "fold-quantizers,infer-axes,slice-units{sparsity=0.3,align=8},lower-integers{target=portable}"
    found = optimize(tmp_path / "q.onnx", passes, tmp_path / "out.onnx", verify_each=True)
    assert [check.name for check in found.checks] == [record.name for record in found.passes]
    assert found.state.choice.removed > 0
    by_name = {check.name: check for check in found.checks}
    assert by_name["slice-units"].worst.sqnr_db > 20 and by_name["fold-quantizers"].worst.sqnr_db > 20


def test_a_wrong_pass_on_a_quantized_model_is_caught(tmp_path, model):
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(F32)
    getac.lower(model, tmp_path / "q.onnx", calibration={"x": x}, bench=False)

    def negate(state):
        value = next(v for v in state.quantizers if v.is_initializer())
        replace_tensor(value, -array_of(value))

    from getac.passes import FoldQuantizers

    with pytest.raises(VerificationError, match="the pass own changes what the model computes"):
        optimize(tmp_path / "q.onnx", [FoldQuantizers(), Own(negate)], tmp_path / "o.onnx", verify_each=True)
    assert not (tmp_path / "o.onnx").exists()


def test_what_happened_as_json(model):
    found = optimize(model, [Own(lambda state: state.refuse("own", Refusal("c", "because", "try")))])
    content = json.loads(found.as_json())
    assert content["refusals"] == {"own": [{"where": "c", "reason": "because", "hint": "try"}]}
    assert [one["name"] for one in content["passes"]] == ["own"] and content["checks"] == []


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyError("x"), AssertionError(), RecursionError("deep"), StopIteration(3)]
)
def test_whatever_a_pass_raises_names_it(model, tmp_path, error):
    with pytest.raises(PassError, match="the pass own failed") as caught:
        optimize(model, [raises(error)], tmp_path / "o.onnx")
    assert caught.value.__cause__ is error
    assert caught.value.found == f"{type(error).__name__}: {error}"
    assert "test_optimizing.py, line " in caught.value.where and caught.value.where.endswith("in action")
    assert not (tmp_path / "o.onnx").exists()


def test_errors_of_getac_pass_through(model):
    error = BadInputError("mine")
    with pytest.raises(GetacError) as caught:
        optimize(model, [raises(error)])
    assert caught.value is error


def test_an_interrupt_passes_through(model):
    with pytest.raises(KeyboardInterrupt):
        optimize(model, [raises(KeyboardInterrupt())])


def test_a_result_that_is_no_onnx_is_not_written(model, tmp_path):
    def break_it(state):
        state.model.graph.node(1).op_type = "NoSuchOperator"

    with pytest.raises(GetacError):
        optimize(model, [Own(break_it)], tmp_path / "o.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bad_inputs_are_refused_before_anything_runs(model, tmp_path):
    ran = []
    onnx.save(model, tmp_path / "m.onnx")
    own = Own(lambda state: ran.append(1))
    for arguments in (
        (tmp_path / "none.onnx", [own]),
        (tmp_path / "m.onnx", [own], tmp_path / "m.onnx"),
        (tmp_path / "m.onnx", [own], tmp_path / "no" / "o.onnx"),
        (tmp_path / "m.onnx", "own"),
    ):
        with pytest.raises(BadInputError):
            optimize(*arguments)
    with pytest.raises(OptionError):
        optimize(model, "slice-units{sparsity=2}")
    assert ran == []


def test_data_settles_what_the_model_leaves_open(tmp_path):
    model = model_of(BODY, {"x": ["N", 3, "H", "H"]}, {"w": (16, 3, 3, 3), "v": (4, 16, 1, 1)})
    x = np.random.default_rng(0).normal(size=(4, 3, 9, 9)).astype(F32)
    passes = "infer-axes,slice-units{sparsity=0.5,align=8},lower-integers"
    found = optimize(model, passes, tmp_path / "o.onnx", calibration={"x": x}, verify_each=True)
    assert found.state.bindings["H"] == 9
    shape = [
        d.dim_param or d.dim_value
        for d in onnx.load(tmp_path / "o.onnx").graph.input[0].type.tensor_type.shape.dim
    ]
    assert shape == ["N", 3, "H", "H"]


def test_a_model_in_memory_of_either_kind(model):
    one = optimize(model, "fold-batch-norm").model
    other = optimize(ir.from_proto(model), "fold-batch-norm").model
    assert [node.op_type for node in one.graph] == [node.op_type for node in other.graph]


def test_outputs_of_text_are_no_matter_where_nothing_is_compared():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[2] x) => (float[2] y, string[1] s) <string[1] t = {"a"}> { y = Relu(x)  s = Identity(t) }"""
    model = onnx.parser.parse_model(text)
    assert len(optimize(model, "remove-dead").model.graph) == 2
    with pytest.raises(BadInputError, match="cannot be compared"):
        optimize(model, "remove-dead", verify_each=True)


def test_a_negative_seed_is_refused(model):
    with pytest.raises(OptionError, match="the seed is a whole number of 0 or more"):
        optimize(model, "remove-dead", verify_each=True, seed=-1)


@pytest.mark.parametrize("taken", ["w", "v"])
def test_whatever_an_input_chooses_is_looked_at(taken):
    """One number of a fixed shape takes one of two ways; a weight on the other would be of no matter."""
    text = (
        '<ir_version: 10, opset_import: ["": 21]> g (float[2,4] x, bool c) => (float[2,4] y)'
        " { a = Mul(x, w)  b = Add(x, v)  y = Where(c, a, b) }"
    )
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.ones(4, F32), name) for name in "wv")

    def triple(state):
        value = state.model.graph.initializers[taken]
        replace_tensor(value, array_of(value) * F32(3))

    with pytest.raises(VerificationError, match="own"):
        optimize(model, [Own(triple)], verify_each=True)
