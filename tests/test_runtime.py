"""onnxruntime's side: sessions, exposed values, latency, and which kernels the Q/DQ recipes end up on."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from getac.errors import GetacError, UnsupportedModelError
from getac.executed import ExecutedNode, Kernel, Layer, executed_kernels, layer_kernels, trace_layer
from getac.runtime import measure_latency, open_session, run, with_outputs

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


class Net:
    """A little builder of Q/DQ graphs: UINT8 activations, INT8 weights, INT32 bias."""

    def __init__(self, *shape):
        self.rng = np.random.default_rng(0)
        self.inputs = [self.value("x", shape)]
        self.nodes, self.initializers = [], []

    def value(self, name, shape=None):
        return ir.Value(
            name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape) if shape else None
        )

    def const(self, name, array, dtype=None):
        tensor = (
            ir.tensor(array, dtype=dtype, name=name) if dtype else ir.tensor(np.asarray(array), name=name)
        )
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
        self.initializers.append(value)
        return value

    def random(self, name, *shape):
        return self.const(name, self.rng.standard_normal(shape).astype(np.float32))

    def op(self, op_type, inputs, name, **attributes):
        node = ir.node(op_type, inputs, attributes=attributes, name=f"node_{name}")
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def qdq(self, x, scale, zero_point):
        pair = [self.const(f"{x.name}.s", np.float32(scale)), self.const(f"{x.name}.z", np.uint8(zero_point))]
        return self.op(
            "DequantizeLinear", [self.op("QuantizeLinear", [x, *pair], f"{x.name}.q"), *pair], f"{x.name}.dq"
        )

    def dequantized(self, integers, name, scale, zeros, axis):
        pair = [self.const(f"{name}.s", scale), self.const(f"{name}.z", zeros)]
        return self.op("DequantizeLinear", [integers, *pair], f"{name}.dq", axis=axis)

    def weight(self, name, shape, axis, storage=None):
        """INT8, or smaller integers that are cast to INT8."""
        integers = self.rng.integers(-7, 8, shape).astype(np.int8)
        value = self.const(name, integers, storage)
        if storage:
            value = self.op("Cast", [value], f"{name}.i8", to=int(ir.DataType.INT8))
        n = shape[axis]
        return self.dequantized(value, name, np.full(n, 0.01, np.float32), np.zeros(n, np.int8), axis)

    def bias(self, name, n, scale):
        integers = self.const(name, self.rng.integers(-99, 99, n).astype(np.int32))
        return self.dequantized(
            integers, name, np.full(n, np.float32(scale) * np.float32(0.01)), np.zeros(n, np.int32), 0
        )

    def model(self, *outputs):
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": 21},
            name="net",
        )
        for output in outputs:
            output.type = ir.TensorType(ir.DataType.FLOAT)
        return ir.Model(graph, ir_version=10)


def conv(relu=True, groups=1, channels=(16, 32), storage=None, quantized_output=True):
    net = Net("N", channels[0], 8, 8)
    x = net.qdq(net.inputs[0], 0.02, 128)
    w = net.weight("w", (channels[1], channels[0] // groups, 3, 3), 0, storage)
    y = net.op("Conv", [x, w, net.bias("b", channels[1], 0.02)], "y", group=groups, pads=[1] * 4)
    y = net.op("Relu", [y], "relu") if relu else y
    return net.model(net.qdq(y, 0.05, 0 if relu else 128) if quantized_output else y)


def gemm(quantized_output=False):
    net = Net("N", 64)
    x = net.qdq(net.inputs[0], 0.02, 128)
    y = net.op("Gemm", [x, net.weight("w", (24, 64), 0), net.bias("b", 24, 0.02)], "y", transB=1)
    return net.model(net.qdq(y, 0.05, 128) if quantized_output else y)


def matmul(quantized_output=False):
    net = Net("N", 5, 64)
    y = net.op("MatMul", [net.qdq(net.inputs[0], 0.02, 128), net.weight("w", (64, 24), 1)], "y")
    return net.model(net.qdq(y, 0.05, 128) if quantized_output else y)


def weight_only_matmul():
    net = Net("N", 5, 64)
    scale = net.const("s", np.full(24, 0.01, np.float32))
    integers = net.const("w", net.rng.integers(-7, 8, (64, 24)).astype(np.int8), ir.DataType.INT4)
    return net.model(
        net.op("MatMul", [net.inputs[0], net.op("DequantizeLinear", [integers, scale], "wd", axis=1)], "y")
    )


def float_net(channels=16):
    """Two convolutions, the second depthwise; a transposed one, a Gemm with Relu, a MatMul with bias."""
    net, c = Net("N", 16, 8, 8), channels
    first = net.op("Conv", [net.inputs[0], net.random("w1", c, 16, 3, 3)], "y1", pads=[1] * 4)
    statistics = [net.const(f"bn{i}", np.ones(c, np.float32)) for i in range(4)]
    first = net.op("Relu", [net.op("BatchNormalization", [first, *statistics], "bn")], "r1")
    second = net.op("Conv", [first, net.random("w2", c, 1, 3, 3)], "y2", pads=[1] * 4, group=c)
    total = net.op("Relu", [net.op("Add", [second, first], "sum")], "r2")
    third = net.op("ConvTranspose", [total, net.random("w3", c, 8, 2, 2)], "y3", strides=[2, 2])
    flat = net.op("Flatten", [net.op("GlobalAveragePool", [third], "pool")], "flat")
    fourth = net.op("Gemm", [flat, net.random("w4", 24, 8), net.random("b4", 24)], "y4", transB=1)
    fifth = net.op("MatMul", [net.op("Relu", [fourth], "r4"), net.random("w5", 24, 5)], "y5")
    return net.model(net.op("Add", [fifth, net.random("b5", 5)], "out"))


def kernels(model):
    layers = {node.outputs[0].name: trace_layer(node) for node in model.graph if node.op_type in LAYERS}
    return {name: str(kernel) for name, kernel in layer_kernels(layers, executed_kernels(model)).items()}


def op_types(model):
    return [node.op_type for node in executed_kernels(model)]


def x_of(*shape):
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


class TestSessions:
    def test_in_memory_bytes_and_path_agree(self, tmp_path):
        model, feeds = float_net(), x_of(2, 16, 8, 8)
        ir.save(model, tmp_path / "m.onnx")
        results = [
            run(open_session(source), feeds)["out"]
            for source in (
                model,
                ir.to_proto(model).SerializeToString(),
                tmp_path / "m.onnx",
                str(tmp_path / "m.onnx"),
            )
        ]
        assert results[0].shape == (2, 5)
        assert all(np.array_equal(results[0], other) for other in results[1:])

    def test_external_tensors_are_loaded(self, tmp_path):
        expected = run(open_session(float_net()), x_of(1, 16, 8, 8))["out"]
        ir.save(float_net(), tmp_path / "m.onnx", external_data="m.bin", size_threshold_bytes=0)
        model = ir.load(tmp_path / "m.onnx")
        tensor = model.graph.initializers["w1"].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        session = open_session(model)
        assert np.array_equal(run(session, x_of(1, 16, 8, 8))["out"], expected)
        assert model.graph.initializers["w1"].const_value is tensor
        assert kernels(model)["y1"] == "float (Conv)"

    def test_without_optimisation_the_result_is_the_same(self):
        results = [
            run(open_session(conv(), optimize=flag), x_of(1, 16, 8, 8))["relu.dq"] for flag in (True, False)
        ]
        assert np.abs(results[0] - results[1]).max() <= 0.05 * 1.001  # one step

    def test_options(self):
        options = open_session(gemm(), threads=2).get_session_options()
        assert (options.intra_op_num_threads, options.log_severity_level) == (2, 3)
        assert open_session(gemm()).get_providers() == ["CPUExecutionProvider"]

    def test_refuses_what_onnxruntime_refuses(self, tmp_path):
        with pytest.raises(UnsupportedModelError, match=r"cannot load the model\n.*protobuf parsing failed"):
            open_session(b"no model")
        with pytest.raises(UnsupportedModelError, match=r"nothing\.onnx"):
            open_session(tmp_path / "nothing.onnx")
        net = Net("N", 3)
        with pytest.raises(UnsupportedModelError) as caught:
            open_session(net.model(net.op("NoSuchOperator", net.inputs, "y")))
        assert "NoSuchOperator" in caught.value.found
        assert "\n" not in caught.value.found

    @pytest.mark.parametrize(
        "feeds",
        [{}, x_of(2, 63), {"x": np.zeros((2, 64))}, {**x_of(2, 64), "other": np.zeros(1)}, {"x": None}],
    )
    def test_refuses_wrong_feeds(self, feeds):
        with pytest.raises(
            GetacError, match=r"failed while it ran the model\n.*x: tensor\(float\)\['N', 64\]"
        ):
            run(open_session(gemm()), feeds)


class TestOutputs:
    def test_inner_values_are_returned_and_the_model_is_unchanged(self):
        model = float_net()
        session = open_session(model, outputs=["r1", "y4", "x", "out", "r1"])
        result = run(session, x_of(2, 16, 8, 8))
        assert list(result) == ["out", "r1", "y4", "x"]
        assert result["r1"].shape == (2, 16, 8, 8)
        assert result["r1"].min() == 0.0
        assert [value.name for value in model.graph.outputs] == ["out"]
        assert result["out"] == pytest.approx(
            run(open_session(model), x_of(2, 16, 8, 8))["out"], rel=1e-4, abs=1e-4
        )

    def test_integer_values_get_their_type(self):
        assert run(open_session(conv(), outputs=["x.q"]), x_of(1, 16, 8, 8))["x.q"].dtype == np.uint8

    def test_tensors_are_shared(self):
        model = float_net()
        copy = with_outputs(model, ["r1"])
        pairs = zip(model.graph.initializers.values(), copy.graph.initializers.values(), strict=True)
        assert all(ours.const_value is theirs.const_value for ours, theirs in pairs)

    def test_refuses_an_unknown_value(self):
        with pytest.raises(GetacError, match=r"no such value\n.*nowhere"):
            with_outputs(float_net(), ["nowhere"])


def test_latency_of_a_larger_model_is_larger():
    sessions = {
        "small": open_session(conv(channels=(16, 16))),
        "large": open_session(conv(channels=(16, 256))),
    }
    latency = measure_latency(sessions, x_of(4, 16, 8, 8), budget_s=0.3)
    assert list(latency) == ["small", "large"]
    assert latency["large"] > 2 * latency["small"] > 0


def test_latency_keeps_to_its_rounds(monkeypatch):
    runs = []
    original = ort.InferenceSession.run
    monkeypatch.setattr(
        ort.InferenceSession, "run", lambda self, *args: runs.append(self) or original(self, *args)
    )
    first, second = open_session(gemm()), open_session(gemm())
    measure_latency({"a": first, "b": second}, x_of(1, 64), min_rounds=3, budget_s=0.0)
    assert runs == [first] * 2 + [second] * 2 + [first, second] * 3


class TestKernels:
    @pytest.mark.parametrize(
        ("model", "core"),
        [
            (conv(), ["Transpose", "QLinearConv", "Transpose", "DequantizeLinear"]),
            (conv(relu=False), ["Transpose", "QLinearConv", "Transpose", "DequantizeLinear"]),
            (
                conv(groups=16, channels=(16, 16)),
                ["Transpose", "QLinearConv", "Transpose", "DequantizeLinear"],
            ),
            (conv(groups=4), ["Transpose", "QLinearConv", "Transpose", "DequantizeLinear"]),
            (conv(channels=(13, 27)), ["Transpose", "QLinearConv", "Transpose", "DequantizeLinear"]),
            (gemm(), ["QGemm"]),
            (gemm(quantized_output=True), ["QGemm", "DequantizeLinear"]),
            (matmul(), ["MatMulIntegerToFloat"]),
            (matmul(quantized_output=True), ["QLinearMatMul", "DequantizeLinear"]),
        ],
    )
    def test_recipes_run_on_integers(self, model, core):
        assert op_types(model) == ["QuantizeLinear", *core]

    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            (conv(), "integer (QLinearConv)"),
            (conv(storage=ir.DataType.INT4), "integer (QLinearConv)"),
            (conv(quantized_output=False), "float (FusedConv)"),
            (gemm(), "integer (QGemm)"),
            (matmul(), "integer (MatMulIntegerToFloat)"),
            (weight_only_matmul(), "weight-only (MatMulNBits)"),
        ],
    )
    def test_each_layer_is_found_again(self, model, expected):
        assert kernels(model) == {"y": expected}

    @pytest.mark.parametrize("channels", [16, 13])
    def test_float_layers_are_found_whatever_was_fused_into_them(self, channels):
        found = kernels(float_net(channels))
        assert list(found) == ["y1", "y2", "y3", "y4", "y5"]
        assert found["y3"] == "float (ConvTranspose)"
        assert found["y4"] == "float (FusedGemm)"
        assert found["y5"] == "float (Gemm)"
        assert {found["y1"], found["y2"]} <= {"float (Conv)", "float (FusedConv)"}

    def test_a_shared_weight_is_told_apart_by_results(self):
        net = Net("N", 16, 8, 8)
        w = net.weight("w", (16, 16, 3, 3), 0)
        integer = net.op("Conv", [net.qdq(net.inputs[0], 0.02, 128), w], "integer", pads=[1] * 4)
        x = net.qdq(net.op("Relu", [integer], "relu"), 0.05, 0)
        model = net.model(net.op("Conv", [x, w], "float", pads=[1] * 4))
        assert kernels(model) == {"integer": "integer (QLinearConv)", "float": "float (Conv)"}

    def test_names_are_compared_whole(self):
        executed = [ExecutedNode("QLinearConv", "", "conv10", ("x", "s", "z", "w10"), ("y10",), ())]
        layer = Layer("conv1", frozenset(["w1"]), ("y1",))
        assert layer_kernels({"conv1": layer}, executed) == {"conv1": Kernel("unknown", "")}

    def test_the_slowest_counts_where_nothing_tells_apart(self):
        executed = [
            ExecutedNode("QLinearConv", "", "a", ("x", "s", "z", "w"), ("p",), ()),
            ExecutedNode("Conv", "", "b", ("x", "w"), ("q",), ()),
        ]
        assert layer_kernels({"c": Layer("c", frozenset(["w"]), ("y",))}, executed)["c"] == Kernel(
            "float", "Conv"
        )

    def test_tracing_a_deep_model_is_quick(self):
        net = Net("N", 8)
        x = net.inputs[0]
        for index in range(3000):
            x = net.op("Add", [x, x], f"a{index}")
        model = net.model(net.op("MatMul", [x, net.random("w", 8, 8)], "y"))
        assert trace_layer(model.graph[-1]) == Layer("node_y", frozenset(["w"]), ("y",))

    def test_executed_nodes_say_what_they_read_and_write(self):
        node = executed_kernels(gemm())[1]
        assert (node.op_type, node.domain, node.name) == ("QGemm", "com.microsoft", "node_y")
        assert node.inputs == ("x.q", "x.s", "x.z", "w", "w.s", "w.z", "b")
        assert node.outputs == ("y",)
        assert set(node.attributes) == {"alpha", "transA", "transB"}

    def test_refuses_a_broken_model(self):
        with pytest.raises(UnsupportedModelError):
            executed_kernels(b"no model")
