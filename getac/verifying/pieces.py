"""Two models that round alike, compared piece by piece: from one quantizer to the next.

Behind a quantizer the last bit of a float can become a whole step, and with few bits the outputs of two right
models may have little in common. So the model that is judged is cut before every quantizer, and each piece is
given what the reference computed there: what a piece makes of that must be the same. An error stays in its
piece, and the quantizers in front of the piece are the ones at fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from getac.quantizer import Quantizer
from getac.runtime import open_session, run
from getac.verifying.agreement import Agreement, Batch, KeepMasks, agreement, cut

__all__ = ["Piece", "compare_pieces"]

Array = npt.NDArray[Any]

GIVEN = ".given"
CARRYING = ("Clip", "Identity")  # what fold-quantizers puts behind a value, to carry a record
STORED = ".int"  # what write-quantizers calls the integers of a weight


@dataclass(frozen=True)
class Piece(Agreement):
    """How the value agrees that a piece computes.

    Args:
        behind: The quantizers in the piece, by the names of what they round.
    """

    behind: tuple[str, ...] = ()


def compare_pieces(
    reference: ir.Model,
    result: ir.Model,
    records: Mapping[str, Quantizer],
    batches: Sequence[Batch],
    keep: KeepMasks,
) -> list[Piece]:
    """Compares what both models compute before each quantizer, in order, and as outputs; see above.

    They are cut where both have a value by its name: that of a record, or the one that folding put a Clip or
    an Identity behind, to carry it. One that the reference has rounded already counts as the record rounds it
    in both.

    Args:
        result: It rounds by these records, as `Recorded.running` writes them.
        records: Value -> how the result rounds it.
        keep: Value -> which indices of each dimension of the reference the result still has.
    """
    known = names_in_both(reference, result, records)
    cuts = floats_among(list(dict.fromkeys(known.values())), reference, batches[0])
    pieces = cut_before(result, cuts)
    expected = open_session(reference, outputs=cuts, optimize=False)
    found = open_session(pieces, optimize=False)
    worst: dict[str, Agreement] = {}
    for batch in batches:
        wanted = {name: cut(array, keep.get(name, ())) for name, array in run(expected, batch).items()}
        got = run(found, {**batch, **{f"{name}{GIVEN}": wanted[name] for name in cuts}})
        for name, array in got.items():
            one = compared(name, wanted[name], array, records.get(name))
            worst[name] = worse(worst[name], one) if name in worst else one
    values = {str(value.name): value for value in pieces.graph.outputs}
    ordered = [*cuts, *(name for name in worst if name not in cuts)]
    sources = {name: behind(values[name], records) for name in ordered}
    return [
        Piece(**vars(worst[name]), behind=tuple(known.get(one, one) for one in sources[name]))
        for name in ordered
    ]


def names_in_both(reference: ir.Model, result: ir.Model, records: Mapping[str, Quantizer]) -> dict[str, str]:
    """Computed value with a record -> a value that both models have, in the order of the result.

    That value itself, or what it is a copy of; those that have none are left out.
    """
    theirs = {value.name for node in reference.graph for value in node.outputs}
    found = {}
    for value in [output for node in result.graph for output in node.outputs if output.name in records]:
        source: ir.Value | None = value
        while source is not None and source.name not in theirs:
            node = source.producer()
            source = node.inputs[0] if node is not None and node.op_type in CARRYING else None
        if source is not None:
            found[str(value.name)] = str(source.name)
    return found


def floats_among(names: Sequence[str], model: ir.Model, batch: Batch) -> list[str]:
    """Those of the names whose values are of float32."""
    values = run(open_session(model, outputs=names, optimize=False), batch)
    return [name for name in names if values[name].dtype == np.float32]


def cut_before(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy in which everything that reads one of these values reads a graph input `NAME.given` instead."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    present = set(copy.graph.outputs)
    for name in names:
        value = values[name]
        given = ir.Value(name=f"{name}{GIVEN}", type=ir.TensorType(ir.DataType.FLOAT))
        for user, index in list(value.uses()):
            user.replace_input_with(index, given)
        copy.graph.inputs.append(given)
        if value not in present:
            copy.graph.outputs.append(value)
    return copy


def compared(name: str, expected: Array, found: Array, record: Quantizer | None) -> Agreement:
    """How a value agrees, or what the record makes of it."""
    plain = agreement(name, [expected], [found])
    if record is None or expected.shape != found.shape:
        return plain
    rounded = agreement(name, [record.quantize(expected)], [record.quantize(found)])
    return max(plain, rounded, key=lambda one: (one.finite, one.sqnr_db))


def worse(one: Agreement, other: Agreement) -> Agreement:
    return replace(
        one,
        max_abs=max(one.max_abs, other.max_abs),
        relative=max(one.relative, other.relative),
        sqnr_db=min(one.sqnr_db, other.sqnr_db),
        finite=one.finite and other.finite,
    )


def behind(value: ir.Value, records: Mapping[str, Quantizer]) -> tuple[str, ...]:
    """The values that are rounded, on the way to this one."""
    found, seen, todo = dict[str, None](), {value}, inputs_of(value)
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        name = str(one.name).removesuffix(GIVEN if one.is_graph_input() else STORED)
        if name in records:
            found[name] = None
        todo.extend(inputs_of(one))
    return tuple(found)


def inputs_of(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    return [] if node is None else [one for one in node.inputs if one is not None]
