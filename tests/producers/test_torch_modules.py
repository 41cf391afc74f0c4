"""Quantizers that people write themselves: GETA's, LSQ, PACT and DoReFa, exported as they are."""

from __future__ import annotations

import pytest

from tests.producers.checks import by_form, check_lowered, check_pruned
from tools.producers import torch_modules

INTEGERS = {"CNN": 2, "MLP": 3, "transformer": 6, "mixed CNN": 2}
POWER = "GETA power"  # with an exponent: the power stays in front of the quantizer, and its units stay


@pytest.fixture(scope="module", params=list(torch_modules.QUANTIZERS))
def models(request):
    def produce():
        return (torch_modules.written(request.param, name) for name in torch_modules.NETWORKS)

    return by_form(produce)


def left_alone(report):
    """The quantizers that were not recognized; of others it may be said how they round ties."""
    refusals = report.refusals.get("recognize-quantizers", [])
    return [one for one in refusals if "it stays as it is" in one.hint]


@pytest.mark.parametrize("network", torch_modules.NETWORKS)
def test_modules(models, network):
    one = models["dynamo", network]
    report = check_lowered(one, integers=INTEGERS[network] - (one.producer == POWER and network == "CNN"))
    assert not left_alone(report)
    if one.producer != POWER:
        check_pruned(one)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("network", ["mixed CNN", "MLP"])
@pytest.mark.parametrize("producer", torch_modules.QUANTIZERS)
def test_few_bits(producer, network, bits, seed):
    """With few levels one value that goes to another one is seen in all outputs."""
    one = torch_modules.written(producer, network, bits=bits, seed=seed)
    report = check_lowered(one, integers=INTEGERS[network] - (producer == POWER and network == "mixed CNN"))
    assert not left_alone(report)
    if producer != POWER:
        check_pruned(one)
