"""How long an epoch takes in each stage of QASSO, beside the dense network's: it falls as units go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from tools.digits.settings import Training

__all__ = ["epoch_ratios"]


def epoch_ratios(seconds: Sequence[float], dense: Sequence[float], training: Training) -> Mapping[str, float]:
    """Stage -> the median over its epochs of their time over that of the dense network's, trained in turn.

    Args:
        seconds: Of each epoch; dense likewise.
        training: Whose stages count.
    """
    ratios = [one / other for one, other in zip(seconds, dense, strict=True)]
    found: dict[str, float] = {}
    first = 0
    lengths = {"warm-up": training.warm_up, "projection": training.projection, "joint": training.joint}
    for stage, length in {**lengths, "cool-down": len(ratios) - sum(lengths.values())}.items():
        within = ratios[first : first + max(length, 0)]  # a quick run ends before its last stages
        if within:
            found[stage] = median(within)
        first += length
    return found
