"""torchao: PT2E after and during training, and weights alone."""

from __future__ import annotations

import pytest

from tests.producers.checks import by_form, check_lowered, check_pruned

pytest.importorskip("torchao", reason="torchao is not installed (the extra `producers`)")


@pytest.fixture(scope="module")
def models():
    from tools.producers import torchao_nets

    return by_form(torchao_nets.produced)


@pytest.mark.parametrize(
    ("form", "network", "integers"),
    [
        ("PT2E", "CNN", 3),  # it leaves the result of one convolution in floats
        ("PT2E", "MLP", 3),
        ("PT2E QAT", "MLP", 3),
        ("PT2E", "transformer", 6),
        ("weight only", "MLP", 0),
        ("weight only", "transformer", 0),
    ],
)
def test_torchao(models, form, network, integers):
    one = models[form, network]
    check_lowered(one, integers=integers)
    check_pruned(one)
