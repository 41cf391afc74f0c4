"""Weights that are quantized in one call get what a call for each of them gives, to the bit."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from getac.kernels import ahead  # noqa: E402
from getac.kernels.fake_quantize import Bits, fake_quantize  # noqa: E402
from getac.kernels.lattice import lattice, lattice_of_numbers  # noqa: E402
from getac.kernels.together import quantize_together  # noqa: E402

SHAPES = ((16, 4, 3, 3), (32, 36), (8, 4, 9))
LEARNED, FIXED = Bits(True, 4.0, 8.0), Bits(True, 4.0, 4.0)


@pytest.fixture
def parameters():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    d = [nn.Parameter(0.1 * torch.rand(len(one)) + 0.01) for one in weights]
    return weights, d, [nn.Parameter(torch.rand(len(one)) + 1) for one in weights]


@pytest.mark.parametrize("bits", [LEARNED, FIXED, Bits(False, 4.0, 8.0)])
def test_is_a_call_for_each(parameters, bits):
    single = [fake_quantize(*one, None, 0, *bits) for one in zip(*parameters, strict=True)]
    joined = quantize_together(*parameters, bits)
    inputs = [one for several in parameters for one in several]
    grads = [torch.randn(shape) for shape in SHAPES]
    expected = torch.autograd.grad(single, inputs, grads)
    found = torch.autograd.grad(joined, inputs, grads)
    for a, b in zip((*single, *expected), (*joined, *found), strict=True):
        assert torch.equal(a, b)


def test_what_is_not_used_has_no_gradient(parameters):
    weights, d, q_m = parameters
    first, _, last = quantize_together(weights, d, q_m, LEARNED)
    (first.sum() + last.square().sum()).backward()
    assert weights[1].grad is d[1].grad is q_m[1].grad is None
    assert all(one[i].grad is not None for one in parameters for i in (0, 2))


def test_losses_are_differentiated_one_after_the_other(parameters):
    """As for single calls; the graph of the first is gone by then."""
    single = [fake_quantize(*one, None, 0, *LEARNED) for one in zip(*parameters, strict=True)]
    inputs = [one for several in parameters for one in several]

    def gradients(results):
        for one in inputs:
            one.grad = None
        for one in results:
            one.square().sum().backward()
        return [one.grad for one in inputs]

    expected = gradients(single)
    for a, b in zip(expected, gradients(quantize_together(*parameters, LEARNED)), strict=True):
        assert torch.equal(a, b)


def test_what_is_left_out_is_returned_and_seen(parameters):
    (weight, _, _), (d, _, _), (q_m, other, _) = parameters
    seen = []
    ahead.leave_out(q_m, seen.append)
    try:
        assert ahead.leaves_out(q_m) and not ahead.leaves_out(other)
        assert fake_quantize(weight, d, q_m, None, 0, *LEARNED) is weight and seen[0] is weight
        with torch.inference_mode():
            assert torch.equal(fake_quantize(weight, d, q_m, None, 0, *LEARNED), weight)
        assert not torch.equal(fake_quantize(weight, d, other[:16], None, 0, *LEARNED), weight)
    finally:
        ahead.put_back(q_m)
    assert not torch.equal(fake_quantize(weight, d, q_m, None, 0, *LEARNED), weight) and len(seen) == 2
    ahead.put_back(q_m)  # a second time is no error


def test_a_result_is_taken_once_and_only_for_its_arguments(parameters):
    tensors, rest = [one[1] for one in parameters], (0, *LEARNED)
    result = torch.zeros(())

    def put():
        ahead.clear()
        ahead.put(tensors, rest, result)

    put()
    assert ahead.take(tensors, rest) is result
    assert ahead.take(tensors, rest) is None
    put()
    assert ahead.take(tensors, (0, *FIXED)) is None
    put()
    assert ahead.take([tensors[0], parameters[1][0], tensors[2]], rest) is None
    put()
    with torch.no_grad():
        tensors[1].mul_(2)
    assert ahead.take(tensors, rest) is None


def test_numbers_make_the_lattice_that_tensors_make():
    random = torch.Generator().manual_seed(0)
    found = 0
    for bits in (LEARNED, FIXED, Bits(False, 2.0, 7.3)):
        for _ in range(200):
            q_m = 10 ** (4 * torch.rand((), generator=random) - 2)
            d = q_m / bits.top(bits.least) * 10 ** (-1.5 * torch.rand((), generator=random))
            numbers, tensors = lattice_of_numbers(d, q_m, bits), lattice(d, q_m, None, bits)
            if numbers is not None:
                found += 1
                assert torch.equal(numbers.d, tensors.d)
                assert torch.equal(numbers.q_m, tensors.q_m)
                assert numbers.top == pytest.approx(float(tensors.top), rel=0)
            else:
                assert not torch.equal(d, tensors.d)
    assert 300 < found < 600
    assert lattice_of_numbers(torch.tensor(-1.0), torch.tensor(0.0), LEARNED) is None
    assert lattice_of_numbers(torch.ones(2), torch.ones(2), LEARNED) is None
