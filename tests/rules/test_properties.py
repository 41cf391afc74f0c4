"""Every rule family against the real operator: whatever is drawn, masked equals sliced, in both graphs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.rules import strategies_layers as layers
from tests.rules import strategies_layout as layouts
from tests.rules import strategies_moves as moves
from tests.rules import strategies_values as values
from tests.rules.strategies import BATCH, WIDTH, Drawn, Ends, Frames
from tools import fx_law, law
from tools.double_precision import DOUBLE_TOLERANCE, opened_in_double

Family = st.SearchStrategy[Drawn]

FAMILIES: dict[str, Family] = {
    "elementwise": values.elementwise(),
    "selection": values.selection(),
    "reduction": values.reduction(),
    "gated": values.gated(),
    "einsum": values.einsum(),
    "convolution": layers.convolution(),
    "matmul": layers.matmul(),
    "gemm": layers.gemm(),
    "normalization": layers.normalization(),
    "pooling": layers.pooling(),
    "attention": layers.attention(),
    "recurrent": layers.recurrent(),
    "recurrent node": layers.recurrent_node(),
    "weight norm": layers.weight_norm(),
    "layout": layouts.layout(),
    "expand": layouts.flattened(),
    "concat": layouts.concat(),
    "cut": layouts.cut(),
    "stack": layouts.stacked(),
    "repeat": moves.repeated(),
    "rearranged": moves.rearranged(),
    "picked": moves.picked(),
    "indexing": moves.indexing(),
}
NO_NODE, NO_CALL = {"recurrent", "weight norm", "stack", "indexing"}, {"recurrent node"}
ENDS = st.builds(Ends, lifted=st.booleans(), summed=st.booleans())
SEEDS = st.integers(0, 2**16)
OTHER_BATCHES = st.sampled_from([None, BATCH + 2])  # capturing for one batch size alone is quick
ONNX_EXAMPLES, TORCH_EXAMPLES, AT_ONCE = 50, 4, 5
SLOW = [HealthCheck.too_slow]
NO_SHRINKING = [Phase.explicit, Phase.generate]  # of what takes a second to capture
FLOAT32_NOISE = 1e-5


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - NO_NODE))
def test_masked_equals_sliced_in_onnx(family: str) -> None:
    removed = []

    @settings(max_examples=ONNX_EXAMPLES, suppress_health_check=SLOW)
    @given(FAMILIES[family].filter(lambda one: one.nodes is not None), ENDS, SEEDS)
    def holds(one: Drawn, ends: Ends, seed: int) -> None:
        model = one.model(seed, ends)
        outcome = law.check_law(model, seed, passes=law.AS_WRITTEN)
        assert not outcome.opaque
        if outcome.difference > FLOAT32_NOISE:
            exact = law.check_law(model, seed, opened_in_double, passes=law.AS_WRITTEN)
            assert exact.difference <= DOUBLE_TOLERANCE
        removed.append(outcome.removed)

    holds()
    assert_most(removed)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - NO_CALL))
def test_masked_equals_sliced_in_torch(family: str) -> None:
    removed = []
    captured = FAMILIES[family].filter(lambda one: one.call is not None)

    @settings(max_examples=TORCH_EXAMPLES, suppress_health_check=SLOW, phases=NO_SHRINKING)
    @given(st.lists(st.tuples(captured, ENDS), min_size=AT_ONCE, max_size=AT_ONCE), OTHER_BATCHES, SEEDS)
    def holds(several: list[tuple[Drawn, Ends]], other_batch: int | None, seed: int) -> None:
        torch.manual_seed(seed)
        x = torch.randn(BATCH, WIDTH, dtype=torch.float64)
        outcome = fx_law.check_law(Frames(several).double(), (x,), seed=seed, other_batch=other_batch)
        assert outcome.analysis.opaque == []
        assert outcome.difference <= DOUBLE_TOLERANCE
        removed.append(outcome.removed)

    holds()
    assert_most(removed)


def assert_most(removed: list[int]) -> None:
    """The law would hold in vain if nothing were open."""
    assert sum(map(bool, removed)) >= 0.25 * len(removed)
