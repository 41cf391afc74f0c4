"""The fake quantizer against its formulas, finite differences, onnxruntime; odd parameters, compilers."""

from __future__ import annotations

import copy
import itertools
import math
import re
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch import config as functorch_config
from torch.testing import assert_close

from getac.kernels.blocks import BLOCK
from getac.kernels.fake_quantize import Bits, fake_quantize, lattice
from getac.quantizer import Quantizer

FREE, FIXED, BETWEEN = (2.0, 16.0), (4.0, 4.0), (7.5, 9.0)
OP = torch.ops.getac.fake_quantize.default


def along(parameter, axis, rank):
    return (
        parameter.view([-1 if i == axis % rank else 1 for i in range(rank)]) if parameter.ndim else parameter
    )


def parts(x, d, q_m, t, axis, signed, least, most):
    """sgn(x), m, v and the step, as the module's docstring writes them."""
    bits = Bits(signed, least, most)
    reach = q_m**t
    d = torch.minimum(torch.maximum(d, reach / bits.top(most)), reach / bits.top(least))
    d, q_m = (along(one, axis or 0, x.ndim) for one in (d, q_m))
    sign = torch.sign(x) if signed else (x > 0).to(x.dtype)
    inside = x.abs() <= q_m if signed else (x >= 0) & (x <= q_m)
    m = torch.minimum(x.abs(), q_m)
    return sign, inside, m, torch.where(m > 0, m**t, 0) / d, d


def surrogate(x, d, q_m, t, *rest):
    """What has the formulas for derivatives: sgn(x) (d R + m^t), the residual R and the inside held."""
    sign, inside, m, v, step = parts(x, d, q_m, t, *rest)
    sign, residual = sign.detach(), (torch.round(v) - v).detach()
    m = torch.where(inside, m.detach(), m)  # x passes straight through
    power = torch.where(m > 0, m.clamp(min=1e-300) ** t, 0)
    return sign * (residual * step + power) + torch.where(inside, x - x.detach(), 0)


def parameters(channels, exponent, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)
    size = () if channels is None else (channels,)
    q_m = torch.rand(size, generator=random, dtype=dtype) + 0.8
    d = torch.rand(size, generator=random, dtype=dtype) * 0.02 + 0.002
    return [one.requires_grad_() for one in (d, q_m, torch.tensor(exponent, dtype=dtype))]


def gradients(function, x, inputs, grad, *rest):
    y = function(x, *inputs, *rest)
    wanted = [one for one in (x, *inputs) if one is not None]
    return y, torch.autograd.grad(y, wanted, grad)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.permute(0, 2, 1).contiguous().permute(0, 2, 1),
    "transposed": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:, :, :1].expand(x.shape),
}


@pytest.mark.parametrize("bits", [FREE, FIXED, BETWEEN])
@pytest.mark.parametrize("exponent", [1.0, 0.8, 1.3])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("signed", [True, False])
def test_gradients_are_the_formulas(signed, axis, exponent, bits):
    torch.manual_seed(0)
    for name, change in LAYOUTS.items():
        for shape in ((6, 5, 4), (3, 40, 600)):
            x = change(torch.randn(shape, dtype=torch.float64)).requires_grad_()
            grad = torch.randn(shape, dtype=torch.float64)
            inputs = parameters(None if axis is None else shape[axis], exponent)
            rest = (axis, signed, *bits)
            y, found = gradients(fake_quantize, x, inputs, grad, *rest)
            sign, _, _, v, step = parts(x, *inputs, *rest)
            assert_close(y, sign * step * torch.round(v), rtol=1e-12, atol=1e-12)
            _, expected = gradients(surrogate, x, inputs, grad, *rest)
            for which, a, b in zip(("x", "d", "q_m", "t"), found, expected, strict=True):
                assert_close(a, b, rtol=1e-8, atol=1e-8, msg=lambda m, w=(name, shape, which): f"{w}: {m}")


@pytest.mark.parametrize("bits", [FREE, FIXED, BETWEEN])
@pytest.mark.parametrize("exponent", [1.0, 0.8, 1.3])
@pytest.mark.parametrize("channels", [None, 5])
@pytest.mark.parametrize("signed", [True, False])
def test_parameters_by_finite_differences(signed, channels, exponent, bits):
    """Of sgn(x) (d R + m^t) with R = round(v) - v held: rounding as adding a constant to v.

    x_Q itself is a staircase in q_m and t. In d alone it is d times a held integer, whose derivative
    round(v) differs from the paper's by v: the paper rounds straight through there too.
    """
    torch.manual_seed(0)
    x, rest = torch.randn(7, 5, dtype=torch.float64), (None if channels is None else 1, signed, *bits)
    inputs, grad = parameters(channels, exponent), torch.randn(7, 5, dtype=torch.float64)
    _, found = gradients(fake_quantize, x.requires_grad_(), inputs, grad, *rest)
    with torch.no_grad():
        sign, _, _, v, _ = parts(x, *inputs, *rest)
        residual, h = torch.round(v) - v, 1e-6

        def value(*moved):
            *_, v, step = parts(x, *moved, *rest)
            return (grad * sign * step * (residual + v)).sum()

        for i, gradient in enumerate(found[1:]):
            for j in range(gradient.numel()):
                up, down = ([one.clone() for one in inputs] for _ in range(2))
                up[i].view(-1)[j] += h
                down[i].view(-1)[j] -= h
                slope = (value(*up) - value(*down)) / (2 * h)
                assert gradient.view(-1)[j].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("signed", [True, False])
def test_the_gradient_to_x_is_one_inside_and_zero_outside(signed, channels):
    values = torch.tensor([-1.5, -1.001, -1.0, -0.5, 0.0, 0.5, 1.0, 1.001, 1.5])
    x = values.repeat(3, 1).requires_grad_()
    size = () if channels is None else (channels,)
    for bits in (FREE, FIXED):
        rest = (None if channels is None else 0, signed, *bits)
        y = fake_quantize(x, torch.full(size, 0.01), torch.ones(size), None, *rest)
        (found,) = torch.autograd.grad(y.sum(), x)
        inside = (values.abs() <= 1) if signed else (values >= 0) & (values <= 1)
        assert torch.equal(found, inside.float().expand(3, -1))


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize("form", [(-1,), (1, -1), (-1, 1)])
def test_blocks_change_nothing(size, form):
    torch.manual_seed(0)
    x = torch.randn(size).view(form).requires_grad_()
    d, q_m = torch.tensor(0.03), torch.tensor(2.0)
    y = fake_quantize(x, d, q_m, None, None, True, *FREE)
    assert torch.equal(y, (x / d).clamp(-q_m / d, q_m / d).round() * d)
    axis = form.index(-1)
    per_channel = fake_quantize(x, d.expand(size), q_m.expand(size), None, axis, True, *FREE)
    assert torch.equal(per_channel, y)
    assert torch.equal(*(torch.autograd.grad(one.sum(), x)[0] for one in (y, per_channel)))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_nothing_is_quantized_to_nothing(shape):
    x = torch.randn(shape, requires_grad=True)
    for axis, size in ((None, ()), (len(shape) - 1, (shape[-1],))):
        d, q_m, t = (torch.ones(one, requires_grad=True) for one in (size, size, ()))
        y = fake_quantize(x, d, q_m, t, axis)
        assert y.shape == shape
        found = torch.autograd.grad(y.sum(), (x, d, q_m, t))
        assert [one.shape for one in found] == [shape, size, size, ()]
        assert all(one.eq(0).all() for one in found)


def test_memory_layout_is_kept():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert fake_quantize(x, torch.tensor(0.1), torch.tensor(1.0)).stride() == x.stride()


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [FREE, FIXED])
def test_no_exponent_is_the_exponent_one(bits, signed, axis):
    torch.manual_seed(0)
    x, grad = torch.randn(50, 6, dtype=torch.float64, requires_grad=True), torch.randn(50, 6).double()
    d, q_m, t = parameters(None if axis is None else 6, 1.0)
    rest = (axis, signed, *bits)
    y, found = gradients(fake_quantize, x, (d, q_m, None), grad, *rest)
    one, same = gradients(fake_quantize, x, (d, q_m, t), grad, *rest)
    nearly, close = gradients(fake_quantize, x, (d, q_m, (t + 1e-14).detach().requires_grad_()), grad, *rest)
    assert torch.equal(y, one)
    assert_close(y, nearly, rtol=1e-10, atol=1e-10)
    for a, b, c in zip(found, same[:3], close[:3], strict=True):
        assert torch.equal(a, b)
        assert_close(a, c, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("exponent", [None, 1.0, 0.7])
def test_bounds_hand_the_gradient_of_the_step_on(exponent):
    torch.manual_seed(0)
    x = torch.randn(200)
    t = None if exponent is None else torch.tensor(exponent, requires_grad=True)
    for d, decides in ((0.01, True), (1e-9, False), (10.0, False)):
        d, q_m = torch.tensor(d, requires_grad=True), torch.tensor(1.0, requires_grad=True)
        fake_quantize(x, d, q_m, t, None, True, 4.0, 9.0).pow(2).sum().backward()
        assert (d.grad != 0) == decides
        assert q_m.grad != 0
    fixed = fake_quantize(x, d, q_m, t, None, True, 4.0, 4.0)
    assert len(torch.unique(fixed.abs())) == 8
    assert torch.autograd.grad(fixed.sum(), d)[0] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("exponent", [None, 0.8])
@pytest.mark.parametrize("size", [60, BLOCK + 60])
def test_half_precision_is_computed_in_single(dtype, exponent, size):
    torch.manual_seed(0)
    x, grad = torch.randn(size).to(dtype).requires_grad_(), torch.randn(size).to(dtype)
    d, q_m = (torch.tensor(one, requires_grad=True) for one in (2e-4, 1.5))
    t = None if exponent is None else torch.tensor(exponent, requires_grad=True)
    y, found = gradients(fake_quantize, x, (d, q_m, t), grad, None, True, *FREE)
    one, expected = gradients(fake_quantize, x.float().detach().requires_grad_(), (d, q_m, t), grad.float())
    assert y.dtype == found[0].dtype == dtype
    assert torch.equal(y, one.to(dtype))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b.to(a.dtype))


def test_autocast_takes_what_it_gets():
    d, q_m = (torch.tensor(one, requires_grad=True) for one in (0.01, 1.0))
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = fake_quantize(layer(x), d, q_m)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert d.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    per_channel=st.booleans(),
    signed=st.booleans(),
    bits=st.integers(2, 12),
    scale=st.floats(1e-6, 1e6),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_values_are_the_integers_of_the_record(shape, per_channel, signed, bits, scale, seed, data):
    random = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, len(shape) - 1)) if per_channel else None
    x = (random.standard_normal(shape) * scale).astype(np.float32)
    size = () if axis is None else (shape[axis],)
    q_m = torch.from_numpy(np.asarray(random.uniform(0.5, 2, size) * scale, np.float32))
    limits = Bits(signed, bits, bits)
    y = fake_quantize(torch.from_numpy(x), q_m, q_m, None, axis, *limits).numpy()
    on = lattice(q_m, q_m, None, limits)
    record = Quantizer(on.d.numpy(), -int(on.top) if signed else 0, int(on.top), axis)
    assert np.array_equal(y, record.quantize(x))
    integers = record.integers(y)
    assert np.abs(integers).max() <= on.top
    assert np.array_equal(integers.astype(np.float32) * record.steps_for(x.shape), y)


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.7])
def test_values_are_integers_times_the_step(exponent):
    torch.manual_seed(0)
    x, d, q_m, t = torch.randn(3000), torch.tensor(0.013), torch.tensor(1.9), torch.tensor(exponent)
    y, on = fake_quantize(x, d, q_m, t), lattice(d, q_m, t, Bits(True, 2.0, 16.0))
    integers = (y / on.d).round()
    assert torch.equal(integers * on.d, y)
    assert integers.abs().max() == torch.round(torch.as_tensor(on.top))
    assert torch.equal(fake_quantize(-x, d, q_m, t), -y)


@pytest.mark.parametrize("signed", [True, False])
def test_integers_are_those_of_onnxruntime(signed):
    torch.manual_seed(0)
    d, top = torch.tensor(0.0371), 127.0 if signed else 255.0
    ties = (torch.arange(-300, 300) + 0.5) * d
    x = torch.cat([ties, torch.nextafter(ties, torch.tensor(0.0)), torch.randn(2000) * 4])
    kind = "int8" if signed else "uint8"
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[n] x, float s, {kind} z) => ({kind} y) {{
        y = QuantizeLinear(x, s, z)
    }}"""
    session = ort.InferenceSession(onnx.parser.parse_model(text).SerializeToString())
    zero = np.zeros((), kind)
    (expected,) = session.run(None, {"x": x.numpy(), "s": d.numpy(), "z": zero})
    expected = torch.from_numpy(expected.astype(np.float32)).clamp(min=-top)  # -128 is not on the lattice
    for bits in (FREE, (8.0, 8.0)):
        y = fake_quantize(x, d, d * top, None, None, signed, *bits)
        on = lattice(d, d * top, None, Bits(signed, *bits))
        if torch.equal(on.d, d):
            assert torch.equal(y, expected * d)
    assert torch.equal(fake_quantize(x, d, d * top, None, None, signed, *FREE), expected * d)


ODD = [0.0, -1.0, 1e-45, 1e-20, 1e20, math.inf, -math.inf]


@pytest.mark.parametrize("bits", [FREE, FIXED])
@pytest.mark.parametrize("size", [(), (3,)])
@pytest.mark.parametrize("exponent", [None, 1.0, 0.0, -5.0, 3.0, 1e9, -math.inf])
def test_odd_parameters_give_finite_numbers(exponent, size, bits):
    torch.manual_seed(0)
    axis = 1 if size else None
    for x in (torch.randn(5, 3), torch.zeros(5, 3), torch.full((5, 3), 1e20)):
        for d in (0.1, *ODD):
            for q_m in (1.0, *ODD):
                given_ = [torch.full(size, one).requires_grad_() for one in (d, q_m)]
                t = None if exponent is None else torch.tensor(exponent, requires_grad=True)
                y, found = gradients(
                    fake_quantize,
                    x.clone().requires_grad_(),
                    (*given_, t),
                    torch.ones(5, 3),
                    axis,
                    True,
                    *bits,
                )
                assert all(one.isfinite().all() for one in (y, *found)), (x[0, 0], d, q_m)


@pytest.mark.parametrize("size", [(), (4,)])
@pytest.mark.parametrize("t", [None, 0.8])
def test_what_is_no_number_is_not_hidden(size, t):
    x = torch.randn(3, 4)
    x[1, 2] = math.nan
    d, q_m = torch.full(size, 0.1, requires_grad=True), torch.full(size, 1.0)
    y = fake_quantize(x, d, q_m, None if t is None else torch.tensor(t), 1 if size else None)
    assert torch.equal(y.isnan(), x.isnan())
    y.sum().backward()
    assert d.grad.isnan().any()


def test_zero_stays_zero():
    for signed in (True, False):
        x = torch.tensor([0.0, -0.0], requires_grad=True)
        t = torch.tensor(0.7, requires_grad=True)
        y = fake_quantize(x, torch.tensor(0.1), torch.tensor(1.0), t, None, signed)
        assert y.tolist() == [0, 0]
        assert [one.tolist() for one in torch.autograd.grad(y.sum(), (x, t))] == [[1, 1], 0]


@pytest.mark.parametrize("learned", [(0,), (1,), (2,), (3,), (0, 3), (1, 2), ()])
def test_only_what_learns_has_a_gradient(learned):
    inputs = [torch.randn(9), torch.tensor(0.05), torch.tensor(0.9), torch.tensor(0.8)]
    for i in learned:
        inputs[i].requires_grad_()
    y = fake_quantize(*inputs)
    assert y.requires_grad == bool(learned)
    if learned:
        y.sum().backward()
    assert [i for i, one in enumerate(inputs) if one.grad is not None] == list(learned)
    with torch.no_grad():
        assert not fake_quantize(*inputs).requires_grad
    with torch.inference_mode():
        assert torch.equal(fake_quantize(*inputs), y)


class Quantized(nn.Module):
    """A quantizer, used twice."""

    def __init__(self, exponent=None):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        self.d, self.q_m = (nn.Parameter(torch.tensor([one, one, one])) for one in (0.03, 0.8))
        self.t = None if exponent is None else nn.Parameter(torch.tensor(exponent))

    def forward(self, x):
        weight = OP(self.weight, self.d, self.q_m, self.t, 0, True, 2.0, 8.0)
        return OP(torch.relu(x @ weight.T), self.d, self.q_m, self.t, -1, False, 4.0, 4.0)


def trained(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    y.square().sum().backward()
    found = [x.grad, *(one.grad for one in module.parameters())]
    for one in module.parameters():
        one.grad = None
    return [y.detach(), *found]


def test_a_copy_learns_alone():
    module = Quantized(0.9)
    other = copy.deepcopy(module)
    x = torch.randn(5, 4)
    for a, b in zip(trained(module, x), trained(other, x), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        other.q_m.mul_(2)
    assert not torch.equal(module(x), other(x))


def test_a_second_derivative_is_refused():
    module, x = Quantized(), torch.randn(5, 4, requires_grad=True)
    (first,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("exponent", [None, 0.9])
@pytest.mark.parametrize("size", [(), (4,)])
def test_the_operator_is_registered_as_torch_wants_it(exponent, size):
    x = torch.randn(3, 4, 2).to(torch.float32).requires_grad_()
    d, q_m = torch.full(size, 0.1, requires_grad=True), torch.full(size, 1.0, requires_grad=True)
    t = None if exponent is None else torch.tensor(exponent, requires_grad=True)
    torch.library.opcheck(OP, (x, d, q_m, t, 1 if size else None, True, 2.0, 8.0))


@pytest.mark.parametrize("exponent", [None, 0.9])
def test_an_export_keeps_the_operator(exponent):
    module, x = Quantized(exponent), torch.randn(5, 4)
    batch = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(module, (x,), dynamic_shapes=batch, strict=False)
    for one in (program, program.run_decompositions()):
        assert [node.target for node in one.graph.nodes].count(OP) == 2
        longer = torch.randn(8, 4)
        assert torch.equal(one.module()(longer), module(longer))


def compiles_cpp():
    return any(map(shutil.which, ("g++", "clang++")))


BACKENDS = [
    "aot_eager",
    pytest.param("inductor", marks=pytest.mark.skipif(not compiles_cpp(), reason="no C++")),
]


@pytest.mark.parametrize("exponent", [None, 0.9])
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_is_eager(backend, exponent):
    torch.manual_seed(0)
    module, x = Quantized(exponent), torch.randn(50, 4)
    expected = trained(module, x)
    torch.compiler.reset()
    with functorch_config.patch(enable_autograd_cache=False):  # it knows an operator by its name alone
        found = trained(torch.compile(module, fullgraph=True, backend=backend), x)
    assert torch.equal(found[0], expected[0])
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_traced_is_eager(dtype):
    torch.manual_seed(0)
    forms = list(itertools.product([None, 1], [True, False], [FREE, FIXED, BETWEEN]))
    inputs = []
    for axis, *_ in forms:
        d, q_m = (torch.full(() if axis is None else (6,), one).to(dtype).float() for one in (0.05, 0.9))
        x = torch.cat([torch.randn(400, 6), torch.zeros(1, 6), q_m.expand(1, 6), -q_m.expand(1, 6)]).to(dtype)
        inputs += [x, *(one.to(torch.promote_types(dtype, torch.float32)) for one in (d, q_m))]
    inputs = [one.detach().requires_grad_() for one in inputs]

    def all_forms(*inputs):
        triples = zip(inputs[::3], inputs[1::3], inputs[2::3], forms, strict=True)
        return [OP(x, d, q_m, None, axis, signed, *bits) for x, d, q_m, (axis, signed, bits) in triples]

    grads = [torch.randn(403, 6).to(dtype) for _ in forms]
    expected = all_forms(*inputs)
    torch.compiler.reset()
    found = torch.compile(all_forms, fullgraph=True, backend="aot_eager")(*inputs)
    slopes, same = (torch.autograd.grad(one, inputs, grads) for one in (expected, found))
    assert all(map(torch.equal, found, expected))
    assert all(map(torch.equal, same[::3], slopes[::3]))
    for a, b in zip(same, slopes, strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bits", [FREE, FIXED])
@pytest.mark.parametrize("axis", [None, 1])
def test_traced_saves_only_what_layers_need(axis, bits):
    """That is x, and x_Q for the layer itself; all else of that size would be written and read once more."""
    graphs = []

    def note(graph, _):
        graphs.append(graph)
        return make_boxed_func(graph)

    def layers(images, *weights):
        for x in weights:
            images = nn.functional.conv2d(images, OP(x, d, q_m, None, axis, True, *bits)).relu()
        return images.sum()

    backend = aot_autograd(
        fw_compiler=note, bw_compiler=note, partition_fn=min_cut_rematerialization_partition
    )
    weights = [torch.randn(6, 6, 3, 3, requires_grad=True) for _ in range(3)]
    d, q_m = (torch.full(() if axis is None else (6,), one, requires_grad=True) for one in (0.05, 0.9))
    torch.compiler.reset()
    torch.compile(layers, fullgraph=True, backend=backend)(torch.randn(2, 6, 9, 9), *weights).backward()
    (results,) = graphs[0].graph.find_nodes(op="output")[0].args
    large = [one for one in results if one is not None and one.meta["val"].shape == weights[0].shape]
    assert len(large) == 2 * len(weights), large


@pytest.mark.parametrize(
    ("x", "d", "q_m", "t", "axis", "message"),
    [
        ((4, 3), (3,), (), None, 1, "d has shape (3,), q_m ()"),
        ((4, 3), (3,), (3,), None, None, "both have to be of shape ()"),
        ((4, 3), (3,), (3,), None, 0, "shape () or (4,)"),
        ((4, 3), (1, 3), (1, 3), None, 1, "shape () or (3,)"),
        ((4, 3), (), (), None, 2, "has no axis 2"),
        ((4, 3), (), (), (1,), None, "t has shape (1,)"),
    ],
)
def test_refuses_shapes_that_do_not_fit(x, d, q_m, t, axis, message):
    exponent = None if t is None else torch.ones(t)
    with pytest.raises(ValueError, match=re.escape(message)):
        fake_quantize(torch.ones(x), torch.ones(d), torch.ones(q_m), exponent, axis)


def test_refuses_integers():
    with pytest.raises(TypeError, match="int64"):
        fake_quantize(torch.arange(4), torch.tensor(0.1), torch.tensor(1.0))
