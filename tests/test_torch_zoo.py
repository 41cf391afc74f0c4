"""The zoo of PyTorch models, through both graphs: masked equals sliced, and what is left still works."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import getac  # noqa: E402
from getac.fx_graph.capture import capture  # noqa: E402
from getac.fx_graph.onnx_export import export_module  # noqa: E402
from tools import fx_law, law  # noqa: E402
from tools.torch_zoo.check import (  # noqa: E402
    OTHER_BATCH,
    Captured,
    Finding,
    check_captured,
    check_exported,
    halves,
)
from tools.torch_zoo.export import export_legacy, feeds_of  # noqa: E402
from tools.torch_zoo.registry import TORCH_ZOO, example  # noqa: E402

MODELS = list(TORCH_ZOO)
every_model = pytest.mark.parametrize("name", MODELS)

# The classes of one block times the blocks, where the architecture says how many there must be.
HEADS_Q_V_MLP = 4  # heads, head dimensions of queries and keys, of values, columns of the MLP
CLASSES = {
    "vocoder": 1 + 2 * 2,  # what comes in, and the stream and the inside of each block
    "resnet": 5,  # the stream of each stage (2 widths) and the inside of each of 3 blocks
    "fused_vit": 2 * 3,  # queries, keys and values are parts of one tensor, so they share head dimensions
    "vit": 2 * HEADS_Q_V_MLP,
    "swin": 4 * HEADS_Q_V_MLP,
    "clip": 2 * 2 * HEADS_Q_V_MLP,
    "bert": 2 * HEADS_Q_V_MLP + 1,  # and the pooler
    "distilbert": 2 * HEADS_Q_V_MLP,
    "albert": HEADS_Q_V_MLP,  # both layers are one
    "gpt2": 2 * HEADS_Q_V_MLP,
    "llama": 2 * 4 + 1,  # KV heads, repeats, values, MLP; rotary tables tie the head dimensions of all layers
    "mixtral": 2 * 4 + 1,
    "whisper": 1 + 2 * HEADS_Q_V_MLP + 2 * (HEADS_Q_V_MLP + 3),
    "t5": (1 + 2 * 3) + (1 + 2 * 3 + 1 + 2 * 2),  # the bias of relative positions ties the heads of a stack
    "lstm_tagger": 3,
    "mamba": 2 * 3,
}

# What a training step must not reach; every other parameter gets a gradient.
WITHOUT_GRADIENT = {"whisper": ("model.encoder.embed_positions.weight",)}  # sinusoids, which do not train

# What cannot lose units besides graph inputs, outputs and vocabularies: the stream behind layer norms.
LEAST_PRUNABLE = {"convnext": 0.6, "albert": 0.6, "llama": 0.7, "distilbert": 0.7}
# How far the shares may be apart where folding stores more than it read: swin's position biases.
APART = {"swin": 0.12}

# What a wish to open everything opens: the stream that layer norms go over.
OPENED = {
    "bert": ((32, "embedding columns"),),
    "convnext": ((16, "channels"), (32, "channels")),
    "llama": ((32, "embedding columns"),),
}
# What torch's older exporter has no symbol for, or changes the inputs of.
NO_DIFF = "aten::diff"  # of position ids, in the masks of transformers
NOT_FOR_THE_OLDER_EXPORTER = {
    "whisper": NO_DIFF,
    "gpt2": NO_DIFF,
    "llama": NO_DIFF,
    "mixtral": NO_DIFF,
    "mamba": "logits_to_keep",  # a default value becomes an input of the graph
}


@cache
def captured(name: str) -> Captured:
    return check_captured(example(name))


@cache
def exported(name: str) -> Finding:
    made = example(name)
    return check_exported(export_module(made.module, made.args, made.kwargs), captured(name).inputs)


def assert_law(found: Finding, tolerance: float) -> None:
    assert found.difference < tolerance
    assert found.effect > 1e-3  # the units that went did matter


@every_model
def test_masked_equals_sliced(name: str) -> None:
    found = captured(name).finding
    assert_law(found, 1e-5)
    assert found.opaque == ()
    assert found.prunable >= LEAST_PRUNABLE.get(name, 0.75)
    assert found.kept < 0.7
    assert found.classes == CLASSES.get(name, found.classes)


@every_model
def test_the_sliced_module_trains(name: str) -> None:
    one = captured(name)
    for args, kwargs in one.inputs:  # two batch sizes
        assert fx_law.train_step(one.module, args, kwargs) == WITHOUT_GRADIENT.get(name, ())


@every_model
def test_masked_equals_sliced_in_onnx(name: str) -> None:
    found = exported(name)
    assert_law(found, 1e-5)
    assert found.opaque == ()


ONNX_ONLY = {"swin": ("rows",)}
"""Its pooling is exported as a gather by a table of indices, and channels can be left out of the table."""


@every_model
def test_both_graphs_tell_the_same(name: str) -> None:
    """The same classes, and the same share of parameters, but for what an export folds into others."""
    expected, more = captured(name).finding, ONNX_ONLY.get(name, ())
    assert exported(name).classes == expected.classes + len(more)
    assert sorted(exported(name).roles) == sorted((*expected.roles, *more))
    assert exported(name).prunable == pytest.approx(expected.prunable, abs=APART.get(name, 0.02))
    assert exported(name).kept == pytest.approx(expected.kept, abs=APART.get(name, 0.05))


@every_model
def test_the_sliced_module_exports(name: str) -> None:
    one = captured(name)
    model = export_module(one.module, *one.inputs[0])
    run = law.opened(model)
    for args, kwargs in one.inputs:
        expected = [tensor.numpy() for tensor in fx_law.outputs_of(one.module, args, kwargs)]
        assert law.difference(expected, run(feeds_of(model, (args, kwargs)))) < 1e-5


@pytest.mark.parametrize("name", [name for name in MODELS if name not in NOT_FOR_THE_OLDER_EXPORTER])
def test_the_older_exporter(name: str) -> None:
    made = example(name)
    found = check_exported(export_legacy(made.module, made.args, made.kwargs), captured(name).inputs)
    assert_law(found, 1e-5)
    assert found.opaque == ()
    assert found.classes == captured(name).finding.classes


@pytest.mark.parametrize("name", ["gpt2", "mamba"])  # one for each reason
def test_the_older_exporter_still_cannot(name: str) -> None:
    made = example(name)
    error = torch.onnx.errors.UnsupportedOperatorError if name == "gpt2" else ValueError
    with pytest.raises(error, match=NOT_FOR_THE_OLDER_EXPORTER[name]):
        export_legacy(made.module, made.args, made.kwargs)


@pytest.mark.parametrize("name", OPENED)
def test_everything_opened_runs_and_trains(name: str) -> None:
    """Masked differs from sliced there, which is said; all else holds."""
    made = example(name)
    module = capture(made.module.eval(), made.args, made.kwargs)
    with pytest.warns(UserWarning, match="the sliced model is not the masked one"):
        analysis = getac.analyze(module, prune=["*"])
    assert tuple((one.size, one.role) for one in analysis.opened) == OPENED[name]
    masks = halves(analysis, np.random.default_rng(0))
    masked = fx_law.masked_copy(module, analysis, masks)
    before = sum(parameter.numel() for parameter in module.parameters())
    fx_law.cut(analysis, masks)
    assert sum(parameter.numel() for parameter in module.parameters()) < 0.4 * before
    inputs = (made.args, made.kwargs)
    for args, kwargs in (inputs, fx_law.resized(inputs, OTHER_BATCH)):
        outputs, others = fx_law.outputs_of(module, args, kwargs), fx_law.outputs_of(masked, args, kwargs)
        assert [one.shape for one in outputs] == [one.shape for one in others]
        assert all(one.isfinite().all() for one in outputs)
        assert fx_law.difference(outputs, others) > 1e-3  # the statistics are those of what is left
        assert fx_law.train_step(module, args, kwargs) == ()
