"""`getac.export`: an ONNX file that computes what the module computes, and whose weights are integers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import getac  # noqa: E402
from getac.errors import BadInputError, OutputError, UnsupportedModelError  # noqa: E402
from getac.runtime import open_session, run  # noqa: E402
from getac.training.quantizers import find_quantizers  # noqa: E402
from tests.training.nets import ConvNet, Normalized, Tied, captured, ids, images, some_units, steps  # noqa: E402
from tools.fx_law import difference, outputs_of, randomize  # noqa: E402

BOUND = 1e-6  # relative: float sums in another order


def prepared(model: torch.nn.Module | None = None, *args: Any, bits: int = 8, **options: Any) -> Any:
    torch.manual_seed(0)
    model, args = model or ConvNet(), args or (images(),)
    randomize(model, 0)
    options = {"overrides": {"*": bits}, **options}
    return getac.prepare(model, args, calibration=[args], **options)


def exported(module: Any, folder: Path) -> onnx.ModelProto:
    path = getac.export(module, folder / "model.onnx")
    assert path == folder / "model.onnx" and list(folder.iterdir()) == [path]
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path)


def departure(module: Any, model: onnx.ModelProto, x: torch.Tensor) -> float:
    """How far the file, each node run as written, is from the module in evaluation mode."""
    session = open_session(model.SerializeToString(), optimize=False)
    found = run(session, {session.get_inputs()[0].name: x.numpy()})
    return difference(
        outputs_of(copy.deepcopy(module), (x,), {}), [torch.tensor(one) for one in found.values()]
    )


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def operators(model: onnx.ModelProto) -> list[str]:
    return [f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.node]


def test_the_file_is_of_opset_21_with_an_open_batch_and_the_models_names(tmp_path: Path) -> None:
    module = prepared()
    model = exported(module, tmp_path)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 21)]
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        assert sizes[0].dim_param and all(one.dim_value for one in sizes[1:])
    kept = {
        "norm_a.weight",
        "norm_a.bias",
        "norm_a.running_mean",
        "norm_a.running_var",
        "b.bias",
        "head.bias",
    }
    assert kept <= tensors(model).keys()
    assert {f"{name}.weight.int" for name in ("a", "deep", "b", "head")} <= tensors(model).keys()
    assert not any(name.endswith((".d", ".q_m", ".t")) for name in tensors(model))
    for batch in (1, 2, 5):
        assert departure(module, model, images(batch)) <= BOUND


BITS = (2, 3, 4, 5, 7, 8, 9, 12, 16)


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_stored_as_the_integers_of_training(tmp_path: Path, per_channel: bool) -> None:
    """A layer of every number of bits, which its weight and its input have."""
    layers = [one for _ in BITS for one in (torch.nn.Linear(6, 6), torch.nn.Tanh())]
    inputs = ["input_1", "tanh", *(f"tanh_{i}" for i in range(1, len(BITS) - 1))]
    overrides = dict(zip(inputs, BITS, strict=True)) | {f"{2 * i}.weight": b for i, b in enumerate(BITS)}
    x = torch.randn(4, 6)
    module = prepared(torch.nn.Sequential(*layers), x, per_channel=per_channel, overrides=overrides)
    steps(module, torch.optim.Adam(module.parameters(), 1e-3), inputs=lambda seed: x)
    model = exported(module, tmp_path)
    weights = [one for one in find_quantizers(module) if one.of_weight]
    for quantizer, bits in zip(weights, BITS, strict=True):
        name, record = str(quantizer.x.target), quantizer.record()
        integers, scale = (tensors(model)[f"{name}.{one}"] for one in ("int", "scale"))
        assert integers.dtype == (np.int8 if bits <= 8 else np.int16)
        assert np.abs(integers).max() <= 2 ** (bits - 1) - 1
        assert scale.shape == ((6,) if per_channel else ())
        weight = module.get_parameter(name).detach().numpy()
        assert np.array_equal(integers * scale.reshape(-1, 1), record.quantize(weight))
    assert departure(module, model, x) <= BOUND


def test_activations_are_pairs_of_quantize_and_dequantize(tmp_path: Path) -> None:
    module = prepared()
    found = operators(exported(module, tmp_path))
    quantizers = find_quantizers(module)
    activations = sum(not one.of_weight for one in quantizers)
    assert 0 < activations < len(quantizers)
    assert found.count("QuantizeLinear") == activations
    assert found.count("DequantizeLinear") == len(quantizers)
    assert not [name for name in found if "::" in name]


def test_exponents_of_weights_are_in_their_integers(tmp_path: Path) -> None:
    module = prepared(bits=5, learn_exponents=True)
    with torch.no_grad():
        for name, one in module.named_parameters():
            if name.endswith(".t"):
                one.fill_(0.8)
    model = exported(module, tmp_path)
    assert not model.functions and departure(module, model, images(2)) <= BOUND


def test_an_exponent_of_an_activation_is_a_function_of_standard_operators(tmp_path: Path) -> None:
    module = prepared()
    quantizer = next(one for one in find_quantizers(module) if not one.of_weight)
    give_exponent(module, quantizer, 0.7)
    model = exported(module, tmp_path)
    [function] = model.functions
    assert function.domain == "getac" and not any(node.domain for node in function.node)
    assert sum(name.startswith("getac::") for name in operators(model)) == 1
    assert {one.domain for one in model.opset_import} == {"", "getac"}
    # A power may be rounded to the other side of a tie: one step of one input of the first layer.
    assert departure(module, model, images(2)) <= 1e-2


def give_exponent(module: Any, quantizer: Any, exponent: float) -> None:
    """Prepare gives activations none."""
    owner = module.get_submodule(quantizer.name)
    owner.t = torch.nn.Parameter(torch.tensor(exponent))
    with torch.no_grad():
        owner.d.mul_(owner.q_m**exponent / owner.q_m)
    with module.graph.inserting_before(quantizer.node):
        quantizer.node.update_arg(3, module.graph.get_attr(f"{quantizer.name}.t"))
    module.recompile()


def test_weights_that_are_computed_are_stored_as_integers_too(tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    module = prepared(Normalized(), x)
    model = exported(module, tmp_path)
    integers = [one for name, one in tensors(model).items() if name.endswith(".int")]
    assert [one.shape for one in integers] == [(8, 6), (4, 8)]
    assert not [name for name in tensors(model) if name.endswith(("weight_g", "weight_v"))]
    assert departure(module, model, x) <= BOUND


class Rearranged(torch.nn.Module):
    """A signed activation that is flattened and transposed between a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).flatten(2).transpose(1, 2))  # type: ignore[no-any-return]


def encoder() -> torch.nn.Module:
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


REARRANGING = {"rearranged": (Rearranged, (2, 3, 6, 6)), "encoder": (encoder, (2, 10, 16))}


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("name", REARRANGING)
def test_any_session_of_onnxruntime_opens_the_file(tmp_path: Path, name: str, bits: int) -> None:
    """Its rewrites move pairs across Transpose and Reshape, and make UINT8 of INT8 activations."""
    make, shape = REARRANGING[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    module = prepared(make(), x, bits=bits)
    model = exported(module, tmp_path)
    expected = outputs_of(module, (x,), {})
    for optimize in (True, False):
        session = open_session(model.SerializeToString(), optimize=optimize)
        found = [torch.tensor(one) for one in run(session, {model.graph.input[0].name: x.numpy()}).values()]
        assert difference(expected, found) <= (1e-2 if optimize else BOUND)  # it also makes integers of sums


@pytest.mark.parametrize("name", REARRANGING)
def test_lower_measures_what_it_lowered_by_default(tmp_path: Path, name: str) -> None:
    make, shape = REARRANGING[name]
    report = getac.lower(prepared(make(), torch.randn(shape)), tmp_path / "model.onnx")
    assert report.latency is not None and report.latency.before_ms > 0
    assert not [note for note in report.notes if "optimisations" in note]


class Returning(torch.nn.Module):
    """A dictionary whose keys are names of nodes, of an input, and of values that are returned twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor | None]:
        hidden = torch.relu(self.a(x))
        logits = self.b(hidden)
        return {"relu": logits, "a": hidden, "again": hidden, "loss": None, "x": logits + 1, "given": x}


def test_outputs_have_the_keys_of_the_dictionary_that_a_module_returns(tmp_path: Path) -> None:
    x = torch.randn(4, 8)
    module = prepared(Returning(), x).eval()
    model = exported(module, tmp_path)
    names = [one.name for one in model.graph.output]
    assert names[:3] == ["relu", "a", "again"] and names[4] == "given" and len(names) == 5
    assert names[3] != "x" == model.graph.input[0].name
    expected = {key: one.detach().numpy() for key, one in module(x).items() if one is not None}
    getac.lower(module, tmp_path / "lowered.onnx", bench=False)
    assert [one.name for one in onnx.load(tmp_path / "lowered.onnx").graph.output] == names
    found = run(open_session(tmp_path / "model.onnx"), {"x": x.numpy()})
    for name in ("relu", "a", "again", "given"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_what_is_shared_is_stored_once(tmp_path: Path) -> None:
    module = prepared(Tied(), ids(), embeddings=True)
    model = exported(module, tmp_path)
    assert [name for name in tensors(model) if name.endswith("table.weight.int")] == ["table.weight.int"]
    assert not [name for name in tensors(model) if name.startswith("head.")]
    assert departure(module, model, ids(2)) <= BOUND


def test_a_smaller_module_is_exported_smaller(tmp_path: Path) -> None:
    module = prepared()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    steps(module, optimizer)
    getac.regenerate(module, some_units(module, share=0.5), optimizer)
    steps(module, optimizer)
    model = exported(module, tmp_path)
    assert tensors(model)["a.weight.int"].shape[0] < 8
    assert departure(module, model, images(2)) <= BOUND


def test_a_module_in_training_stays_as_it_is(tmp_path: Path) -> None:
    module = prepared().train()
    module.get_submodule("norm_a").eval()
    before, code = copy.deepcopy(module.state_dict()), module.code
    parameters = dict(module.named_parameters())
    exported(module, tmp_path)
    assert module.training and not module.get_submodule("norm_a").training
    assert module.code == code and list(module.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(parameters[key] is one for key, one in module.named_parameters())
    steps(module, torch.optim.SGD(module.parameters(), 1e-3))


@pytest.mark.parametrize("make", [ConvNet, lambda: captured(ConvNet(), images())], ids=["plain", "captured"])
def test_refuses_a_module_that_was_not_prepared(tmp_path: Path, make: Any) -> None:
    module = make()
    module.meta = {}
    for write in (getac.export, getac.lower):
        with pytest.raises(BadInputError, match="not prepared by getac") as caught:
            write(module, tmp_path / "model.onnx")
        assert caught.value.hint == "prepared = getac.prepare(model, example_inputs)"
    assert not list(tmp_path.iterdir())


def test_refuses_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    module = prepared()
    for path in (tmp_path / "missing" / "model.onnx", tmp_path / "file" / "model.onnx", tmp_path):
        with pytest.raises(OutputError):
            getac.export(module, path)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "mine")]


def test_a_file_that_cannot_be_replaced_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("mine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    module = prepared()
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        getac.export(module, path)
    assert "No space left" in str(caught.value)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("model.onnx", "mine")]


def test_what_would_crash_onnxruntime_is_refused(tmp_path):
    class Bags(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bags, self.head = torch.nn.EmbeddingBag(20, 8, mode="mean"), torch.nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.bags(x))

    x = torch.randint(0, 20, (4, 5), generator=torch.Generator().manual_seed(0))
    module = getac.prepare(Bags(), (x,), calibration=[(x,)])
    with pytest.raises(UnsupportedModelError, match="EmbeddingBag") as error:
        getac.lower(module, tmp_path / "bags.onnx")
    assert "nn.Embedding" in error.value.hint
    assert not (tmp_path / "bags.onnx").exists()
