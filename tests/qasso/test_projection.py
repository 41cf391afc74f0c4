"""Only d moves, every number of bits ends within its bounds, and is a whole number in the end."""

from __future__ import annotations

import pytest
import torch

from getac.errors import OptionError
from getac.kernels.fake_quantize import Bits
from getac.qasso.projection import Projection, bits_of, fix_bits, reach_of, set_bits
from getac.training.quantizers import find_quantizers
from tests.qasso.nets import prepared, with_gradients
from tests.training.nets import images


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_d_alone_moves_into_its_range(learn: bool, per_channel: bool) -> None:
    module = prepared(learn_exponents=learn, per_channel=per_channel)
    quantizers = find_quantizers(module)
    generator = torch.Generator().manual_seed(0)
    for one in quantizers:
        one.d.data.mul_(torch.exp(4 * torch.randn(one.d.shape, generator=generator)))
        if one.t.requires_grad:
            one.t.data.fill_(1.3)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    inside = {
        one.name: (bits_of(one) >= one.bits.least) & (bits_of(one) <= one.bits.most) for one in quantizers
    }
    assert not all(one.all() for one in inside.values())
    Projection.of(quantizers).apply()
    for one in quantizers:
        found = bits_of(one)
        assert (found >= one.bits.least - 1e-4).all() and (found <= one.bits.most + 1e-4).all()
        assert torch.equal(one.d[inside[one.name]], before[f"{one.name}.d"][inside[one.name]])
    for name, parameter in module.named_parameters():
        assert name.endswith(".d") or torch.equal(parameter, before[name])


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30, 1e30, float("inf")])
def test_parameters_outside_of_their_domain(value: float) -> None:
    module = prepared()
    quantizers = find_quantizers(module)
    for one in quantizers:
        one.d.data.fill_(value)
        one.q_m.data.fill_(value)
    Projection.of(quantizers).apply()
    assert all((one.d > 0).all() and one.d.isfinite().all() for one in quantizers)
    assert module(images()).isfinite().all()


def test_bits_are_those_of_the_steps() -> None:
    quantizers = find_quantizers(prepared())
    for one in quantizers:
        assert bits_of(one).mean().item() == pytest.approx(8, abs=1e-4)
        one.d.data.copy_(reach_of(one) / one.bits.top(5))
        assert bits_of(one).mean().item() == pytest.approx(5, abs=1e-4)  # signed and unsigned alike


def test_bits_are_rounded_and_fixed() -> None:
    module = prepared()
    quantizers = find_quantizers(module)
    weight = next(one for one in quantizers if one.name == "deep.weight_quantizer")
    weight.d.data.copy_(reach_of(weight) / weight.bits.top(5.4))
    inner = next(one for one in quantizers if one.name == "relu_quantizer")
    inner.d.data.copy_(reach_of(inner) / inner.bits.top(3.1))  # below its bounds: 4 to 8
    fixed = {one.name: one for one in fix_bits(module, quantizers)}
    assert fixed["deep.weight_quantizer"].bits == Bits(True, 5.0, 5.0)
    assert fixed["relu_quantizer"].bits == Bits(inner.bits.signed, 4.0, 4.0)
    assert fixed["a.weight_quantizer"].bits == Bits(True, 8.0, 8.0)
    assert [one.name for one in find_quantizers(module)] == list(fixed)
    for one in find_quantizers(module):
        assert one.bits == fixed[one.name].bits and one.bits.fixed
        torch.testing.assert_close(bits_of(one), torch.full_like(one.d, one.bits.most), rtol=0, atol=1e-4)
    with_gradients(module)
    for one in find_quantizers(module):
        assert one.d.grad is None or not one.d.grad.any()  # d follows q_m from now on
    weight.q_m.data.mul_(2)
    assert fixed["deep.weight_quantizer"].number_of_bits() == pytest.approx(5)


def test_bounds_are_written_into_the_graph() -> None:
    module = prepared()
    quantizers = find_quantizers(module)
    expected = module(images())
    placed = set_bits(module, quantizers, {"deep.weight_quantizer": Bits(True, 2.5, 3.0)})
    assert [one.name for one in placed] == [one.name for one in quantizers]
    changed = {one.name for one, old in zip(placed, quantizers, strict=True) if one.bits != old.bits}
    assert changed == {"deep.weight_quantizer"} and "2.5, 3.0" in module.code
    assert not torch.equal(module(images()), expected)
    for bits in (Bits(True, 5, 4), Bits(True, 1, 4), Bits(False, 0, 4)):
        with pytest.raises(OptionError, match="least number of bits") as error:
            set_bits(module, placed, {"deep.weight_quantizer": bits})
        assert error.value.where == "deep.weight_quantizer"
