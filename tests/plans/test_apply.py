"""getac apply: the units and bits of a plan, on another checkpoint of the same structure."""

from __future__ import annotations

import inspect
import json
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import getac
from getac.errors import BadInputError, CalibrationError, OptionError
from getac.onnx_graph.read import load
from getac.plans.saved_plan import read_plan
from tools.onnx_text import model_of
from tools.zoo.registry import ZOO

BODY = "c = Conv(x, conv1)  r = Relu(c)  d = Conv(r, conv2)  e = Relu(d)  y = Conv(e, conv3)"
SHAPES = {"conv1": (16, 3, 3, 3), "conv2": (16, 16, 1, 1), "conv3": (8, 16, 1, 1)}


def checkpoint(seed=0, body=BODY, **shapes):
    return model_of(body, {"x": ["N", 3, 6, 6]}, {**SHAPES, **shapes}, seed=seed)


def data(seed=0, scale=1.0):
    return {"x": scale * np.random.default_rng(seed).normal(size=(8, 3, 6, 6)).astype(np.float32)}


@pytest.fixture
def plan(tmp_path):
    """A plan of checkpoint 0: half of the units, 8 bits; and what it made."""
    path = tmp_path / "plan.json"
    getac.lower(
        checkpoint(), tmp_path / "first.onnx", sparsity=0.5, calibration=data(), plan=path, bench=False
    )
    return path


def edited(plan, edit):
    content = json.loads(plan.read_text())
    edit(content)
    plan.write_text(json.dumps(content))
    return plan


def apply(plan, model, output=None, **options):
    return getac.apply(plan, model, output, bench=False, **options)


def quantizers_of(model):
    return getac.inspect(model).quantizers


# What is replayed


@pytest.mark.parametrize("name", ["resnet", "transformer", "shufflenet_v2", "unet"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_on_its_own_model_the_result_is_the_same_file(tmp_path, name, calibrated):
    model, rng = ZOO[name](), np.random.default_rng(0)
    arrays = {
        one.name: rng.normal(size=[d.dim_value or 4 for d in one.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for one in model.graph.input
    }
    first, again, path = tmp_path / "first.onnx", tmp_path / "again.onnx", tmp_path / "p.json"
    calibration = arrays if calibrated else None
    getac.lower(model, first, sparsity=0.3, calibration=calibration, plan=path, bench=False)
    report = apply(path, model, again)
    assert first.read_bytes() == again.read_bytes()
    assert report.calibrated is calibrated and report.sparsity > 0


def test_another_checkpoint_loses_the_same_units(plan, tmp_path):
    report = apply(plan, checkpoint(seed=1), tmp_path / "out.onnx")
    assert report.verification.passed and report.sparsity == 0.5
    assert report.notes == [f"units and bits are those of the plan {plan}"]
    kept = {one["name"]: one["kept"] for one in json.loads(plan.read_text())["classes"]}
    weights = {one.name: numpy_helper.to_array(one) for one in checkpoint(seed=1).graph.initializer}
    quantizers = quantizers_of(tmp_path / "out.onnx")
    expected = np.abs(weights["conv1"][kept["c0"]]).max(axis=(1, 2, 3)) / 127
    steps = next(q["step"] for name, q in quantizers.items() if name.startswith("conv1"))
    np.testing.assert_allclose(steps, expected, rtol=1e-6)  # of its own maxima


def test_activations_have_the_steps_of_the_plan(plan, tmp_path):
    apply(plan, checkpoint(seed=1), tmp_path / "out.onnx")
    planned = {n: q.quantizer for n, q in read_plan(plan).quantizers.items() if not q.stored}
    found = {n: q for n, q in quantizers_of(tmp_path / "out.onnx").items() if q["axis"] is None}
    assert planned and sorted(q["step"] for q in found.values()) == sorted(
        float(q.step) for q in planned.values()
    )


def test_with_data_ranges_are_measured_anew(plan, tmp_path):
    def fewer_bits(content):
        for one in content["quantizers"].values():
            if not one["stored"]:
                one.update(bits=6, low=0 if one["low"] == 0 else -31, high=63 if one["low"] == 0 else 32)

    edited(plan, fewer_bits)
    apply(plan, checkpoint(seed=1), tmp_path / "out.onnx", calibration=data(1, scale=10.0))
    found = {n: q for n, q in quantizers_of(tmp_path / "out.onnx").items() if q["axis"] is None}
    planned = {n: q.quantizer for n, q in read_plan(plan).quantizers.items() if not q.stored}
    assert {one["bits"] for one in found.values()} == {6}
    assert max(q["step"] for q in found.values()) > 3 * max(float(q.step) for q in planned.values())


def test_bits_are_those_of_the_plan(tmp_path):
    path = tmp_path / "p.json"
    options = {"weight_bits": 4, "activation_bits": 7, "calibration": data(), "bench": False}
    getac.lower(checkpoint(), plan=path, sparsity=0.25, **options)
    report = apply(path, checkpoint(seed=1))
    assert {(one.weight_bits, one.activation_bits) for one in report.layers} == {(4, 7)}


def test_weights_alone(tmp_path):
    path, model = tmp_path / "p.json", ZOO["mlp_matmul"]()
    getac.lower(model, tmp_path / "a.onnx", plan=path, sparsity=0.5, weight_bits=4, block=16, bench=False)
    report = apply(path, model, tmp_path / "b.onnx")
    assert not report.calibrated and {one.weight_bits for one in report.layers} == {4}
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_layers_that_the_plan_runs_in_floats_do(plan):
    edited(plan, lambda content: content["floats"].update(d="it was quicker"))
    report = apply(plan, checkpoint(seed=1), calibration=data())
    assert {one.name: one.reason for one in report.layers}["d"] == "it was quicker"


def test_dead_units_leave_the_function_as_it_is(tmp_path):
    def dead(seed, value):
        model = checkpoint(seed)
        for one in model.graph.initializer:
            if one.name == "conv1":
                array = numpy_helper.to_array(one).copy()
                array[:8] = value * array[:8]
                one.CopyFrom(numpy_helper.from_array(array, one.name))
        return model

    path = tmp_path / "p.json"
    getac.lower(dead(0, 0), plan=path, calibration=data(), bench=False)
    assert read_plan(path).exact
    same = apply(path, dead(1, 0))
    assert same.sparsity == 0.25 and same.verification.original[0].sqnr_db > 20
    masked = apply(path, dead(1, 1))  # held to the masked model: these units are needed here
    assert masked.verification.passed and masked.verification.original[0].sqnr_db < 20


def test_quantizers_of_the_model_stay(tmp_path, plan):
    getac.lower(checkpoint(1), tmp_path / "q.onnx", weight_bits=5, calibration=data(), bench=False)
    own = tmp_path / "own.json"
    getac.lower(tmp_path / "q.onnx", plan=own, sparsity=0.5, bench=False)
    assert {one.own for one in read_plan(own).quantizers.values()} == {True}

    def fewer_bits(content):
        for one in content["quantizers"].values():
            if one["stored"]:
                one.update(bits=4, low=-7, high=7)

    report = apply(edited(own, fewer_bits), tmp_path / "q.onnx")
    assert {one.weight_bits for one in report.layers} == {8}
    reasons = {one.reason for one in report.refusals["replay-quantizers"]}
    assert reasons == {"the model's own quantizer of 8 bits stays; the plan has 4"}


def test_keep_is_replayed(tmp_path):
    path = tmp_path / "p.json"
    getac.lower(checkpoint(), plan=path, sparsity=0.5, align=1, keep=["conv1"], bench=False)
    report = apply(path, checkpoint(1))
    shapes = {one.name: one.channels_out for one in report.layers}
    assert (shapes["c"], shapes["d"]) == (16, 8)


def test_a_trained_module_and_its_plan(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    def prepared(seed, bits):
        torch.manual_seed(seed)
        nn = torch.nn
        layers = (
            nn.Conv2d(3, 16, 3),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 4),
        )
        x = torch.randn(4, 3, 8, 8)
        return getac.prepare(
            nn.Sequential(*layers), x, weight_bits=bits, activation_bits=8, calibration=[x]
        ).eval()

    path = tmp_path / "p.json"
    one, other = prepared(0, 4), prepared(1, 6)
    first = getac.lower(one, tmp_path / "a.onnx", plan=path, sparsity=0.4, bench=False)
    apply(path, one, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    report = apply(path, other)
    assert report.sparsity == first.sparsity > 0 and [layer.weight_bits for layer in report.layers] == [
        8,
        6,
        8,
    ]


def test_options_are_those_of_lower():
    ours, theirs = (inspect.signature(one).parameters for one in (getac.apply, getac.lower))
    assert {name for name in ours if name not in theirs} == set()
    assert all(ours[name].default == theirs[name].default for name in ours if name not in ("plan", "model"))


# What is refused


def test_what_the_plan_says_is_no_option(plan):
    with pytest.raises(TypeError, match=r"^apply\(\) got an unexpected keyword argument 'sparsity'$"):
        apply(plan, checkpoint(), sparsity=0.5)


def test_another_structure_is_explained(plan):
    with pytest.raises(BadInputError, match="another structure") as error:
        apply(plan, checkpoint(conv1=(32, 3, 3, 3), conv2=(16, 32, 1, 1)))
    assert error.value.found == (
        "conv1: 16 x 3 x 3 x 3 in the plan, 32 x 3 x 3 x 3 here; "
        "conv2: 16 x 16 x 1 x 1 in the plan, 16 x 32 x 1 x 1 here"
    )
    assert error.value.where == str(plan)


def test_another_operator_is_explained(plan):
    with pytest.raises(BadInputError) as error:
        apply(plan, checkpoint(body=BODY.replace("e = Relu", "e = Tanh")))
    assert error.value.found == "node 3, e: Relu in the plan, Tanh here"


def test_a_class_that_is_frozen_here_is_named(plan):
    edited(plan, put(1, "classes", 0, "members", 0, "dimension"))
    with pytest.raises(BadInputError, match="another structure") as error:
        apply(plan, checkpoint())
    said = "c0 (16 units, conv1[1]) loses 8 units in the plan, and is frozen here: a graph input"
    assert error.value.found.startswith(said)


def test_other_members_are_told(plan):
    edited(plan, lambda content: content["classes"][0]["members"].pop())
    with pytest.raises(BadInputError) as error:
        apply(plan, checkpoint())
    assert "has other members here: conv1[0], conv2[1]" in error.value.found


def test_an_activation_that_the_plan_does_not_have(plan):
    edited(plan, lambda content: content["quantizers"].pop("x"))
    with pytest.raises(CalibrationError, match="need calibration data") as error:
        apply(plan, checkpoint())
    assert error.value.where == "x"
    assert apply(plan, checkpoint(), calibration=data()).verification.passed


def test_the_hash_is_the_structure_s(plan):
    edited(plan, lambda content: content["structure"].update(hash="sha256:" + "0" * 64))
    with pytest.raises(BadInputError) as error:
        apply(plan, checkpoint())
    assert error.value.found == "the hash of the plan is not that of its structure"


def test_names_that_are_not_here_are_listed(plan):
    def unknown(content):
        content["quantizers"].update(
            weight=content["quantizers"]["conv1"], activation=content["quantizers"]["x"]
        )
        content["floats"].update(layer="it was quicker")

    report = apply(edited(plan, unknown), checkpoint(1))
    found = {one.where: one.reason for one in report.refusals["replay-quantizers"]}
    assert found == {
        "weight": "the plan has 8 bits for it; nothing here is called so",
        "layer": "the plan runs it in floats; no node here is called so",
    }
    (one,) = report.refusals["calibrate"]
    assert (one.where, one.reason) == (
        "activation",
        "the plan has a quantizer for it; nothing here needs one",
    )


@pytest.mark.parametrize("name", ["mobilenet_v2", "se_net", "transformer", "unet"])
def test_nothing_of_a_plan_of_its_own_is_unknown(tmp_path, name):
    model, rng = ZOO[name](), np.random.default_rng(0)
    shapes = {
        one.name: [d.dim_value or 4 for d in one.type.tensor_type.shape.dim] for one in model.graph.input
    }
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    getac.lower(model, calibration=arrays, plan=tmp_path / "p.json", bench=False)
    report = apply(tmp_path / "p.json", model)
    assert not {"replay-quantizers", "calibrate"} & report.refusals.keys()


def test_classes_with_the_same_members_are_told_apart(tmp_path):
    """Two classes lie along one dimension in a grouped network: each loses its own units."""
    path, model = tmp_path / "p.json", ZOO["shufflenet_v1"]()
    first = getac.lower(model, sparsity=0.5, align=1, plan=path, bench=False)
    places = [tuple((m["parameter"], m["dimension"]) for m in one["members"]) for one in read_content(path)]
    assert len(set(places)) < len(places)
    again = apply(path, model)
    assert again.sparsity == first.sparsity > 0.2


def read_content(path):
    return json.loads(path.read_text())["classes"]


def test_a_negative_seed_is_refused(plan, command):
    with pytest.raises(OptionError, match="the seed is a whole number of 0 or more"):
        apply(plan, checkpoint(), seed=-1)
    code, out, err = command("plan.json", "m.onnx", "-o", "o.onnx", "--seed", "-1")
    assert (code, out) == (2, "") and "--seed" in err and "Traceback" not in err


def drop(*path):
    def edit(content):
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return edit


def put(value, *path):
    def edit(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (put(1, "plan_version"), ["another version", "version 2", "version 1", "write it anew"]),
        (put(3, "plan_version"), ["another version", "version 3", "the getac that wrote it"]),
        (put(True, "plan_version"), ["another version", "True"]),
        (drop("plan_version"), ["this is not a plan"]),
        (drop("classes"), ["'classes' is missing"]),
        (drop("structure", "hash"), ["'hash' is missing"]),
        (put([], "classes", 0, "kept"), ["c0 would lose all of its 16 units"]),
        (put([0, 16], "classes", 0, "kept"), ["keeps units that are not among its 16", "[0, 16]"]),
        (put([1, 0], "classes", 0, "kept"), ["not in order"]),
        (put([-1, 0], "classes", 0, "kept"), ["not among"]),
        (put([True], "classes", 0, "kept"), ["a unit of c0 is of type bool"]),
        (put(8, "classes", 0, "units"), ["keeps units that are not among its 8"]),
        (put("x", "classes"), ["classes is of type str"]),
        (put(float("nan"), "quantizers", "x", "step"), ["not a positive number", "quantizer of x"]),
        (put(0, "quantizers", "x", "step"), ["not a positive number"]),
        (put([1.0, "a"], "quantizers", "conv1", "step"), ["steps of conv1"]),
        (put([[1.0]], "quantizers", "conv1", "step"), ["steps of conv1"]),
        (put([1.0, [2.0]], "quantizers", "conv1", "step"), ["what no plan says"]),
        (put(5, "quantizers", "x", "low"), ["integers 5 to"]),
        (put(3, "quantizers", "x", "bits"), ["has 3 bits"]),
        (put(-1, "quantizers", "conv1", "axis"), ["axis -1"]),
        (put(7, "quantizers", "conv1", "axis"), ["does not fit the weight", "conv1", "dimension 7"]),
        (put("me", "quantizers", "x", "of"), ["is of 'me'"]),
        (put(3, "floats"), ["floats is of type int"]),
        (put({"x": []}, "quantizers"), ["what no plan says"]),
        (put("name", "source"), ["source is of type str"]),
        (put(1, "mine"), ["the plan has 'mine'"]),
        (put(1, "structure", "mine"), ["structure has 'mine'"]),
        (put(1, "classes", 0, "mine"), ["a class has 'mine'"]),
        (put(1, "classes", 0, "members", 0, "mine"), ["a member of c0 has 'mine'"]),
        (put(1, "quantizers", "x", "mine"), ["the quantizer of x has 'mine'"]),
        (put(1, "structure", "operations", 0, "mine"), ["Operation has 'mine'"]),
        (put({"name": "m"}, "source"), ["'sha256' is missing"]),
        (drop("versions"), ["'versions' is missing"]),
        (put({"onnx": 1}, "versions"), ["the version of onnx is of type int"]),
        (put(7, "sparsity"), ["sparsity is 7"]),
        (put(True, "sparsity"), ["sparsity is True"]),
        (put("Foo", "structure", "operations", 0, "operator"), ["the hash of the plan is not that"]),
        (put([], "classes", 0, "members"), ["c0 has no members"]),
        (put(-1, "classes", 0, "members", 0, "dimension"), ["along dimension -1"]),
        (lambda plan: plan["classes"].append(plan["classes"][0]), ["there are 2 classes c0"]),
        (lambda plan: plan["classes"].append({**plan["classes"][0], "name": "c9"}), ["once more than here"]),
        (lambda plan: plan["quantizers"]["r"].update(axis=1, step=[0.1] * 8), ["r has steps along axis 1"]),
        (put(4, "quantizers", "conv1", "block"), ["does not fit the weight", "4 dimensions", "steps in 1"]),
        (put(1e300, "quantizers", "x", "step"), ["not a positive number"]),
        (put(True, "quantizers", "x", "stored"), ["does not fit the activation", "a stored tensor"]),
        (
            lambda plan: plan["quantizers"]["conv1"].update(stored=False, axis=None, step=1.0),
            ["does not fit the weight", "an activation"],
        ),
    ],
)
def test_plans_that_say_what_no_plan_says(plan, edit, words):
    edited(plan, edit)
    with pytest.raises(BadInputError) as error:
        apply(plan, checkpoint())
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("content", [b"no JSON", b"\xff\xfe\x00", b"[]", b"null", b"", b"[" * 100_000])
def test_files_that_are_no_plan(tmp_path, content):
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(BadInputError, match=r"not JSON|not a plan"):
        apply(tmp_path / "p.json", checkpoint())


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(BadInputError, match="the plan cannot be read") as error:
        apply(tmp_path / "p.json", checkpoint())
    assert error.value.found == "No such file or directory"
    with pytest.raises(BadInputError, match="the plan cannot be read"):
        apply(tmp_path, checkpoint())


# The command line


@pytest.fixture
def command(command_line, monkeypatch, tmp_path):
    onnx.save(checkpoint(1), tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    return partial(command_line, "apply")


def test_the_command(command, plan, tmp_path):
    np.savez(tmp_path / "c.npz", **data(1))
    code, out, err = command(
        *("plan.json", "m.onnx", "-o", "o.onnx", "--calibration", "c.npz", "--report", "r.json", "--no-bench")
    )
    assert (code, err) == (0, "")
    assert "removed 16 of 32 units (50%)" in out and "units and bits are those of the plan plan.json" in out
    assert "verified and written to o.onnx" in out
    assert json.loads((tmp_path / "r.json").read_text())["sparsity"] == 0.5
    assert load(tmp_path / "o.onnx").graph.initializers


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_the_plan_is_not_overwritten(command, plan, option):
    before = plan.read_bytes()
    others = ["-o", "o.onnx"] if option == "--report" else []
    code, out, err = command("plan.json", "m.onnx", *others, option, "plan.json")
    assert (code, out) == (2, "") and "same file as an input" in err
    assert plan.read_bytes() == before


def test_a_wrong_plan_exits_with_2(command, plan, tmp_path):
    edited(plan, put([], "classes", 0, "kept"))
    code, out, err = command("plan.json", "m.onnx", "-o", "o.onnx")
    assert (code, out) == (2, "") and err.startswith("getac: the plan says what no plan says\n")
    assert "Traceback" not in err and not (tmp_path / "o.onnx").exists()
