"""Costs: multiply-accumulates, parameters and bytes, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from getac.cost import is_constant_branch, layer_costs, stored_bytes, weight_bytes
from tools.zoo.registry import ZOO
from tools.zoo.resnet import resnet18

F32 = np.float32


def only(model, **sizes):
    (cost,) = layer_costs(model, {"N": 1, **sizes}).values()
    return cost


@pytest.mark.parametrize(
    ("attributes", "shape", "macs", "channels"),
    [
        ("kernel_shape=[3,3], pads=[1,1,1,1]", (6, 4, 3, 3), 6 * 4 * 9 * 64, (4, 6)),
        ("kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]", (6, 4, 3, 3), 6 * 4 * 9 * 16, (4, 6)),
        ("kernel_shape=[3,3], group=4", (4, 1, 3, 3), 4 * 9 * 36, (4, 4)),
        ("kernel_shape=[1,1], group=2", (8, 2, 1, 1), 8 * 2 * 64, (4, 8)),
    ],
)
def test_convolutions(build, attributes, shape, macs, channels):
    model = build(
        f"(float[N,4,8,8] x) => (float[N,M,H,W] y) {{ y = Conv<{attributes}>(x, w, b) }}",
        w=np.ones(shape, F32),
        b=np.ones(shape[0], F32),
    )
    cost = only(model)
    assert (cost.macs, cost.channels_in, cost.channels_out) == (macs, *channels)
    assert cost.parameters == np.prod(shape) + shape[0] and cost.operator == "Conv"
    assert stored_bytes(model.graph[0]) == 4 * cost.parameters == weight_bytes(model)


def test_a_transposed_convolution_multiplies_every_input(build):
    model = build(
        """(float[N,4,8,8] x) => (float[N,6,16,16] y) {
            y = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(x, w)
        }""",
        w=np.ones((4, 6, 2, 2), F32),
    )
    cost = only(model)
    assert (cost.macs, cost.channels_in, cost.channels_out) == (4 * 6 * 4 * 64, 4, 6)


@pytest.mark.parametrize("batch", [1, 5])
def test_matrix_products(build, batch):
    model = build(
        """(float[N,4] x) => (float[N,3] y) {
            a = Gemm<transB=1>(x, v)
            y = MatMul(a, w)
        }""",
        v=np.ones((6, 4), F32),
        w=np.ones((6, 3), F32),
    )
    costs = layer_costs(model, {"N": batch})
    assert {name: cost.macs for name, cost in costs.items()} == {"gemm_0": batch * 24, "matmul_1": batch * 18}
    assert (costs["matmul_1"].channels_in, costs["matmul_1"].channels_out) == (6, 3)


def test_a_product_of_two_activations_counts_and_has_no_parameters(build):
    model = build("(float[N,7,4] x, float[N,4,5] z) => (float[N,7,5] y) { y = MatMul(x, z) }")
    cost = only(model)
    assert (cost.macs, cost.parameters, stored_bytes(model.graph[0])) == (7 * 4 * 5, 0, 0)


def test_resnet_18_has_its_known_size():
    """1.81 G multiply-accumulates, 11.7 M parameters (arXiv 1512.03385: 1.8 GFLOPs)."""
    model = ir.serde.deserialize_model(resnet18())
    costs = layer_costs(model, {"N": 1})
    assert len(costs) == 21
    assert sum(cost.macs for cost in costs.values()) == pytest.approx(1.814e9, rel=1e-3)
    assert sum(cost.parameters for cost in costs.values()) == pytest.approx(11.68e6, rel=1e-3)


@pytest.mark.parametrize("name", ZOO)
def test_every_layer_of_the_zoo_has_a_cost(name):
    model = ir.serde.deserialize_model(ZOO[name]())
    layers = [
        node.name for node in model.graph if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    ]
    costs = layer_costs(model, {"N": 1})
    assert list(costs) == layers and all(cost.macs > 0 for cost in costs.values())


def test_stored_bytes_follow_the_branch_of_a_weight(build):
    """Integers, scales and zero points count; what comes from the input does not."""
    model = build(
        """(float[N,4] x) => (float[N,6] y) {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            wd = DequantizeLinear<axis=0>(w, ws, wz)
            bd = DequantizeLinear<axis=0>(b, bs, bz)
            y = Gemm<transB=1>(d, wd, bd)
        }""",
        s=F32(0.1),
        z=np.uint8(128),
        w=np.ones((6, 4), np.int8),
        ws=np.ones(6, F32),
        wz=np.zeros(6, np.int8),
        b=np.ones(6, np.int32),
        bs=np.ones(6, F32),
        bz=np.zeros(6, np.int32),
    )
    layer = model.graph[4]
    assert stored_bytes(layer) == (24 + 24 + 6) + (24 + 24 + 24)
    assert weight_bytes(model) == stored_bytes(layer) + 4 + 1
    assert is_constant_branch(layer.inputs[1]) and not is_constant_branch(layer.inputs[0])


def test_a_tensor_that_is_read_twice_counts_once(build):
    model = build("(float[N,4] x) => (float[N,4] y) { y = Gemm(x, w, w) }", w=np.ones((4, 4), F32))
    assert stored_bytes(model.graph[0]) == 64
