"""store-weights: weights are integers in the file, and floats in the kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from getac.errors import OptionError
from getac.executed import executed_kernels
from getac.passes import QuantizeWeights, RemoveDead, StoreWeights
from getac.pipeline import Fact, Pipeline, State
from getac.quantizer import Quantizer
from getac.runtime import open_session, run

F32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(F32)


def stored(model, bits=8, records=None):
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    for name, record in (records or {}).items():
        state.quantizers[model.graph.initializers[name]] = record
    Pipeline([QuantizeWeights(bits), StoreWeights(), RemoveDead()]).run(state)
    return state


def types(model):
    return {name: value.const_value.numpy().dtype for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize(
    ("text", "shape", "x"),
    [
        ("y = Conv(x, w, b)", (6, 4, 3, 3), (2, 4, 8, 8)),
        ("y = ConvTranspose(x, w, b)", (4, 6, 3, 3), (2, 4, 8, 8)),
        ("y = ConvTranspose<group=2>(x, w, b)", (4, 3, 3, 3), (2, 4, 8, 8)),
        ("y = Gemm<transA=1>(x, w, b)", (5, 6), (5, 4)),
    ],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_kernels_see_the_rounded_floats(build, text, shape, x, bits):
    dims = ",".join(map(str, ("N", *x[1:])))
    out = "N,M,H,W" if len(x) == 4 else "N,M"
    weight = normal(*shape)
    make = lambda w: build(f"(float[{dims}] x) => (float[{out}] y) {{ {text} }}", w=w, b=normal(6))  # noqa: E731
    model = make(weight)
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    Pipeline([QuantizeWeights(bits, block=None)]).run(state)
    rounded = make(state.quantizers[model.graph.initializers["w"]].quantize(weight))
    Pipeline([StoreWeights(), RemoveDead()]).run(state)
    assert [node.op_type for node in model.graph][:2] == ["Cast", "Mul"]
    assert np.dtype(np.int8) in types(model).values() and "w" not in model.graph.initializers
    feeds = {"x": normal(*x, seed=1)}
    expected = run(open_session(rounded), feeds)["y"]
    np.testing.assert_allclose(run(open_session(model), feeds)["y"], expected, rtol=1e-5, atol=1e-5)
    assert not {"Cast", "Mul"} & {node.op_type for node in executed_kernels(model)}  # folded at load
    assert state.refusals == {}


def test_a_matmul_keeps_its_integers_in_the_kernel(build):
    model = build("(float[N,3,64] x) => (float[N,3,16] y) { y = MatMul(x, w) }", w=normal(64, 16))
    stored(model)
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul"]
    assert [node.op_type for node in executed_kernels(model)] == ["MatMulNBits"]


def test_a_batched_matmul_is_a_float_kernel(build):
    model = build("(float[N,2,3,64] x) => (float[N,2,3,16] y) { y = MatMul(x, w) }", w=normal(2, 64, 16))
    stored(model)
    assert [node.op_type for node in model.graph] == ["Cast", "Mul", "MatMul"]


BLOCKS = [(bits, block) for bits in (2, 3, 4, 8) for block in (None, 16, 32, 128)]


@pytest.mark.parametrize(("bits", "block"), BLOCKS)
@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("y = MatMul(x, w)", (70, 33)),
        ("y = Gemm(x, w, b)", (70, 33)),
        ("y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)", (33, 70)),
    ],
)
def test_products_of_floats_keep_their_integers_in_the_kernel(build, text, shape, bits, block):
    weight, bias = normal(*shape), normal(33)
    model = build(f"(float[N,70] x) => (float[N,33] y) {{ {text} }}", w=weight, b=bias)
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    Pipeline([QuantizeWeights(bits, block, "ort")]).run(state)  # 70 inputs: the last block is shorter
    rounded = state.quantizers[model.graph.initializers["w"]].quantize(weight)
    Pipeline([StoreWeights("ort"), RemoveDead()]).run(state)
    (stored,) = (dtype for name, dtype in types(model).items() if name == "w.int")
    assert stored == (np.int8 if bits == 8 else ir.DataType.INT4.numpy())
    assert [node.op_type for node in executed_kernels(model)] == ["MatMulNBits"]
    x = normal(5, 70, seed=1)
    expected = x @ rounded if "transB" not in text else 0.5 * x @ rounded.T
    expected = expected + (0 if "b)" not in text else 2 * bias if "beta" in text else bias)
    plain = run(open_session(model, optimize=False), {"x": x})["y"]
    np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-4)
    fused = run(open_session(model), {"x": x})["y"]  # activations of 8 bits, on the fly
    assert np.abs(fused - expected).max() < 0.02 * np.abs(expected).max()
    exact = {"session.qdq_matmulnbits_accuracy_level": "0"}
    np.testing.assert_allclose(
        run(open_session(model, config=exact), {"x": x})["y"], expected, rtol=1e-4, atol=1e-4
    )


def test_steps_of_blocks_are_stored_in_eight_bits(build):
    model = build("(float[N,256] x) => (float[N,128] y) { y = MatMul(x, w) }", w=normal(256, 128))
    stored(model, bits=4)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert size == 256 * 128 // 2 + 8 * 128 + 4 * 128  # integers, multiples, units


@pytest.mark.parametrize(
    ("low", "high", "kernel", "dtype"),
    [
        (-10, 245, "MatMulNBits", np.uint8),
        (-3, 28, "MatMulNBits", np.int8),
        (-8, 7, "MatMulNBits", ir.DataType.INT4.numpy()),
        (-(2**9), 2**9 - 1, "Gemm", np.int16),
        (-(2**15), 2**15 - 1, "Gemm", np.int16),
        (-10, 2**16 - 11, "Gemm", np.uint16),
    ],
)
def test_any_lattice_is_stored(build, low, high, kernel, dtype):
    weight = normal(33, 70)
    record = Quantizer(np.asarray(6 / (high - low), F32), low, high)
    model = build("(float[N,70] x) => (float[N,33] y) { y = Gemm<transB=1>(x, w) }", w=weight)
    state = stored(model, records={"w": record})
    assert not state.refusals and types(model)["w.int"] == dtype
    assert kernel in executed_kernels(model)[0].op_type
    x = normal(5, 70)
    plain = run(open_session(model, optimize=False), {"x": x})["y"]
    np.testing.assert_allclose(plain, x @ record.quantize(weight).T, rtol=1e-4, atol=1e-4)
    assert np.abs(run(open_session(model), {"x": x})["y"] - plain).max() < 0.02 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("ends", "dtype", "least", "zeros"),
    [
        ([(-8, 7)] * 4, ir.DataType.INT4, 0.01, False),
        ([(-8, 7), (-7, 8), (-3, 8), (-8, 2)], ir.DataType.INT4, -0.04, False),  # the step turns negative
        ([(-15, 0), (0, 15), (-8, 7), (-7, 8)], ir.DataType.UINT4, 0.01, True),
        ([(3, 15), (-15, -9), (0, 0), (-8, 8)], ir.DataType.INT8, 0.01, False),  # 17 integers in a block
    ],
)
def test_integers_of_four_bits_in_each_block(build, ends, dtype, least, zeros):
    rng = np.random.default_rng(0)
    integers = np.concatenate([rng.integers(low, high + 1, (16, 8)) for low, high in ends])
    for block, (low, high) in enumerate(ends):
        integers[block * 16 : block * 16 + 2] = [[low], [high]]
    steps = np.repeat(np.linspace(0.01, 0.04, 4, dtype=F32)[:, None], 8, axis=1) * F32(1.1)
    record = Quantizer(steps, -15, 15, 0, 16)
    weight = integers.astype(F32) * record.steps_for(integers.shape)
    model = build("(float[N,64] x) => (float[N,8] y) { y = MatMul(x, w) }", w=weight)
    stored(model, records={"w": record})
    (node,) = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    assert node.inputs[0].dtype is dtype and len(node.inputs) == 2 + zeros
    scale = node.inputs[1].const_value
    assert scale is None or np.sign(scale.numpy().min()) == np.sign(least)
    x = normal(5, 64)
    plain = run(open_session(model, optimize=False), {"x": x})["y"]
    np.testing.assert_allclose(plain, x @ weight, rtol=1e-5, atol=1e-5)
    assert [node.op_type for node in executed_kernels(model)] == ["MatMulNBits"]
    assert np.abs(run(open_session(model), {"x": x})["y"] - plain).max() < 0.02 * np.abs(plain).max()


def test_steps_per_input_are_folded(build):
    """MatMulNBits has no such steps."""
    record = Quantizer(np.linspace(0.01, 0.02, 70, dtype=F32), -127, 127, axis=0)
    model = build("(float[N,70] x) => (float[N,33] y) { y = MatMul(x, w) }", w=normal(70, 33))
    stored(model, records={"w": record})
    assert [node.op_type for node in model.graph] == ["Cast", "Mul", "MatMul"]


def test_a_shared_weight_is_read_by_both(build, evaluate):
    weight = normal(4, 4)
    model = build("(float[N,4] x) => (float[N,4] y) { a = Gemm(x, w) \n y = Gemm<transB=1>(a, w) }", w=weight)
    stored(model)
    x = normal(5, 4)
    np.testing.assert_allclose(evaluate(model, x=x)[0], x @ weight @ weight.T, rtol=0.1, atol=0.1)


def test_what_cannot_be_stored_says_why(build):
    model = build(
        "(float16[N,4] x) => (float16[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4).astype(np.float16)
    )
    (refusal,) = stored(model).refusals["store-weights"]
    assert (refusal.where, refusal.reason) == ("matmul_0", "its weights are FLOAT16, not float32")
    model = build("(float[N,4] x, float[4] b) => (float[N,4] y) { y = Gemm(x, w, b) }", w=normal(4, 4))
    (refusal,) = stored(model).refusals["store-weights"]
    assert refusal.reason == "its bias is computed when the graph runs" and "w" in model.graph.initializers


def test_a_second_run_changes_nothing(build):
    model = build("(float[N,4] x) => (float[N,6] y) { y = Gemm(x, w) }", w=normal(4, 6))
    state = stored(model)
    before = [node.name for node in model.graph]
    state.facts.add(Fact.WEIGHTS_QUANTIZED)
    Pipeline([StoreWeights()]).run(state)
    assert [node.name for node in model.graph] == before and not state.records[-1].changed


@pytest.mark.parametrize("bits", [8, 16])
def test_quantizers_of_activations_are_written_back(build, bits):
    """Between float convolutions, where onnxruntime would quantize weights by itself without the Sums."""
    text = "(float[N,4,8,8] x) => (float[N,4,8,8] y) { a = Conv(x, v) \n b = Relu(a) \n y = Conv(b, w) }"
    model = build(text, v=normal(4, 4, 1, 1), w=normal(4, 4, 1, 1, seed=1))
    record = Quantizer(np.asarray(1.0 / 2**bits, F32), 0, 2**bits - 1)
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    state.quantizers[model.graph[1].outputs[0]] = record
    Pipeline([QuantizeWeights(), StoreWeights(), RemoveDead()]).run(state)
    types_of = [node.op_type for node in model.graph]
    between = types_of[
        types_of.index("Relu") + 1 : types_of.index("Sum", types_of.index("DequantizeLinear")) + 1
    ]
    pair = ["QuantizeLinear", "DequantizeLinear", "Sum"]
    assert between == (["Sum", *pair] if bits == 8 else pair)
    x = normal(2, 4, 8, 8)
    before = run(open_session(model, outputs=["b", "b.after"], optimize=False), {"x": x})
    np.testing.assert_array_equal(before["b.after"], record.quantize(before["b"]))
    as_written = run(open_session(model, optimize=False), {"x": x})["y"]
    np.testing.assert_allclose(
        run(open_session(model), {"x": x})["y"], as_written, atol=2.0 ** (1 - bits) * 4
    )
    assert all(value.is_initializer() for value in state.quantizers)


FOLLOWERS = {
    "nothing": "y = Identity(p)",
    "add": "y = Add(p, b)",
    "add of a matrix": "y = Add(m, p)",
    "add and relu": "q = Add(p, b) \n y = Relu(q)",
    "add, relu and a product": "q = Add(p, b) \n r = Relu(q) \n y = MatMul(r, v)",
    "relu": "r = Relu(p) \n y = Neg(r)",
    "clip": "r = Clip(p, low, high) \n y = Neg(r)",
    "clip from above": "r = Clip(p, , high) \n y = Neg(r)",
    "gelu": "y = Gelu(p)",
    "sigmoid": "y = Sigmoid(p)",
    "tanh": "y = Tanh(p)",
    "leaky relu": "y = LeakyRelu<alpha=0.1>(p)",
    "residual add": "y = Add(p, x)",
    "residual add and relu": "q = Add(x, p) \n r = Relu(q) \n y = Neg(r)",
    "an identity and a residual add": "i = Identity(p) \n y = Add(i, x)",
    "sum of two products": "o = MatMul(x, v) \n y = Add(p, o)",
    "two readers": "r = Relu(p) \n y = Add(p, r)",
}
LAYERS_OF_RANK = {
    2: ["p = MatMul(x, w)", "p = Gemm(x, w)", "p = Gemm(x, w, b)", "p = Gemm<transB=1>(x, w, m)"],
    3: ["p = MatMul(x, w)"],
}


SHAPES = {"w": (64, 64), "v": (64, 64), "b": (64,), "m": (3, 64)}
BOUNDS = {"low": F32(-0.25), "high": F32(0.5)}


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize(
    ("rank", "layer"), [(rank, one) for rank, many in LAYERS_OF_RANK.items() for one in many]
)
@pytest.mark.parametrize("follower", FOLLOWERS)
def test_no_weight_is_restored_at_run_time_whatever_follows(build, follower, rank, layer, bits):
    """onnxruntime takes Add, Relu and Clip into a float kernel before it makes MatMulNBits of a product."""
    dims = "3,64" if rank == 2 else "N,3,64"
    tensors = {name: normal(*shape, seed=3) / 8 for name, shape in SHAPES.items()}
    text = f"{layer} \n {FOLLOWERS[follower]}"
    model = build(f"(float[{dims}] x) => (float[{dims}] y) {{ {text} }}", **tensors, **BOUNDS)
    expected = rounded(model, bits)
    stored(model, bits)
    running = [node.op_type for node in executed_kernels(model)]
    products = text.count("MatMul") + text.count("Gemm")
    assert "DequantizeLinear" not in running and running.count("MatMulNBits") == products
    feeds = {"x": normal(*([2, 3, 64][3 - rank :]), seed=5)}
    reference = run(open_session(expected, optimize=False), feeds)["y"]
    np.testing.assert_allclose(run(open_session(model, optimize=False), feeds)["y"], reference, atol=1e-3)
    assert np.abs(run(open_session(model), feeds)["y"] - reference).max() < 0.03 * np.abs(reference).max()


def rounded(model, bits):
    """A copy with weights that are rounded as they will be stored."""
    copy = model.clone()
    state = State(copy, facts={Fact.QUANTIZERS_FOLDED})
    Pipeline([QuantizeWeights(bits)]).run(state)
    for value, record in state.quantizers.items():
        value.const_value = ir.tensor(record.quantize(value.const_value.numpy()), name=value.name)
    return copy


INTEGERS = """(float[64,64] x) => (float[64,64] y) {{
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    {before}
    p = MatMul(h, w)
    {behind}
    q = QuantizeLinear(r, s, z)
    y = DequantizeLinear(q, s, z)
}}"""


@pytest.mark.parametrize("before", ["h = Flatten(xd)", "h = Transpose<perm=[1,0]>(xd)", "h = Tanh(xd)"])
@pytest.mark.parametrize(
    "behind",
    [
        *("r = Flatten(p)", "r = Transpose<perm=[1,0]>(p)", "r = Relu(p)", "r = Add(p, xd)"),
        *("r = Add(p, b)", "a = Add(p, b) \n r = Relu(a)", "a = Add(p, b) \n r = Transpose<perm=[1,0]>(a)"),
    ],
)
def test_blocks_between_integers_have_their_kernel(build, before, behind):
    """onnxruntime has no other kernel for them, but thinks so where integers are next to it."""
    quantizer = {"s": F32(0.05), "z": np.uint8(128)}
    text, weight = INTEGERS.format(before=before, behind=behind), normal(64, 64) / 8
    model = build(text, w=weight, b=normal(64), **quantizer)
    record = Quantizer(np.full((2, 64), 0.01, F32), -127, 127, axis=0, block=32)
    expected = build(text, w=record.quantize(weight), b=normal(64), **quantizer)
    StoreWeights().run(State(model, quantizers={model.graph.initializers["w"]: record}))
    running = [node.op_type for node in executed_kernels(model)]
    assert running.count("MatMulNBits") == 1 and not {"MatMul", "Gemm"} & set(running)
    x = {"x": normal(64, 64, seed=1)}
    found, plain = (run(open_session(model, optimize=optimize), x)["y"] for optimize in (True, False))
    reference = run(open_session(expected, optimize=False), x)["y"]
    assert np.abs(plain - reference).max() < 0.051 and np.abs(found - plain).max() < 0.051


@pytest.mark.parametrize("kernel_follows", ["y = Add(p, x)", "q = Add(p, b) \n r = Relu(q) \n y = Neg(r)"])
def test_the_trap_that_followers_are_spelled_for(build, kernel_follows):
    product = f"d = DequantizeLinear<axis=1>(w, s) \n p = MatMul(x, d) \n {kernel_follows}"
    naive = build(
        f"(float[N,64] x) => (float[N,64] y) {{ {product} }}",
        w=np.ones((64, 64), np.int8),
        s=np.ones(64, F32),
        b=np.ones(64, F32),
    )
    running = [node.op_type for node in executed_kernels(naive)]
    assert "DequantizeLinear" in running and "MatMulNBits" not in running


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("text", ["y = MatMul(x, w)", "y = Gemm(x, w, b)"])
def test_zeros_are_folded(build, text, bits):
    """MatMulNBits makes noise of them."""
    model = build(
        f"(float[N,64] x) => (float[N,16] y) {{ {text} }}", w=np.zeros((64, 16), F32), b=np.zeros(16, F32)
    )
    state = stored(model, bits)
    (running,) = executed_kernels(model)
    assert running.op_type in ("MatMul", "Gemm") and state.refusals == {}
    assert not run(open_session(model), {"x": normal(5, 64)})["y"].any()


ACTIVATION = """(float[N,2,32] x) => (float[N,64] y) {
    a = Tanh(x)
    f = Flatten(a)
    p = MatMul(f, w)
    y = Sigmoid(p)
}"""


@pytest.mark.parametrize("activation_bits", [8, 9, 16])
@pytest.mark.parametrize("where", ["a", "p", "y"])
@pytest.mark.parametrize("bits", [8, 4])
def test_what_more_than_eight_bits_surround_is_folded(build, where, bits, activation_bits):
    """MatMulNBits rounds activations to 8 bits: hundreds of steps of 16 bits."""
    model = build(ACTIVATION, w=normal(64, 64) / 8)
    values = {node.outputs[0].name: node.outputs[0] for node in model.graph}
    record = Quantizer(
        np.asarray(2.0 ** (1 - activation_bits), F32),
        -(2 ** (activation_bits - 1)),
        2 ** (activation_bits - 1) - 1,
    )
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    state.quantizers[values[where]] = record
    Pipeline([QuantizeWeights(bits), StoreWeights(), RemoveDead()]).run(state)
    running = {node.op_type for node in executed_kernels(model)}
    folded = activation_bits > 8
    assert ("MatMul" in running, "MatMulNBits" in running) == (folded, not folded)
    assert bool(state.refusals) == folded
    if folded:
        (refusal,) = state.refusals["store-weights"]
        assert refusal.where == "matmul_2" and "more than 8 bits" in refusal.reason
        feeds = {"x": normal(5, 2, 32)}
        plain = run(open_session(model, optimize=False), feeds)["y"]
        assert np.abs(run(open_session(model), feeds)["y"] - plain).max() <= 1.01 * float(record.step)


def test_eight_bits_keep_their_kernel_beside_sixteen(build):
    text = "a = Tanh(x) \n b = MatMul(a, v) \n c = Tanh(b) \n y = MatMul(c, w)"
    model = build(f"(float[N,64] x) => (float[N,64] y) {{ {text} }}", v=normal(64, 64), w=normal(64, 64))
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    for node, bits in ((model.graph[0], 16), (model.graph[2], 8)):
        state.quantizers[node.outputs[0]] = Quantizer.symmetric(np.float32(1), bits)
    Pipeline([QuantizeWeights(), StoreWeights(), RemoveDead()]).run(state)
    running = [node.op_type for node in executed_kernels(model)]
    assert running.count("MatMul") == 1 and running.count("MatMulNBits") == 1


@pytest.mark.parametrize(
    ("inputs", "block", "portable", "kernel"),
    [
        (64, 32, 32, "MatMulNBits"),
        (48, 32, 16, "MatMulNBits"),
        (24, 32, None, "MatMulNBits"),
        (100, 32, "folded", "MatMul"),
        (40, 16, "folded", "MatMul"),
    ],
)
@pytest.mark.parametrize("low", [-8, -3])
def test_blocks_of_the_model_divide_its_inputs_where_openvino_reads_them(
    build, inputs, block, portable, kernel, low
):
    weight, count = normal(inputs, 16), -(-inputs // block)
    record = Quantizer(np.abs(normal(count, 16, seed=1)) / 8 + F32(0.05), low, low + 15, axis=0, block=block)
    x = normal(5, inputs, seed=2)
    for target in ("portable", "ort"):
        model = build(f"(float[N,{inputs}] x) => (float[N,16] y) {{ y = MatMul(x, w) }}", w=weight)
        state = State(model, facts={Fact.QUANTIZERS_FOLDED})
        state.quantizers[model.graph.initializers["w"]] = record
        Pipeline([QuantizeWeights(), StoreWeights(target), RemoveDead()]).run(state)
        found = [
            node.attributes.get_int("block_size", 0) or None
            for node in model.graph
            if node.op_type == "DequantizeLinear"
        ]
        wanted = block if target == "ort" else portable
        assert found == ([] if wanted == "folded" else [wanted])
        assert [node.op_type for node in executed_kernels(model)] == [
            "MatMulNBits" if target == "ort" else kernel
        ]
        assert [one.reason for many in state.refusals.values() for one in many] == (
            [f"blocks of {block} do not divide its {inputs} inputs, and OpenVINO takes no others"]
            if wanted == "folded"
            else []
        )
        plain = run(open_session(model, optimize=False), {"x": x})["y"]
        np.testing.assert_allclose(plain, x @ record.quantize(weight), rtol=1e-4, atol=1e-4)


def test_steps_of_folded_blocks_take_no_room(build):
    """They are spread over the rows when the model is loaded."""
    model = build(
        "(float[N,256] x) => (float[N,128] y) { a = MatMul(x, w) \n y = Tanh(a) }", w=normal(256, 128)
    )
    state = State(model, facts={Fact.QUANTIZERS_FOLDED})
    state.quantizers[model.graph[1].outputs[0]] = Quantizer.symmetric(np.float32(1), 16)
    Pipeline([QuantizeWeights(4, 32), StoreWeights(), RemoveDead()]).run(state)
    sizes = {
        name: value.const_value.nbytes
        for name, value in model.graph.initializers.items()
        if name.startswith("w.")
    }
    assert sum(sizes.values()) == 256 * 128 + 8 * 128 + 4 * 128 + 8 * 256  # INT8 until packed
    assert [node.op_type for node in executed_kernels(model)] == ["MatMul", "Tanh"]


def test_other_targets_are_refused():
    with pytest.raises(OptionError, match="no such target"):
        StoreWeights("openvino")
