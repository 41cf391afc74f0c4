"""Equations of einsum: normal form, refusals, and the work that they are."""

from __future__ import annotations

import pytest

from getac.rules.einsum import Einsum, parse


@pytest.mark.parametrize(
    ("equation", "ranks", "operands", "result"),
    [
        ("bhid,bhjd->bhij", (4, 4), ("bhid", "bhjd"), "bhij"),
        (" b i , i o -> b o ", (2, 2), ("bi", "io"), "bo"),
        ("ij,jk", (2, 2), ("ij", "jk"), "ik"),
        ("ba", (2,), ("ba",), "ab"),
        ("ii", (2,), ("ii",), ""),
        ("...i,...i->...", (3, 3), ("abi", "abi"), "ab"),
        ("...i,i...", (3, 2), ("abi", "ib"), "ab"),
        ("...i,io->...o", (4, 2), ("abci", "io"), "abco"),
    ],
)
def test_parse(equation: str, ranks: tuple[int, ...], operands: tuple[str, ...], result: str) -> None:
    letters = {letter for letter in equation if letter.isalpha()}
    rule = parse(equation, ranks)
    spare = sorted({letter for text in rule.operands for letter in text} - letters)
    names = dict(zip(spare, sorted({x for text in operands for x in text} - letters), strict=True))
    assert tuple("".join(names.get(x, x) for x in text) for text in rule.operands) == operands
    assert "".join(names.get(x, x) for x in rule.result) == result


@pytest.mark.parametrize(("equation", "ranks"), [("ij->i", (3,)), ("ij,jk->ik", (2,)), ("ijk", (2,))])
def test_an_equation_that_does_not_fit_is_refused(equation: str, ranks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        parse(equation, ranks)


def test_work_is_counted_from_the_left() -> None:
    assert Einsum(("bi", "io"), "bo").macs([(2, 3), (3, 4)], (2, 4)) == 2 * 3 * 4
    assert Einsum(("bi",), "b").macs([(2, 3)], (2,)) == 0
    three = Einsum(("bi", "io", "op"), "bp")
    assert three.macs([(2, 3), (3, 4), (4, 5)], (2, 5)) == 2 * 3 * 4 + 2 * 4 * 5
