"""slice-units: constants of dead units go into biases of layers that lose units themselves."""

from __future__ import annotations

import numpy as np
import pytest

import getac
from getac.errors import OptionError
from getac.passes import ChooseUnits, FoldQuantizers, InferAxes, InferShapes, SliceUnits
from getac.pipeline import Pipeline, State

F32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def without(shape, *dead, axis, seed=1):
    """Random numbers, and zeros in the slices of the units that are dead; -1: of all."""
    array = normal(*shape, seed=seed)
    np.moveaxis(array, axis, 0)[[*dead] if dead != (-1,) else ...] = 0
    return array


IMAGE, ROWS, MATRIX = "N,3,8,8", "N,5,6", "N,6"
IMAGES = {
    "w": without((8, 3, 3, 3), 1, 4, 5, axis=0),
    "b": normal(8, seed=2),
    "v": normal(8, 8, 1, 1, seed=3),
    "c": normal(8, seed=4),
    "u": without((5, 8, 1, 1), 0, 4, 7, axis=1),
    "z": np.zeros((8, 5), F32),
    "w0": np.zeros((8, 3, 3, 3), F32),
}
VECTORS = {
    "w": without((6, 8), 1, 4, 5, axis=1),
    "b": normal(8, seed=2),
    "v": normal(8, 8, seed=3),
    "c": normal(8, seed=4),
    "n": normal(1, seed=6),
    "r": normal(1, 8, seed=7),
    "u": without((8, 5), 0, 4, 7, axis=0),
}
HEAD, TAIL = "h = Conv(x, w, b)  t = Relu(h)", "s = Relu(m)  y = Conv(s, u)"
DENSE, END = "h = Gemm(x, w, b)  t = Relu(h)", "s = Relu(m)  y = Gemm(s, u)"

CASES = {
    # Units 4 and 5 hold constants; 1 is zero behind the Relu, and nobody reads 0, 4 and 7 of the next layer.
    "no bias": (IMAGE, f"{HEAD} m = Conv(t, v) {TAIL}", 6),
    "a bias": (IMAGE, f"{HEAD} m = Conv(t, v, c) {TAIL}", 6),
    "a bias that two have": (IMAGE, f"{HEAD} k = Conv(t, v, c) n = Conv(t, v, c) m = Add(k, n) {TAIL}", 6),
    "a bias that is computed": (IMAGE, f"{HEAD} d = Exp(c) m = Conv(t, v, d) {TAIL}", 4),
    "a chain": (IMAGE, f"{HEAD} k = Conv(t, v, c) l = Relu(k) m = Conv(l, v2) {TAIL}", 6),
    "a depthwise one between": (
        IMAGE,
        f"{HEAD} k = Conv<group=8>(t, g, c) l = Relu(k) m = Conv(l, v) {TAIL}",
        4,
    ),
    "all are dead": (
        IMAGE,
        "h = Conv(x, w0, b) t = Relu(h) k = Conv(t, v)"
        " p = GlobalAveragePool(k) f = Flatten(p) y = MatMul(f, z)",
        14,
    ),
    "gemm without a bias": (MATRIX, f"{DENSE} m = Gemm(t, v) {END}", 6),
    "gemm without a bias, with a beta": (MATRIX, f"{DENSE} m = Gemm<beta=0.5, alpha=2.0>(t, v) {END}", 6),
    "gemm with a scaled bias": (MATRIX, f"{DENSE} m = Gemm<beta=0.5>(t, v, c) {END}", 6),
    "gemm with one number": (MATRIX, f"{DENSE} m = Gemm(t, v, n) {END}", 6),
    "gemm with a row": (MATRIX, f"{DENSE} m = Gemm<transB=1>(t, v, r) {END}", 6),
    "gemm with a bias that is computed": (
        MATRIX,
        f"{DENSE} d = Exp(r) m = Gemm<beta=0.5>(t, v, d) {END}",
        4,
    ),
    "a chain of gemms": (MATRIX, f"{DENSE} k = Gemm(t, v, c) l = Relu(k) m = Gemm(l, v2) {END}", 6),
    "matmul of matrices": (MATRIX, f"{DENSE} m = MatMul(t, v) {END}", 6),
    "matmul of more": (
        ROWS,
        "h = MatMul(x, w) i = Add(h, b) t = Relu(i) m = MatMul(t, v) s = Relu(m) y = MatMul(s, u)",
        6,
    ),
}


def model_of(build, dims, body):
    result = {IMAGE: "N,O,P,Q", MATRIX: "N,5", ROWS: "N,5,5"}[dims]
    if "Pool" in body:
        result = "N,5"
    tensors = dict(IMAGES if dims == IMAGE else VECTORS)
    tensors |= {"v2": tensors["v"][::-1].copy(), "g": normal(8, 1, 1, 1, seed=8)}
    text = "\n".join(body.replace(") ", ")\n").splitlines())
    used = {
        name: array for name, array in tensors.items() if any(f"{name}{end}" in text for end in (",", ")"))
    }
    return build(f"(float[{dims}] x) => (float[{result}] y) {{ {text} }}", **used)


@pytest.mark.parametrize(("dims", "body", "removed"), CASES.values(), ids=CASES)
def test_a_layer_takes_constants_and_loses_units_itself(build, evaluate, dims, body, removed):
    model = model_of(build, dims, body)
    x = normal(2, *[int(size) for size in dims.split(",")[1:]], seed=9)
    (before,) = evaluate(model, x=x)
    state = Pipeline([FoldQuantizers(), InferShapes(), InferAxes(), ChooseUnits(align=1), SliceUnits()]).run(
        State(model)
    )
    assert state.choice.exact and state.choice.removed == removed
    assert bool(state.choice.folds) == (removed > 4)
    (after,) = evaluate(model, x=x)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    for node in model.graph:
        if node.op_type == "Conv" and len(node.inputs) > 2 and node.inputs[2].const_value is not None:
            assert node.inputs[2].const_value.shape[0] == node.inputs[1].const_value.shape[0]


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("name", [name for name, (dims, _, _) in CASES.items() if dims != ROWS])
def test_such_a_model_lowers(build, tmp_path, name, calibrated):
    dims, body, _ = CASES[name]
    data = {"x": normal(4, *[int(size) for size in dims.split(",")[1:]], seed=9)}
    report = getac.lower(
        model_of(build, dims, body),
        tmp_path / "y.onnx",
        calibration=data if calibrated else None,
        align=1,
        bench=False,
    )
    assert report.verification.passed and report.units_removed


@pytest.mark.parametrize(
    ("options", "words"), [({"sparsity": 2.0}, "share of units"), ({"align": 0}, "multiple")]
)
def test_options_outside_their_domain(options, words):
    with pytest.raises(OptionError, match=words):
        SliceUnits(**options)
