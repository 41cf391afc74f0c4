"""Fewer than 8 bits: an INT2 weight is misread, and lattices are cut on the integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.traps.naive import (
    F32,
    adversarial,
    both,
    integers,
    kernels,
    lowered,
    mended,
    normal,
    relative,
    tensor,
)

# ---- INT2: opset 25 ----

INPUTS = 32
INT2 = onnx.TensorProto.INT2


def int2_product(units):
    """MatMul with a weight of -1, 0 and 1 in INT2."""
    head = '<ir_version: 13, opset_import: ["": 25]> graph'
    body = "d = DequantizeLinear<axis=1>(w, s) y = MatMul(x, d)"
    model = onnx.parser.parse_model(f"{head} (float[N,{INPUTS}] x) => (float[N,{units}] y) {{ {body} }}")
    trits = np.random.default_rng(0).integers(-1, 2, INPUTS * units)
    weight = onnx.helper.make_tensor("w", INT2, (INPUTS, units), trits)
    scale = numpy_helper.from_array(np.full(units, 0.1, F32), "s")
    model.graph.initializer.extend([weight, scale])
    return model


@pytest.mark.parametrize("units", [8, 9, 10, 11, 12])
def test_int2_weights_are_misread_unless_their_columns_are_a_multiple_of_four(units):
    model, x = int2_product(units), normal(5, INPUTS)
    plain, fast = both(model, {"x": x})
    if units % 4:
        assert relative(plain, fast) > 0.2, mended("DequantizeLinear(INT2) -> MatMul at N % 4 != 0")
    else:  # the kernel rounds x to 8 bits
        assert relative(plain, fast) < 0.02


@pytest.mark.parametrize("target", ["ort", "portable"])
@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("units", [9, 10, 11])
def test_ours_is_right_at_any_number_of_columns(build, tmp_path, units, bits, calibrated, target):
    """The weights are on a lattice already, so that nothing but the kernel's input is rounded."""
    weight = integers(INPUTS, units, high=2 ** (bits - 1) - 1) * F32(0.1)
    model = build(f"(float[N,{INPUTS}] x) => (float[N,{units}] y) {{ y = MatMul(x, w) }}", w=weight)
    x = normal(16, INPUTS)
    how = {"weight_bits": bits, "target": target, "sparsity": 0.0}
    found, report = lowered(model, tmp_path / "o.onnx", {"x": x} if calibrated else None, **how)
    assert report.layers[0].kernel.split()[0] == ("integer" if calibrated else "weight-only")
    plain, fast = both(found, {"x": x})
    assert relative(plain, fast) < (1e-5 if calibrated else 0.02)
    assert relative(x @ weight, fast) < 0.02


# ---- lattices that do not fill a byte ----

CLIPPED = """(float[N,4,8,8] x) => (float[N,4,8,8] y) {{
    a = Conv<kernel_shape=[1,1]>(x, v)
    r = {clipping}
    y = Conv<kernel_shape=[1,1]>(r, w)
}}"""


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_few_bits_are_an_exact_lattice_and_still_fuse(build, tmp_path, bits):
    model = build(CLIPPED.format(clipping="Relu(a)"), v=normal(4, 4, 1, 1), w=normal(4, 4, 1, 1, seed=1))
    found, report = lowered(
        model, tmp_path / "o.onnx", {"x": normal(8, 4, 8, 8)}, activation_bits=bits, force=True
    )
    executed = kernels(found)
    assert executed.count("QLinearConv") == 2 and "Conv" not in executed
    assert {row.activation_bits for row in report.layers} == {bits}
    zero_point, step = int(tensor(found, "y.zero_point")), float(tensor(found, "y.scale"))
    for x in adversarial(0.02, (3, 4, 8, 8)).values():
        plain, fast = both(found, {"x": x})
        for output in (plain, fast):
            points = output / F32(step) + zero_point
            np.testing.assert_allclose(points, np.rint(points), atol=1e-3)
            assert points.min() > -0.01 and points.max() < 2**bits - 0.99
        assert np.abs(plain - fast).max() <= 1.001 * step
