"""How two structures differ, in words: what of a plan does not fit a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from getac.plans.structure import Operation, Structure, Tensor

__all__ = ["differences", "first_differences"]

SHOWN = 4


def first_differences(planned: Structure, here: Structure) -> str:
    """The first differences, and how many more there are."""
    found = list(differences(planned, here))
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "; ".join([*islice(found, SHOWN), *more])


def differences(planned: Structure, here: Structure) -> Iterator[str]:
    """What differs: inputs, stored tensors in the order of the plan, then the first node that does.

    Shapes inside are told only where all stored tensors agree: they follow from those.
    """
    outside = [*of_inputs(planned.inputs, here.inputs), *of_parameters(planned.parameters, here.parameters)]
    inside = list(of_operations(planned.operations, here.operations, shapes=not outside))
    yield from outside
    yield from inside
    if not (outside or inside) and planned.outputs != here.outputs:
        yield versus("the outputs come from", listed(planned.outputs), listed(here.outputs))


def of_inputs(planned: Sequence[Tensor], here: Sequence[Tensor]) -> Iterator[str]:
    if len(planned) != len(here):
        yield f"{len(planned)} inputs in the plan, {len(here)} here"
        return
    for one, other in zip(planned, here, strict=True):
        yield from of_tensors(f"the input {other.name}", one, other)


def of_parameters(planned: Sequence[Tensor], here: Sequence[Tensor]) -> Iterator[str]:
    known = {one.name: one for one in here}
    names = {one.name for one in planned}
    for one in planned:
        if one.name in known:
            yield from of_tensors(one.name, one, known[one.name])
        else:
            yield f"{one.name} ({one.shape}) is not here"
    for one in here:
        if one.name not in names:
            yield f"{one.name} ({one.shape}) is not in the plan"


def of_tensors(name: str, planned: Tensor, here: Tensor) -> Iterator[str]:
    for one, other in (
        (planned.type, here.type),
        (planned.shape, here.shape),
        (planned.contents, here.contents),
    ):
        if one != other:
            yield versus(name, one, other)


def of_operations(planned: Sequence[Operation], here: Sequence[Operation], shapes: bool) -> Iterator[str]:
    """The first node that is another one; whatever follows may be shifted."""
    for position, (one, other) in enumerate(zip(planned, here, strict=False)):
        told = difference(one, other, shapes)
        if told:
            yield f"node {position}, {told}"
            break
    if len(planned) != len(here):
        yield f"{len(planned)} nodes in the plan, {len(here)} here"


def difference(planned: Operation, here: Operation, shapes: bool) -> str:
    name = f"{here.name} ({here.operator})" if here.name else here.operator
    if planned.operator != here.operator:
        return versus(here.name or "without a name", planned.operator, here.operator)
    if planned.attributes != here.attributes:
        return versus(name, planned.attributes or "no attributes", here.attributes or "no attributes")
    if planned.inputs != here.inputs:
        return versus(f"{name} reads", listed(planned.inputs), listed(here.inputs))
    if shapes and planned.shapes != here.shapes:
        return versus(f"{name} makes", listed(planned.shapes), listed(here.shapes))
    return ""


def versus(name: str, planned: str, here: str) -> str:
    return f"{name}: {planned} in the plan, {here} here"


def listed(texts: Sequence[str]) -> str:
    return ", ".join(text or "nothing" for text in texts) or "nothing"
