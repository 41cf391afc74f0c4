"""Which stored tensors a layer is made of, and their bytes in the file."""

from __future__ import annotations

import numpy as np

from getac.stored import bytes_by_node, bytes_stored, constant_sources, tensors_of

F32 = np.float32


def sources_of(model):
    return constant_sources(model.graph, model.graph.initializers.values())


def names(tensors):
    return [tensor.name for tensor in tensors]


def test_bytes_follow_the_branch_of_a_weight(build):
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
    found = bytes_by_node(model.graph)
    assert found == {
        **{"quantizelinear_0": 5, "dequantizelinear_1": 5, "dequantizelinear_2": 0, "dequantizelinear_3": 0},
        "gemm_4": (24 + 24 + 6) + (24 + 24 + 24),
    }
    assert bytes_stored(model.graph) == found["gemm_4"] + 5
    layer, sources = model.graph[4], sources_of(model)
    assert layer.inputs[1] in sources and layer.inputs[0] not in sources
    assert names(tensors_of(layer, sources)) == ["w", "ws", "wz", "b", "bs", "bz"]


def test_a_tensor_that_is_read_twice_counts_once(build):
    model = build("(float[N,4] x) => (float[N,4] y) { y = Gemm(x, w, w) }", w=np.ones((4, 4), F32))
    assert bytes_by_node(model.graph) == {"gemm_0": 64}


def test_a_tied_tensor_counts_in_both_layers_and_once_in_the_file(build):
    model = build(
        "(float[N,4] x) => (float[N,4] y) { t = Transpose(w) \n a = MatMul(x, w) \n y = MatMul(a, t) }",
        w=np.ones((4, 4), F32),
    )
    assert bytes_by_node(model.graph) == {"transpose_0": 0, "matmul_1": 64, "matmul_2": 64}
    assert bytes_stored(model.graph) == 64


def test_a_product_of_two_activations_stores_nothing(build):
    model = build("(float[N,7,4] x, float[N,4,5] z) => (float[N,7,5] y) { y = MatMul(x, z) }")
    assert bytes_by_node(model.graph) == {"matmul_0": 0} and bytes_stored(model.graph) == 0
