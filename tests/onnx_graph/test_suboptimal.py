"""What `getac inspect` says of quantized files that onnxruntime could run better."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import getac
from getac.executed import executed_kernels, kernel_kind
from getac.onnx_graph.read import load
from getac.onnx_graph.suboptimal import suboptimal
from tools.onnx_text import model_of

F32 = np.float32
S = np.asarray(0.05, F32)
W8 = np.random.default_rng(0).integers(-100, 100, (4, 3, 1, 1)).astype(np.int8)
Q = "xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)"
WEIGHT = "wd = DequantizeLinear(w, s, zw)"
A = "aq = QuantizeLinear(a, s, z)  y = DequantizeLinear(aq, s, z)"
IMAGE, ROWS = {"x": [1, 3, 4, 4]}, {"x": [2, 3]}


def findings(body, inputs, **tensors):
    return [(one.what, one.nodes) for one in suboptimal(load(model_of(body, inputs, {"s": S, **tensors})))]


@pytest.mark.parametrize(
    ("body", "inputs", "tensors", "words", "node"),
    [
        (f"{Q}  y = Relu(xd)", IMAGE, {"z": np.int8(0)}, "activations are INT8", "xq"),
        (f"{Q}  y = Relu(xd)", IMAGE, {"z": np.uint16(9)}, "activations have 16 bits", "xq"),
        (f"{Q}  {WEIGHT}  y = Conv(xd, wd)", IMAGE, {"z": np.uint8(9), "w": W8, "zw": np.int8(0)},
         "a Conv whose result is not quantized", "y"),
        (f"{WEIGHT}  y = Conv(x, wd)", IMAGE, {"w": W8.astype(np.uint8), "zw": np.uint8(128)},
         "weights are UINT8", "y"),
        (f"{WEIGHT}  y = Conv(x, wd)", IMAGE, {"w": np.tile(W8 % 7, (512, 1, 1, 1)), "zw": np.int8(0)},
         "weights of 4 bits are stored in 8", "y"),
        (f"{Q}  wd = DequantizeLinear(w, s)  y = Gemm<transB = 1>(xd, wd)", ROWS,
         {"z": np.uint8(9), "w": W8[:, :, 0, 0]}, "a Gemm's weight has no zero point", "y"),
        (f"{Q}  {WEIGHT}  y = Gemm<transB = 1>(xd, wd, b)", ROWS,
         {"z": np.uint8(9), "w": W8[:, :, 0, 0], "zw": np.int8(0), "b": np.ones(4, F32)},
         "a bias in floats", "y"),
        (f"{WEIGHT}  y = Gemm<transB = 1>(x, wd)", ROWS, {"w": W8[:, :, 0, 0], "zw": np.int8(0)},
         "a Gemm reads its weight transposed", "y"),
        (f"{WEIGHT}  wt = Transpose<perm = [1, 0]>(wd)  y = Gemm(x, wt)", ROWS,
         {"w": W8[:, :, 0, 0], "zw": np.int8(0)}, "a Gemm reads its weight transposed", "y"),
        (f"{Q}  wd = DequantizeLinear(w, s)  c = MatMul(xd, wd)  a = Add(c, b)  {A}", ROWS,
         {"z": np.uint8(9), "w": W8[:3, :, 0, 0], "b": np.ones(3, F32)},
         "weight has no zero point: with the Add", "c"),
        (f"{Q}  {WEIGHT}  c = MatMul(xd, wd)  y = Add(c, b)", ROWS,
         {"z": np.uint8(9), "w": W8[:3, :, 0, 0], "zw": np.int8(0), "b": np.ones(3, F32)},
         "the sum not quantized", "c"),
        (f"{Q}  {WEIGHT}  c = MatMul(xd, wd)  a = Relu(c)  {A}", ROWS,
         {"z": np.uint8(9), "w": W8[:3, :, 0, 0], "zw": np.int8(0)}, "a Relu or Clip between", "c"),
        (f"{WEIGHT}  i = Cast<to = 7>(x)  y = Gather(wd, i)", ROWS, {"w": W8[:, :, 0, 0], "zw": np.int8(0)},
         "a whole table is dequantized", "y"),
        (f"{WEIGHT}  c = MatMul(x, wd)  r = Relu(c)  y = Neg(r)", ROWS,
         {"w": W8[:3, :, 0, 0], "zw": np.int8(0)}, "a Relu or Clip keeps a MatMul", "c"),
        (f"{Q}  {WEIGHT}  y = MatMul(xd, wd)", ROWS,
         {"z": np.uint8(9), "w": (W8[:3, :, 0, 0] % 7).astype(ml_dtypes.int4),
          "zw": np.zeros((), ml_dtypes.int4)}, "weights of INT4 behind quantized activations", "y"),
        ("xq = QuantizeLinear(x, s, z)  q = QLinearConv(xq, s, z, w, s, zw, s, z)"
         "  y = DequantizeLinear(q, s, z)", IMAGE, {"z": np.uint8(0), "w": W8, "zw": np.int8(0)},
         "as fast as Q/DQ pairs", "q"),
        ("q, t, z = DynamicQuantizeLinear(x)  y = DequantizeLinear(q, t, z)", ROWS, {},
         "quantized while the model runs", None),
    ],
)  # fmt: skip
def test_findings(body, inputs, tensors, words, node):
    tensors = {name: np.asarray(array) for name, array in tensors.items()}
    ((what, nodes),) = findings(body, inputs, **tensors)
    assert words in what
    assert node is None or nodes == (node,)


def test_operators_on_integers_with_unsigned_weights():
    product = "q = QLinearMatMul(xq, s, z, w, s, z, s, z)"
    body = f"xq = QuantizeLinear(x, s, z)  {product}  y = DequantizeLinear(q, s, z)"
    found = findings(body, ROWS, z=np.asarray(np.uint8(9)), w=np.abs(W8[:3, :, 0, 0]).astype(np.uint8))
    assert sorted(what.split(":")[0] for what, _ in found) == [
        "operators on integers (QLinearConv ...)",
        "weights are UINT8",
    ]
    assert all(nodes == ("q",) for _, nodes in found)


def test_what_getac_writes_has_none(tmp_path):
    body = (
        "c = Conv(x, w)  r = Relu(c)  g = GlobalAveragePool(r)  f = Flatten(g)  y = Gemm<transB = 1>(f, v, b)"
    )
    tensors = {"w": (16, 3, 3, 3), "v": (8, 16), "b": (8,)}
    data = {"x": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(F32)}
    model = model_of(body, {"x": ["N", 3, 8, 8]}, tensors)
    assert suboptimal(load(model)) == []  # floats are none of its business
    for bits in (8, 4, 2):
        path = tmp_path / f"{bits}.onnx"
        getac.lower(model, path, calibration=data, weight_bits=bits, bench=False, force=True)
        assert suboptimal(load(path)) == []


def test_what_getac_makes_of_quantized_products_has_none(tmp_path):
    """Of sums with a bias it makes flattened Gemms, behind a Reshape."""
    end = "c = MatMul(xd, wd)  d = Add(c, b)  y = Neg(d)"
    model = model_of(f"{Q}  {FORMS['transposed']}  {end}", {"x": [2, 5, 32]}, {"s": S, **MATRIX, "b": (32,)})
    assert len(suboptimal(load(model))) == 1
    getac.lower(model, tmp_path / "l.onnx", bench=False)
    lowered = load(tmp_path / "l.onnx")
    assert [node.op_type for node in lowered.graph].count("Gemm") == 1
    assert multiplies_integers(lowered) and suboptimal(lowered) == []


def test_inspect_shows_them():
    body = "xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)  y = Relu(xd)"
    found = getac.inspect(model_of(body, IMAGE, {"s": S, "z": np.asarray(np.int8(0))}))
    assert [one.nodes for one in found.suboptimal] == [("xq",)]
    assert "activations are INT8" in found.as_json()


def test_integer_operators_of_int8_are_slow():
    body = "xq = QuantizeLinear(x, s, z)  q = QLinearConv(xq, s, z, w, s, z, s, z)"
    body += "  y = DequantizeLinear(q, s, z)"
    found = dict(findings(body, IMAGE, z=np.asarray(np.int8(0)), w=W8))
    assert found.pop(
        "operators on integers of INT8 (QLinearConv ...) take many times as long as those of UINT8"
    ) == ("q",)
    assert [what.split(":")[0] for what in found] == ["activations are INT8"]


SQUARE = np.random.default_rng(1).integers(-100, 100, (32, 32)).astype(np.int8)
MATRIX = {
    "w": SQUARE,
    "sw": np.full(32, 0.01, F32),
    "zw": np.zeros(32, np.int8),
    "z": np.asarray(np.uint8(128)),
}
FORMS = {
    "as it is": "wd = DequantizeLinear<axis = 1>(w, sw, zw)",
    "transposed": "t = DequantizeLinear<axis = 0>(w, sw, zw)  wd = Transpose<perm = [1, 0]>(t)",
    "no zero point": "t = DequantizeLinear<axis = 0>(w, sw)  wd = Transpose<perm = [1, 0]>(t)",
}
INPUTS = {"matrix": [2, 32], "many": ["N", 32], "sequence": [2, 5, 32], "sequences": ["N", 5, 32]}
BIASES = ((32,), (5, 32), (), (1,))


def agrees_with_onnxruntime(body, inputs, words, runs_as, **tensors):
    """Whether findings that hold some words are there exactly where no kernel of the kind runs."""
    model = model_of(body, inputs, {"s": S, **MATRIX, **tensors})
    kinds = {kernel_kind(node.op_type) for node in executed_kernels(load(model))}
    found = [one for one in suboptimal(load(model)) if words in one.what]
    assert bool(found) == (runs_as not in kinds), (kinds, found)
    return bool(found)


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_bias_is_said_to_make_floats_where_it_does(inputs, form):
    seen = set()
    for shape in BIASES if len(INPUTS[inputs]) > 2 else BIASES[::2]:
        for end in ("y = Add(c, b)", f"a = Add(b, c)  {A}"):
            body = f"{Q}  {FORMS[form]}  c = MatMul(xd, wd)  {end}"
            bias = np.full(shape, 0.1, F32)
            seen.add(
                agrees_with_onnxruntime(body, {"x": INPUTS[inputs]}, "a Gemm of floats", "integer", b=bias)
            )
    assert seen == ({False} if inputs == "sequences" else {True, False})


@pytest.mark.parametrize("inputs", INPUTS)
def test_clipping_is_said_to_keep_weights_unpacked_where_it_does(inputs):
    ends = {
        "d = Relu(c)  y = Neg(d)",
        "y = Relu(c)",
        "d = Relu(c)  e = Neg(d)  y = Add(d, e)",
        "e = Add(c, b)  d = Relu(e)  y = Neg(d)",
        "e = Add(c, b)  y = Relu(e)",
    }
    seen = [
        agrees_with_onnxruntime(
            f"{FORMS[form]}  c = MatMul(x, wd)  {end}",
            {"x": INPUTS[inputs]},
            "a Relu or Clip keeps",
            "weight-only",
            b=np.ones(32, F32),
        )
        for form in ("as it is", "transposed")
        for end in sorted(ends)
    ]
    assert sum(seen) == (4 if len(INPUTS[inputs]) == 2 else 2)


@pytest.mark.parametrize("end", ["y = Gemm(xd, wd, b)", f"a = Gemm(xd, wd, b)  {A}"])
def test_a_bias_in_floats_matters_where_the_result_is_not_quantized(end):
    body = f"{Q}  {FORMS['transposed']}  {end}"
    said = agrees_with_onnxruntime(body, {"x": [2, 32]}, "a bias in floats", "integer", b=np.ones(32, F32))
    assert said == (end.startswith("y"))


@pytest.mark.parametrize(("axis", "trans_b"), [(0, 1), (1, 0), (1, 1)])
def test_a_transposed_weight_alone_is_said_to_be_restored(axis, trans_b):
    """Steps along the sums are no other writer's either: nothing would mend them."""
    body = f"wd = DequantizeLinear<axis = {axis}>(w, sw, zw)  y = Gemm<transB = {trans_b}>(x, wd, b)"
    found = findings(body, {"x": [2, 32]}, **MATRIX, b=np.ones(32, F32))
    assert [what.split(",")[0] for what, _ in found] == ["a Gemm reads its weight transposed"] * (axis == 0)


def test_a_model_whose_shapes_are_unknown_has_no_findings_that_need_them():
    body = f"{Q}  {FORMS['as it is']}  c = MatMul(xd, wd)  d = Add(c, b)  y = Add(d, v)"
    inputs = {"x": ["N", 32]}
    tensors = {"b": np.ones(32, F32), "v": np.ones((7919, 32), F32)}  # no tried N is that many
    assert findings(body, inputs, **MATRIX, **tensors) == []


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize(
    ("x", "end", "kind"), [("x", "y = Neg(a)", "weight-only"), ("xd", A, "integer")], ids=["floats", "pairs"]
)
def test_a_transpose_in_front_of_a_product_has_to_say_its_perm(inputs, x, end, kind):
    seen = []
    for transpose in ("Transpose(t)", "Transpose<perm = [1, 0]>(t)"):
        for product in (f"a = MatMul({x}, wd)", f"c = MatMul({x}, wd)  a = Add(c, b)"):
            weight = f"t = DequantizeLinear<axis = 0>(w, sw, zw)  wd = {transpose}"
            body, words = f"{Q}  {weight}  {product}  {end}", "leaves its perm to the default"
            seen.append(agrees_with_onnxruntime(body, {"x": INPUTS[inputs]}, words, kind, b=np.ones(32, F32)))
    taken_in = x == "xd" and inputs != "sequences"  # by the Gemm that the sum becomes
    assert seen == [True, not taken_in, False, False]


@pytest.mark.parametrize(
    "body",
    [
        f"{Q}  t = DequantizeLinear<axis = 0>(w, sw, zw)  wd = Transpose(t)  y = MatMul(xd, wd)",
        f"{Q}  {FORMS['transposed']}  c = MatMul(xd, wd)  y = Add(c, b)",
        "wd = DequantizeLinear<axis = 0>(w, sw, zw)  y = Gemm<transB = 1>(x, wd, b)",
        "t = DequantizeLinear<axis = 0>(w, sw, zw)  wd = Transpose<perm = [1, 0]>(t)  y = Gemm(x, wd, b)",
        "t = DequantizeLinear<axis = 0>(w, sw, zw)  wd = Transpose(t)  y = MatMul(x, wd)",
    ],
)
def test_lower_mends_them(body, tmp_path):
    tensors = {"s": S, **MATRIX, "w": np.tile(SQUARE, (3, 3)), "b": np.ones(96, F32)}
    tensors |= {"sw": np.full(96, 0.01, F32), "zw": np.zeros(96, np.int8)}
    model = model_of(body, {"x": [2, 96]}, tensors)
    assert suboptimal(load(model)) and not multiplies_integers(load(model))
    getac.lower(model, tmp_path / "l.onnx", bench=False)
    assert multiplies_integers(load(tmp_path / "l.onnx"))


def multiplies_integers(model):
    kinds = {kernel_kind(node.op_type) for node in executed_kernels(model)}
    return bool(kinds & {"integer", "weight-only"})
