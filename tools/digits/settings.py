"""What a run of the digits table is made of: how it trains, and what it aims for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["QUICK", "SETTINGS", "Goal", "Setting", "Training"]


@dataclass(frozen=True)
class Training:
    """The same for every method: Adam, whose learning rate falls once.

    Args:
        samples: Of the training images; None: all.
        drop_after: The epoch after which the learning rate is a tenth.
        warm_up: Epochs of QASSO's stages, the others likewise; what is left is the cool-down.
    """

    samples: int | None = None
    epochs: int = 30
    batch: int = 64
    lr: float = 1e-3
    drop_after: int = 22
    decay: float = 1e-4
    warm_up: int = 3
    projection: int = 6
    joint: int = 6
    projection_periods: int = 6
    joint_periods: int = 6


@dataclass(frozen=True)
class Goal:
    """What compression aims for.

    Args:
        sparsity: The share of all units that go.
        weight_bits: The bounds of the numbers of bits; the first and the last layers keep 8.
        saliency: One of `getac.GETA`'s.
        per_bops: The power of the bit operations that a unit saves by which its saliency is divided.
        minimum: How many units each class keeps, so that every layer has some heads and head dimensions left.
        align: The multiple that channel counts are kept at.
        quantizer_lr: Of ranges; None: that of the weights.
        distill: The weight of the dense network's answers in the loss, beside that of the labels; 0: none.
        temperature: What the logits are divided by for that, so that answers are soft.
        renormalise: Whether the statistics of batch norms are taken anew at the end.
        float_warm_up: Whether the warm-up trains without quantizers, which is quicker.
    """

    sparsity: float
    weight_bits: tuple[int, int] = (4, 4)
    activation_bits: tuple[int, int] = (8, 8)
    saliency: str = "mixed"
    per_bops: float = 0.0
    minimum: int = 1
    align: int | Literal["auto"] = "auto"
    quantizer_lr: float | None = None
    distill: float = 0.0
    temperature: float = 1.0
    renormalise: bool = False
    float_warm_up: bool = False

    @property
    def tricks(self) -> str:
        """Which were on."""
        used = {
            "distillation": self.distill > 0,
            "batch norms re-estimated": self.renormalise,
            "float warm-up": self.float_warm_up,
        }
        return ", ".join(name for name, is_on in used.items() if is_on) or "none"


@dataclass(frozen=True)
class Setting:
    """A network and what is wanted of it.

    Args:
        accuracy: The least, of the joint run, in the mean over seeds; bops: the most.
    """

    network: str
    goal: Goal
    accuracy: float
    bops: float = 0.02
    training: Training = Training()


SETTINGS: Mapping[str, Setting] = {
    "resnet20": Setting("resnet20", Goal(0.5, align=4, per_bops=0.25), accuracy=0.978),
    "vit": Setting(
        "vit",
        Goal(0.25, per_bops=1.0, minimum=2, distill=0.5, temperature=4.0, float_warm_up=True),
        accuracy=0.966,
    ),
}

BRIEF = Training(
    samples=128,
    epochs=5,
    batch=32,
    drop_after=4,
    warm_up=1,
    projection=1,
    joint=1,
    projection_periods=2,
    joint_periods=2,
)
QUICK: Mapping[str, Setting] = {name: replace(one, training=BRIEF) for name, one in SETTINGS.items()}
