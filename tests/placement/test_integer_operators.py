"""Every operator that has an integer kernel of its own is within one step of its graph, by itself.

That is the limit of a chain: where a result falls to the other side of a tie, the next operator starts one
step aside, so that a deep network may be some steps off without any of its kernels being wrong.
"""

from __future__ import annotations

import numpy as np
import pytest

from getac.placement.integer_operators import ANY_SCALE, BETWEEN_OWN
from tests.traps.naive import F32, both, kernels

# Steps and zero points of x, of z, and of the result.
LATTICES = [
    ((0.02, 128), (0.03, 100), (0.03, 110)),
    ((0.02, 128), (0.02, 128), (0.04, 128)),  # half of all sums are ties, between floats that are not exact
    ((1 / 64, 0), (1 / 64, 0), (1 / 32, 0)),  # and here they are exact
    ((0.0173, 7), (0.0911, 250), (0.077, 33)),
    ((1 / 64, 128), (1 / 16, 128), (1 / 8, 128)),
]
PAIRS = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")  # of all integers
IMAGES = [np.random.default_rng(i).integers(0, 256, (2, 8, 12, 12)) for i in range(2)]
MATRICES = [
    np.random.default_rng(0).integers(0, 256, (4, 32, 16)),
    np.random.default_rng(1).integers(0, 256, (4, 16, 32)),
]
POOL = "kernel_shape=[3,3], pads=[1,1,1,1]"
CALLS = {
    "Add": ("Add(a, b)", PAIRS),
    "Mul": ("Mul(a, b)", PAIRS),
    "Concat": ("Concat<axis=1>(a, b)", PAIRS),
    "LeakyRelu": ("LeakyRelu<alpha=0.1>(a)", PAIRS),
    "Sigmoid": ("Sigmoid(a)", PAIRS),
    "Softmax": ("Softmax(a)", IMAGES),
    "AveragePool": (f"AveragePool<{POOL}>(a)", IMAGES),
    "AveragePool, padding counted": (f"AveragePool<{POOL}, count_include_pad=1>(a)", IMAGES),
    "GlobalAveragePool": ("GlobalAveragePool(a)", IMAGES),
    "MatMul": ("MatMul(a, b)", MATRICES),
}
GRAPH = """(float[X] x, float[Z] z) => (float y) {
    xq = QuantizeLinear(x, xs, xz)
    a = DequantizeLinear(xq, xs, xz)
    zq = QuantizeLinear(z, zs, zz)
    b = DequantizeLinear(zq, zs, zz)
    c = CALL
    cq = QuantizeLinear(c, ys, yz)
    y = DequantizeLinear(cq, ys, yz)
}"""
UNIT = {"Sigmoid": (1 / 255, 0), "Softmax": (1 / 255, 0)}  # where all results are between 0 and 1


def test_every_operator_has_a_case():
    assert {name.split(",")[0] for name in CALLS} == {*ANY_SCALE, *BETWEEN_OWN}


@pytest.mark.parametrize("lattices", LATTICES)
@pytest.mark.parametrize("name", CALLS)
def test_an_integer_kernel_is_within_one_step(build, name, lattices):
    operator, (call, integers) = name.split(",")[0], CALLS[name]
    (x_step, x_zero), (z_step, z_zero), (y_step, y_zero) = lattices
    y_step, y_zero = UNIT.get(operator, (y_step, y_zero))
    if operator == "MatMul":  # sums of many products
        y_step, x_zero, z_zero = 64 * x_step * z_step * 16, 128, 128
    x, z = (((integers[0] - x_zero) * x_step).astype(F32), ((integers[1] - z_zero) * z_step).astype(F32))
    text = GRAPH.replace("CALL", call)
    for mark, array in (("X", x), ("Z", z)):
        text = text.replace(f"float[{mark}]", f"float[{','.join(map(str, array.shape))}]")
    steps = {"xs": F32(x_step), "zs": F32(z_step), "ys": F32(y_step)}
    model = build(text, **steps, xz=np.uint8(x_zero), zz=np.uint8(z_zero), yz=np.uint8(y_zero))
    assert f"QLinear{operator}" in kernels(model)
    plain, fast = both(model, {"x": x, "z": z})
    assert plain.max() > plain.min()
    off = np.abs(plain - fast) / F32(y_step)
    assert off.max() < 1.01 and (off > 0.5).mean() < 0.25
