"""What `getac.compare` has to say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from getac.report import finite_or_null
from getac.verifying.differences import Difference

__all__ = ["Comparison", "FirstDeparture", "InputAgreement", "ValueComparison"]


@dataclass(frozen=True)
class ValueComparison:
    """How far a value is from the one that it should be, over all samples.

    Args:
        name: Its name in the reference.
        node: The node that makes it in the reference, with its operator; `found_node`: in the result.
        max_abs: max |a - b|.
        relative: max |a - b| / max |a|.
        sqnr_db: 10 log10(sum a^2 / sum (a - b)^2), at most 200.
        cosine: Of the angle between a and b; None where one of them is zero.
        top1: The share of rows whose greatest entry is the same, where the value looks like logits.
        equal: The share of elements that are the same.
        steps: max |a - b| in steps of the quantizer that the value went through in the result, if it did.
        finite: Whether both have the same infinities and NaN in the same places.
    """

    name: str
    node: str
    found_node: str
    max_abs: float
    relative: float
    sqnr_db: float
    cosine: float | None
    top1: float | None
    equal: float
    steps: float | None
    finite: bool

    @staticmethod
    def of(name: str, node: str, found_node: str, total: Difference, step: float | None) -> ValueComparison:
        return ValueComparison(
            name=name,
            node=node,
            found_node=found_node,
            max_abs=total.greatest,
            relative=total.relative,
            sqnr_db=total.sqnr_db,
            cosine=total.cosine,
            top1=total.top1,
            equal=total.equal_share,
            steps=total.greatest / step if step else None,
            finite=total.finite,
        )

    def departs(self, tolerance: float) -> bool:
        return not self.finite or self.relative > tolerance


@dataclass(frozen=True)
class InputAgreement:
    """A value that a departing one is computed from; `relative` as in `ValueComparison`, 0 for an input."""

    name: str
    relative: float

    def __str__(self) -> str:
        return f"{self.name} ({self.relative:.2g})"


@dataclass(frozen=True)
class FirstDeparture:
    """The first value, in the order of the reference, that is not within the bound.

    Args:
        value: Its name.
        node: The node that makes it in the reference, with its operator.
        found_node: The node that makes it in the result.
        relative: As in `ValueComparison`.
        inputs: The nearest values before it that were compared.
    """

    value: str
    node: str
    found_node: str
    relative: float
    inputs: Sequence[InputAgreement]

    def __str__(self) -> str:
        made = f"made by {self.node}" + (f", here {self.found_node}" * (self.found_node != self.node))
        inputs = f", from {', '.join(map(str, self.inputs))}" if self.inputs else ""
        return f"{self.value} (relative difference {self.relative:.2g}), {made}{inputs}"


@dataclass(frozen=True)
class Comparison:
    """How far one model is from another on the same inputs.

    Args:
        reference: The model that is right, run as it is written.
        result: The model that is judged, run as onnxruntime optimises it.
        outputs: Every output.
        values: Every value inside that both graphs have, both run as they are written; in the order of the
            reference, without weights, and only if asked for.
        skipped: Values that both graphs have, but not comparably: other shapes, or no numbers.
        tolerance: The bound on `relative`; it holds for outputs, and tells which value inside departs first.
        samples: How many samples were compared.
        generated: Whether they are random, for want of data.
        departure: The first value that departs: inside, if asked for, else an output.
        notes: What a reader should know.
    """

    reference: str
    result: str
    outputs: Sequence[ValueComparison]
    values: Sequence[ValueComparison]
    skipped: Sequence[str]
    tolerance: float
    samples: int
    generated: bool
    departure: FirstDeparture | None
    notes: Sequence[str]

    @property
    def failures(self) -> list[str]:
        """What is wrong with the outputs; empty if they are within the bound."""
        return [failure(one, self.tolerance) for one in self.outputs if one.departs(self.tolerance)]

    @property
    def passed(self) -> bool:
        """Whether all outputs are within the bound."""
        return not self.failures

    def as_json(self) -> str:
        content: dict[str, Any] = {"passed": self.passed, **asdict(self)}
        return json.dumps(finite_or_null(content), indent=1)


def failure(one: ValueComparison, tolerance: float) -> str:
    if one.relative == float("inf"):
        return f"output {one.name} has another shape than it should have"
    if not one.finite:
        return f"output {one.name} is NaN or infinite where it should not be, or the other way round"
    return f"output {one.name} differs by {one.relative:.2g} relative, bound {tolerance:g}"
