"""Attention as the reader spells it out: the same numbers, and heads that can go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from getac.axes.roles import HEADS, KV_HEADS, QK_DIMENSIONS, REPEATS, V_DIMENSIONS
from getac.onnx_graph import opset
from getac.onnx_graph.read import read_proto
from tools.law import Feeds, analyzed, check_law, outputs_of

WIDTH = 6
D, DV = 4, 5  # head dimensions of queries and keys, and of values
SIZES = {"N": 2, "S": 3, "T": 5, "P": 2, "PT": 7, "short": 4}

GROUPED = ((KV_HEADS, 2), (REPEATS, 3), (QK_DIMENSIONS, D), (V_DIMENSIONS, DV))
PLAIN = ((HEADS, 4), (QK_DIMENSIONS, D), (V_DIMENSIONS, DV))


@dataclass(frozen=True)
class Variant:
    """Projections of x (keys: of z), Attention, and a projection of its output.

    Args:
        roles: The open classes, in the order of the graph; None: not asserted.
        flat: Whether Q, K and V have rank 3.
        keys: The number of keys; "S" if queries, keys and values have the same source.
        mask: The mask's shape.
        dynamic: Whether all sizes but the batch's are symbols.
        past: Whether keys and values of the past come in, and the present ones go out.
        lengths: The number of keys that count, per batch.
        shown: Which scores are an output, if any.
    """

    roles: Sequence[tuple[str, int]] | None = PLAIN
    heads: int = 4
    kv_heads: int = 4
    flat: bool = True
    opset: int = 23
    keys: str = "T"
    mask: tuple[int | str, ...] | None = None
    mask_type: type[np.generic] = np.float32
    dynamic: bool = True
    past: bool = False
    lengths: tuple[int, ...] | None = None
    shown: int | None = None
    attributes: Mapping[str, int | float] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        rng = np.random.default_rng(0)
        inputs = [self._input("x", TensorProto.FLOAT, "N", "S", WIDTH)]
        if self.keys == "T":
            inputs.append(self._input("z", TensorProto.FLOAT, "N", "T", WIDTH))
        nodes, tensors = [], []
        for name, heads, d in (("q", self.heads, D), ("k", self.kv_heads, D), ("v", self.kv_heads, DV)):
            source = "x" if name == "q" or self.keys == "S" else "z"
            weight = rng.normal(size=(WIDTH, heads * d)).astype(np.float32)
            tensors.append(numpy_helper.from_array(weight, f"w{name}"))
            nodes += self._projection(source, name, heads)
        tensors.append(numpy_helper.from_array(np.array([0, 0, self.heads, -1]), "q_split"))
        tensors.append(numpy_helper.from_array(np.array([0, 0, self.kv_heads, -1]), "kv_split"))
        tensors.append(numpy_helper.from_array(np.array([0, 0, -1]), "merged"))
        out = rng.normal(size=(self.heads * DV, WIDTH)).astype(np.float32)
        tensors.append(numpy_helper.from_array(out, "wo"))
        nodes.append(self._attention(inputs))
        merged = "a" if self.flat else "am"
        if not self.flat:
            nodes.append(helper.make_node("Transpose", ["a"], ["at"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", ["at", "merged"], ["am"]))
        nodes.append(helper.make_node("MatMul", [merged, "wo"], ["y"]))
        names = ["y", *nodes[-2 if self.flat else -4].output[1:]]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name]
        graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
        imports = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def _projection(self, source: str, name: str, heads: int) -> list[onnx.NodeProto]:
        if self.flat:
            return [helper.make_node("MatMul", [source, f"w{name}"], [name])]
        split = "q_split" if name == "q" else "kv_split"
        return [
            helper.make_node("MatMul", [source, f"w{name}"], [f"{name}m"]),
            helper.make_node("Reshape", [f"{name}m", split], [f"{name}r"]),
            helper.make_node("Transpose", [f"{name}r"], [name], perm=[0, 2, 1, 3]),
        ]

    def _attention(self, inputs: list[onnx.ValueInfoProto]) -> onnx.NodeProto:
        names = ["q", "k", "v", "", "", "", ""]
        outputs = ["a", "", "", ""]
        if self.mask is not None:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.mask_type))
            inputs.append(self._input("mask", kind, *self.mask))
            names[3] = "mask"
        if self.past:
            inputs.append(self._input("past_k", TensorProto.FLOAT, "N", self.kv_heads, "P", D))
            inputs.append(self._input("past_v", TensorProto.FLOAT, "N", self.kv_heads, "P", DV))
            names[4:6], outputs[1:3] = ["past_k", "past_v"], ["present_k", "present_v"]
        if self.lengths is not None:
            inputs.append(self._input("lengths", TensorProto.INT64, "N"))
            names[6] = "lengths"
        attributes: dict[str, Any] = dict(self.attributes)
        if self.flat:
            attributes |= {"q_num_heads": self.heads, "kv_num_heads": self.kv_heads}
        if self.shown is not None:
            outputs[3], attributes["qk_matmul_output_mode"] = "scores", self.shown
        while not names[-1]:
            names.pop()
        while not outputs[-1]:
            outputs.pop()
        return helper.make_node("Attention", names, outputs, "att", **attributes)

    def _input(self, name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        sizes = [d if self.dynamic or d == "N" else SIZES.get(str(d), d) for d in shape]
        return helper.make_tensor_value_info(name, kind, sizes)

    def feeds(self) -> Feeds:
        """Numbers for the inputs; the first query of the mask sees nothing."""
        rng = np.random.default_rng(1)
        feeds: dict[str, NDArray[np.generic]] = {}
        for spec in self.model().graph.input:
            dims = spec.type.tensor_type.shape.dim
            shape = [SIZES.get(d.dim_param, d.dim_value) for d in dims]
            feeds[spec.name] = rng.normal(size=shape).astype(np.float32)
        if (noise := feeds.get("mask")) is not None:
            seen = noise > np.float32(-0.5)
            seen.reshape(-1, noise.shape[-1])[0] = False
            feeds["mask"] = seen if self.mask_type is np.bool_ else np.where(seen, noise, -np.float32(np.inf))
        if self.lengths is not None:
            feeds["lengths"] = np.array(self.lengths)
        return feeds


def grouped(**fields: Any) -> Variant:
    return Variant(**{"roles": GROUPED, "heads": 6, "kv_heads": 2, **fields})


BOOL: dict[str, Any] = {"mask_type": np.bool_}
CAUSAL: dict[str, Any] = {"attributes": {"is_causal": 1}}

VARIANTS = {
    "plain": Variant(),
    "plain, rank 4": Variant(flat=False),
    "grouped": grouped(),
    "grouped, rank 4": grouped(flat=False),
    "one key head": grouped(kv_heads=1, roles=((HEADS, 6), (QK_DIMENSIONS, D), (V_DIMENSIONS, DV))),
    "self attention": Variant(keys="S"),
    "causal": Variant(**CAUSAL),
    "causal self attention": Variant(keys="S", **CAUSAL),
    "causal, sizes known": grouped(dynamic=False, **CAUSAL),
    "causal grouped, rank 4": grouped(flat=False, **CAUSAL),
    "scale": Variant(attributes={"scale": 0.3}),
    "scale of one": Variant(attributes={"scale": 1.0}),
    "softcap": grouped(attributes={"softcap": 0.7}),
    "softmax in double": Variant(attributes={"softmax_precision": int(TensorProto.DOUBLE)}),
    "mask of rank 2": Variant(mask=("S", "T")),
    "mask of rank 3": Variant(mask=(1, "S", "T")),
    "mask of rank 4": grouped(mask=("N", 1, "S", "T")),
    "mask per head": Variant(mask=(4, "S", "T"), roles=None),
    "bool mask of rank 2": grouped(mask=("S", "T"), flat=False, **BOOL),
    "bool mask of rank 3": Variant(mask=(1, "S", "T"), **BOOL),
    "bool mask of rank 4": Variant(mask=("N", 1, 1, "T"), **BOOL),
    "causal with a mask": Variant(mask=("S", "T"), **CAUSAL),
    "causal with a bool mask": grouped(mask=("N", 1, "S", "T"), **BOOL, **CAUSAL),
    "causal with a mask of one row": Variant(mask=("N", 1, 1, "T"), **CAUSAL),
    "causal with a bool mask of rank 1": grouped(mask=("T",), **BOOL, **CAUSAL),
    "past": Variant(past=True, roles=()),
    "grouped past, causal": grouped(past=True, roles=None, **CAUSAL),
    "past, rank 4, causal": Variant(past=True, flat=False, roles=(), **CAUSAL),
    "past with a mask": Variant(past=True, roles=(), mask=("S", "PT"), dynamic=False),
    "short mask": Variant(opset=24, mask=("S", "short"), dynamic=False),
    "short bool mask": grouped(opset=24, mask=("N", 1, "S", "short"), dynamic=False, **BOOL),
    "mask of opset 24": Variant(opset=24, mask=("S", "T"), dynamic=False),
    "bool mask of opset 24": Variant(opset=24, mask=("S", "T"), **BOOL),
    "past of opset 24": grouped(opset=24, past=True, roles=None, **CAUSAL),
    "lengths": Variant(opset=24, lengths=(2, 5)),
    "lengths with a bool mask": Variant(opset=24, lengths=(2, 5), mask=("S", "T"), **BOOL),
    "causal lengths": grouped(opset=24, lengths=(2, 5), **CAUSAL),
    "causal lengths, with a mask": Variant(opset=24, lengths=(4, 5), mask=("S", "T"), **CAUSAL),
    "opset 25": Variant(opset=25, **CAUSAL),
    **{f"scores of mode {mode}": grouped(roles=None, shown=mode, mask=("S", "T"),
        attributes={"softcap": 0.7, "is_causal": 1}) for mode in range(4)},
}  # fmt: skip

# onnxruntime wants the mask's last two dimensions in full, and shows scores that are masked as -3.4e38.
NOT_IN_ONNXRUNTIME = {
    "bool mask of rank 4",
    "causal with a mask of one row",
    "causal with a bool mask of rank 1",
    "short mask",
    "short bool mask",
    "scores of mode 2",
}

# The reference shows the scores after the softcap where those before it are asked for, and takes the number
# of queries from the mask where the attention is causal.
NOT_IN_REFERENCE = {
    "causal with a mask of one row",
    "causal with a bool mask of rank 1",
    "scores of mode 0",
}


def computed(model: onnx.ModelProto, feeds: Feeds) -> list[NDArray[Any]]:
    return list(outputs_of(model, feeds))


def reference(model: onnx.ModelProto, feeds: Feeds) -> list[NDArray[Any]]:
    with np.errstate(invalid="ignore"):  # rows without a key
        return list(ReferenceEvaluator(model).run(None, dict(feeds)))


def spelled_out(variant: Variant) -> onnx.ModelProto:
    """The model as the reader leaves it; not through the function body, which compares head counts."""
    model = read_proto(variant.model())
    operators = {node.op_type for node in model.graph}
    assert not operators & {"Attention", "Mod", "CastLike"}
    return ir.to_proto(model)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_numbers_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the function body of the operator's definition, onnx's reference, and onnxruntime."""
    variant = VARIANTS[name]
    feeds = variant.feeds()
    found = computed(spelled_out(variant), feeds)
    monkeypatch.setattr(opset, "_EXPANDERS", {})
    expected = [computed(ir.to_proto(read_proto(variant.model())), feeds)]
    if name not in NOT_IN_REFERENCE:
        expected.append(reference(variant.model(), feeds))
    if name not in NOT_IN_ONNXRUNTIME:
        expected.append(computed(variant.model(), feeds))
    for numbers in expected:
        for one, other in zip(found, numbers, strict=True):
            assert np.isfinite(other).any()
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_heads_are_open_and_masked_equals_sliced(name: str) -> None:
    variant = VARIANTS[name]
    model = spelled_out(variant)
    analysis = analyzed(model).analysis
    assert analysis is not None
    if variant.roles is not None:
        assert [(one.role, one.size) for one in analysis.classes] == list(variant.roles)
    for seed in range(2):
        outcome = check_law(model, seed)
        assert outcome.difference <= 1e-5
        assert outcome.removed or variant.roles == ()


def test_a_mask_of_one_column_is_stretched_in_opset_23() -> None:
    """From opset 24 on it is padded instead."""
    narrow, full = Variant(mask=("S", 1)), Variant(mask=("S", "T"))
    feeds = full.feeds()
    feeds["mask"][:] = [[0.0], [0.3], [-np.inf]]
    expected = reference(full.model(), feeds)
    found = computed(spelled_out(narrow), {**feeds, "mask": feeds["mask"][:, :1]})
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


@pytest.mark.parametrize("variant", [Variant(), grouped(flat=False), grouped(keys="S", **CAUSAL)])
def test_the_trained_scale_stays(variant: Variant) -> None:
    """Where fewer head dimensions are left, d^-1/2 would be another number."""
    model = read_proto(variant.model())
    (scale,) = [node.inputs[1] for node in model.graph if node.op_type == "Mul"]
    assert scale is not None and scale.const_value is not None
    assert scale.const_value.numpy() == np.float32(D**-0.5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_constants_have_the_type_of_the_queries(kind: int) -> None:
    """Other float types: the numbers agree with the reference."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    infos = [helper.make_tensor_value_info(name, kind, ["N", 2, "S", 4]) for name in "qkv"]
    node = helper.make_node("Attention", ["q", "k", "v", "m"], ["y"], "att", is_causal=1, softcap=2.0)
    mask = helper.make_tensor_value_info("m", TensorProto.BOOL, ["S", "S"])
    out = helper.make_tensor_value_info("y", kind, ["N", 2, "S", 4])
    graph = helper.make_graph([node], "g", [*infos, mask], [out])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(2, 2, 3, 4)).astype(dtype) for name in "qkv"}
    feeds["m"] = rng.random((3, 3)) > 0.3
    model = read_proto(proto)
    assert "CastLike" not in {node.op_type for node in model.graph}
    (found,), (expected,) = (reference(each, feeds) for each in (ir.to_proto(model), proto))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, atol=2e-3 if kind == TensorProto.FLOAT16 else 1e-12)


def unknown_heads(proto: onnx.ModelProto) -> None:
    """Rank 4, but the number of heads is a symbol."""
    for spec in proto.graph.input:
        spec.type.tensor_type.shape.dim[1].dim_param = "H"


def integer_mask(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("m", TensorProto.INT32, ["S", "S"]))
    proto.graph.node[0].input.append("m")


def unknown_width(proto: onnx.ModelProto) -> None:
    """The scale follows from a size that is not known."""
    for spec in proto.graph.input:
        spec.type.tensor_type.shape.dim[3].dim_param = "D"


@pytest.mark.parametrize("change", [unknown_heads, integer_mask, unknown_width])
def test_what_is_not_known_goes_through_the_function_body(change: Callable[[onnx.ModelProto], None]) -> None:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, "S", 4]) for name in "qkv"]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], "att")
    graph = helper.make_graph([node], "g", infos, [out])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    change(proto)
    model = read_proto(proto)
    assert {"Mod", "CastLike"} <= {node.op_type for node in model.graph}
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(2, 2, 3, 4)).astype(np.float32) for name in "qkv"}
    feeds |= {"m": np.eye(3, dtype=np.int32)} if change is integer_mask else {}
    (found,) = computed(ir.to_proto(model), feeds)
    (expected,) = reference(proto, feeds)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_sliding_window_goes_through_the_function_body() -> None:
    variant = Variant(opset=25, attributes={"is_causal": 1, "left_window_size": 1})
    model = read_proto(variant.model())
    assert "CastLike" in {node.op_type for node in model.graph}
    (expected,) = reference(variant.model(), variant.feeds())
    np.testing.assert_allclose(computed(ir.to_proto(model), variant.feeds())[0], expected, atol=1e-5)


def test_attention_of_the_torch_exporter() -> None:
    """scaled_dot_product_attention becomes Attention of rank 4 in opset 23, with symbolic lengths."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Grouped(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv = torch.nn.Linear(WIDTH, 24), torch.nn.Linear(WIDTH, 24)
            self.o = torch.nn.Linear(24, WIDTH)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            q = self.q(x).view(batch, length, 6, 4).transpose(1, 2)
            k, v = self.kv(x).view(batch, length, 2, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return self.o(y.transpose(1, 2).reshape(batch, length, -1))

    torch.manual_seed(0)
    net, x = Grouped().eval(), torch.randn(2, 5, WIDTH)
    sizes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length")},)
    program = torch.onnx.export(
        net, (x,), dynamo=True, opset_version=23, optimize=False, dynamic_shapes=sizes, verbose=False
    )
    proto = program.model_proto
    assert "Attention" in {node.op_type for node in proto.graph.node}
    model = ir.to_proto(read_proto(proto))
    (found,) = computed(model, {proto.graph.input[0].name: x.numpy()})
    np.testing.assert_allclose(found, net(x).detach().numpy(), atol=1e-5)
    analysis = analyzed(model).analysis
    assert analysis is not None
    assert {(one.role, one.size) for one in analysis.classes} >= {(KV_HEADS, 3), (REPEATS, 2)}
    assert check_law(model).difference <= 1e-5
