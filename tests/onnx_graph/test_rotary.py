"""The other operators of opsets 23 and 24 that the reader spells out: the same numbers, and open classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from getac.onnx_graph.read import read_proto
from tools.law import Feeds, analyzed, check_law, outputs_of

IDS, NO_IDS = ", int64[N,S] ids", ""
FLAT = "r = {op}<{attributes}>(h, {inputs})"
SPLIT = """hr = Reshape(h, split)  ht = Transpose<perm=[0,2,1,3]>(hr)
    rt = {op}<{attributes}>(ht, {inputs})  rr = Transpose<perm=[0,2,1,3]>(rt)  r = Reshape(rr, merged)"""


def model_of(body: str, more_inputs: str = "", opset: int = 23, **shapes: Sequence[int]) -> onnx.ModelProto:
    """x (N, S, 6) -> MatMul -> h (N, S, 12) -> body -> r (N, S, 12) -> MatMul -> y."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> g (float[N,S,6] x{more_inputs}) => (float[N,S,5] y)'
        f" {{ h = MatMul(x, w_in)  {body}  y = MatMul(r, w_out) }}"
    )
    shapes = {"w_in": (6, 12), "w_out": (12, 5), **shapes}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tensors |= {"split": np.array([0, 0, 2, 6]), "merged": np.array([0, 0, -1])}
    for name, tensor in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(tensor, name))
    return model


def rotary(flat: bool, interleaved: int, turned: int, ids: bool) -> onnx.ModelProto:
    """Two heads of six dimensions."""
    attributes = f"interleaved={interleaved}, rotary_embedding_dim={turned}" + (
        ", num_heads=2" if flat else ""
    )
    inputs = "cos, sin, ids" if ids else "cosx, sinx"
    body = (FLAT if flat else SPLIT).format(op="RotaryEmbedding", attributes=attributes, inputs=inputs)
    tables = "" if ids else "cosx = Gather(cos, at)  sinx = Gather(sin, at) "
    pairs = (turned or 6) // 2
    inputs = IDS if ids else ", int64[N,S] at"
    return model_of(tables + body, inputs, cos=(8, pairs), sin=(8, pairs))


def feeds_of(proto: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(1)
    feeds: dict[str, NDArray[np.generic]] = {"x": rng.normal(size=(2, 3, 6)).astype(np.float32)}
    if len(proto.graph.input) > 1:
        feeds[proto.graph.input[1].name] = rng.integers(0, 8, (2, 3))
    return feeds


def computed(model: onnx.ModelProto, feeds: Feeds) -> list[NDArray[Any]]:
    return list(outputs_of(model, feeds))


def reference(proto: onnx.ModelProto, feeds: Feeds) -> list[NDArray[Any]]:
    return list(ReferenceEvaluator(proto).run(None, dict(feeds)))


def check(proto: onnx.ModelProto) -> tuple[int, ...]:
    """Compares with the operator itself, then masked with sliced; returns the units of the open classes."""
    model = ir.to_proto(read_proto(proto))
    feeds = feeds_of(proto)
    (found,) = computed(model, feeds)
    (expected,) = reference(proto, feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for seed in range(2):
        assert check_law(model, seed).difference <= 1e-5
    analysis = analyzed(model).analysis
    assert analysis is not None
    return tuple(one.size for one in analysis.classes)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("ids", [True, False])
def test_heads_and_pairs_of_turned_dimensions_are_open(flat: bool, interleaved: int, ids: bool) -> None:
    assert check(rotary(flat, interleaved, 0, ids)) == (2, 3)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_dimensions_that_are_not_turned_go_by_themselves(flat: bool, interleaved: int) -> None:
    assert check(rotary(flat, interleaved, 4, ids=True)) == (2, 2, 2)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_turning_all_may_be_said_in_full(interleaved: int) -> None:
    assert check(rotary(True, interleaved, 6, ids=True)) == (2, 3)


def test_an_unknown_head_dimension_goes_through_the_function_body() -> None:
    """Where some of it is turned; onnx's shape inference does not know how wide the Reshape's result is."""
    proto = rotary(False, 0, 4, ids=True)
    for tensor in proto.graph.initializer:
        if tensor.name == "split":
            proto.graph.input.append(onnx.helper.make_tensor_value_info("split", onnx.TensorProto.INT64, [4]))
            proto.graph.initializer.remove(tensor)
            break
    model = read_proto(proto)
    assert any(node.op_type == "Split" and len(node.inputs) == 2 for node in model.graph)
    feeds = {**feeds_of(proto), "split": np.array([0, 0, 2, 6])}
    (found,) = computed(ir.to_proto(model), feeds)
    (expected,) = reference(proto, feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_heads_stay_open_under_a_norm_of_their_dimensions() -> None:
    body = SPLIT.format(op="RMSNormalization", attributes="axis=-1", inputs="gain")
    assert check(model_of(body, gain=(6,))) == (2,)


@pytest.mark.parametrize("operator", ["Gelu", "Swish"])
def test_activations_leave_their_columns_open(operator: str) -> None:
    assert check(model_of(f"r = {operator}(h)", opset=24)) == (12,)


LLAMA = """n = RMSNormalization<axis=-1>(x, gain)
    q = MatMul(n, wq)  k = MatMul(n, wk)  v = MatMul(n, wv)
    qt = RotaryEmbedding<num_heads=4, interleaved={interleaved}>(q, cos, sin, ids)
    kt = RotaryEmbedding<num_heads=2, interleaved={interleaved}>(k, cos, sin, ids)
    a = Attention<is_causal=1, q_num_heads=4, kv_num_heads=2>(qt, kt, v)
    o = MatMul(a, wo)  s = Add(x, o)  m = RMSNormalization<axis=-1>(s, gain2)
    u = MatMul(m, wu)  g = MatMul(m, wg)  act = Swish(g)  p = Mul(u, act)  d = MatMul(p, wd)
    t = Add(s, d)  r = Concat<axis=-1>(t, h)"""


@pytest.mark.parametrize("interleaved", [0, 1])
def test_a_block_of_llama(interleaved: int) -> None:
    """KV heads, repeats, pairs of turned dimensions, dimensions of values, MLP columns."""
    shapes = {"gain": (6,), "gain2": (6,), "cos": (8, 3), "sin": (8, 3), "wq": (6, 24), "wk": (6, 12)}
    shapes |= {"wv": (6, 10), "wo": (20, 6), "wu": (6, 7), "wg": (6, 7), "wd": (7, 6)}
    body = LLAMA.format(interleaved=interleaved)
    classes = check(model_of(body, IDS, opset=24, **shapes, w_out=(18, 5)))
    assert sorted(classes) == [2, 2, 3, 5, 7, 12]
