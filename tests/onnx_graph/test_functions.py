"""Local functions are inlined within a bound."""

from __future__ import annotations

import itertools
import time

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, parser

from getac.errors import InvalidModelError, UnsupportedModelError
from getac.onnx_graph.read import read_proto

HEAD = '<ir_version: 10, opset_import: ["" : {opset}, "L" : 1]>\n'


def parse(text: str, opset: int = 21) -> onnx.ModelProto:
    return parser.parse_model(HEAD.format(opset=opset) + text)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {"x": x}))


def check_same(proto: onnx.ModelProto) -> ir.Model:
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    model = read_proto(proto)
    for found, expected in zip(run(ir.to_proto(model), x), run(proto, x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    names = [n.name for n in model.graph] + [o.name for n in model.graph for o in n.outputs]
    assert len(set(names)) == len(names)
    assert not model.functions
    return model


NESTED = """
agraph (float[N,4] x) => (float[N,4] y) {
  w = Constant<value = float[4] {1,2,3,4}>()
  y0 = L.foo<alpha = 2.0>(x, w)
  y = L.foo(y0, w)
}
<domain: "L", opset_import: ["" : 21, "com.microsoft" : 1, "L" : 1]>
foo <alpha: float = 3.0> (a, b) => (c) {
  t = L.bar<beta: float = @alpha>(a)
  c = Add(t, b)
}
<domain: "L", opset_import: ["" : 21, "com.microsoft" : 1]>
bar <beta> (a) => (c) {
  k = Constant<value_float: float = @beta>()
  m = Mul(a, k)
  c = com.microsoft.Gelu(m)
}
"""


def test_nested_calls_attributes_defaults_and_imports() -> None:
    model = check_same(parse(NESTED))
    assert [n.op_type for n in model.graph] == ["Mul", "Gelu", "Add"] * 2
    scales = [v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value.size == 1]
    assert scales == [2.0, 3.0], "the attribute's default reaches the inner function"
    assert model.graph.opset_imports["com.microsoft"] == 1


def test_subgraphs_in_functions_see_the_callers_values() -> None:
    check_same(
        parse("""
agraph (float[N,4] x) => (float[N,4] y) { a = L.f(x)  y = L.f(a) }
<domain: "L", opset_import: ["" : 21]>
f (v) => (o) {
  two = Constant<value_float = 2.0>()
  yes = Constant<value = bool {1}>()
  o = If (yes) <
    then_branch = t () => (r) { s = Mul(v, two)  r = Relu(s) },
    else_branch = e () => (r) { r = Neg(v) }
  >
}
""")
    )


def test_outputs_that_are_inputs_or_missing_inputs() -> None:
    model = read_proto(
        parse("""
agraph (float[N,4] x) => (float[N,4] y, float[N,4] z, float[N,4] c) { y, z = L.f(x)  c = L.clip(x) }
<domain: "L", opset_import: ["" : 21]>
f (v) => (v, r) { r = Relu(v) }
<domain: "L", opset_import: ["" : 21]>
clip (v, low, high) => (r) { r = Clip(v, low, high) }
""")
    )
    assert sorted(n.op_type for n in model.graph) == ["Clip", "Identity", "Relu"]
    x = np.array([[-1, 0, 1, 2]], np.float32)
    for found, expected in zip(run(ir.to_proto(model), x), (x, np.maximum(x, 0), x), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_inner_names_do_not_clash() -> None:
    check_same(
        parse("""
agraph (float[N,4] x) => (float[N,4] y) { t = Neg(x)  f_t = Relu(t)  a = L.f(f_t)  b = L.f(a)  y = Add(b, t) }
<domain: "L", opset_import: ["" : 21]>
f (x) => (y) { t = Abs(x)  y = Add(t, x) }
""")
    )


def test_functions_of_older_models_are_converted() -> None:
    text = """
agraph (float[N,4] x) => (float[N,4] y) { y = L.f(x) }
<domain: "L", opset_import: ["" : 13]>
f (v) => (o) { m = ReduceMean<axes = [1], keepdims = 1>(v)  o = Sub(v, m) }
"""
    check_same(parse(text, 13))
    check_same(parse(text, 15))  # Sub of 13 and 14 differ in the types that they take


def test_refuses_a_function_of_another_meaning() -> None:
    text = """
agraph (float[N,4] x) => (float[N,4] y) { y = L.f(x) }
<domain: "L", opset_import: ["" : 13]>
f (v) => (o) { m = ReduceMean<axes = [1], keepdims = 1>(v)  o = Sub(v, m) }
"""
    with pytest.raises(UnsupportedModelError, match="another version of an operator") as caught:
        read_proto(parse(text, 21))
    assert caught.value.where == "operator ReduceMean in function 'f'"
    assert (caught.value.required, caught.value.found) == ("opset 21, as the model", "opset 13")


def laughs(levels: int, calls: int, inner: list[onnx.NodeProto]) -> onnx.ModelProto:
    """f0 holds `inner`; each further function calls the one before `calls` times."""
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("L", 1)]
    functions = [helper.make_function("L", "f0", ["a"], ["b"], inner, imports)]
    for level in range(1, levels):
        names = ["a", *(f"t{i}" for i in range(calls - 1)), "b"]
        body = [helper.make_node(f"f{level - 1}", [i], [o], domain="L") for i, o in itertools.pairwise(names)]
        functions.append(helper.make_function("L", f"f{level}", ["a"], ["b"], body, imports))
    x = helper.make_tensor_value_info("x", 1, ["N", 4])
    graph = helper.make_graph(
        [helper.make_node(f"f{levels - 1}", ["x"], ["y"], domain="L")],
        "g",
        [x],
        [helper.make_empty_tensor_value_info("y")],
    )
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=10)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (laughs(20, 10, [helper.make_node("Relu", ["a"], ["b"])]), "nodes"),
        (laughs(90, 2, [helper.make_node("Relu", ["a"], ["b"])]), "nodes"),
        (laughs(150, 1, [helper.make_node("Relu", ["a"], ["b"])]), "calls 150 deep"),
        (laughs(5000, 1, [helper.make_node("Relu", ["a"], ["b"])]), "calls 5000 deep"),
    ],
)
def test_refuses_billion_laughs_at_once(model: onnx.ModelProto, found: str) -> None:
    start = time.perf_counter()
    with pytest.raises(UnsupportedModelError, match="expand to too much") as caught:
        read_proto(model)
    assert time.perf_counter() - start < 2
    assert found in str(caught.value.found)
    assert "200000 nodes" in str(caught.value.required)


def test_refuses_many_bytes() -> None:
    tensor = helper.make_tensor("t", 1, [1024], np.ones(1024, np.float32))
    inner = [
        helper.make_node("Constant", [], ["c"], value=tensor),
        helper.make_node("Add", ["a", "c"], ["b"]),
    ]
    model = laughs(6, 10, inner)  # 10^5 copies of 4 KiB each, and 2 x 10^5 nodes
    with pytest.raises(UnsupportedModelError, match="expand to too much"):
        read_proto(model)


def test_many_calls_within_the_bound_are_quick() -> None:
    start = time.perf_counter()
    model = read_proto(laughs(4, 20, [helper.make_node("Relu", ["a"], ["b"])]))
    assert time.perf_counter() - start < 10
    assert len(model.graph) == 8000


def test_refuses_subgraphs_nested_by_functions() -> None:
    """Each function's If calls the function before: 60 levels of subgraphs, more than a file can hold."""
    model = laughs(60, 1, [helper.make_node("Relu", ["a"], ["b"])])
    for function in model.functions[1:]:
        call = helper.make_node(function.node[0].op_type, ["a"], ["t"], domain="L")
        branch = helper.make_graph([call], "branch", [], [helper.make_empty_tensor_value_info("t")])
        function.node[0].CopyFrom(helper.make_node("If", ["a"], ["b"], then_branch=branch))
    with pytest.raises(UnsupportedModelError, match="nested too deeply"):
        read_proto(model)


@pytest.mark.parametrize("body", ["y = L.f(x)", "t = L.g(x)  y = Relu(t)"])
def test_refuses_recursion(body: str) -> None:
    text = f"""
agraph (float[N,4] x) => (float[N,4] y) {{ y = L.f(x) }}
<domain: "L", opset_import: ["" : 21, "L" : 1]>
f (x) => (y) {{ {body} }}
<domain: "L", opset_import: ["" : 21, "L" : 1]>
g (x) => (y) {{ y = L.f(x) }}
"""
    with pytest.raises(InvalidModelError, match="calls itself") as caught:
        read_proto(parse(text))
    assert "f" in str(caught.value.where)


def test_refuses_broken_bodies_and_two_of_a_name() -> None:
    model = laughs(1, 1, [helper.make_node("Add", ["a", "gone"], ["b"], name="n")])
    with pytest.raises(InvalidModelError, match="nothing defines") as caught:
        read_proto(model)
    assert caught.value.where == "function 'f0'"
    cyclic = laughs(1, 1, [helper.make_node("Add", ["a", "b"], ["b"])])
    with pytest.raises(InvalidModelError, match="cyclic"):
        read_proto(cyclic)
    twice = laughs(2, 1, [helper.make_node("Relu", ["a"], ["b"])])
    twice.functions[1].name = "f0"
    with pytest.raises(InvalidModelError, match="same name"):
        read_proto(twice)
