"""Globs on parameter names: what is no sequence of them is refused."""

from __future__ import annotations

from typing import Any

import pytest

import getac
from getac.axes.wishes import Wishes
from getac.errors import OptionError
from tests.rules.cases import sequence


@pytest.mark.parametrize("option", ["keep", "prune"])
def test_a_text_alone_is_no_sequence_of_globs(option: str) -> None:
    wishes: dict[str, Any] = {option: "w_*"}
    with pytest.raises(OptionError, match=f"{option} is a sequence of globs") as error:
        getac.analyze(sequence("r = Relu(h)").model(seed=0), **wishes)
    assert f'{option}=["layer4.*"]' in str(error.value)


def test_globs_match_whole_names() -> None:
    wishes = Wishes.of(keep=["layer4.*"], prune=("a", "b"))
    assert wishes.keeps("layer4.0.weight") and not wishes.keeps("a.layer4.0")
    assert wishes.opens("b") and not wishes.opens("ab")
    with pytest.raises(OptionError):
        Wishes.of(keep=[3])  # type: ignore[list-item]


def test_an_analysis_is_shown_by_its_classes() -> None:
    shown = repr(getac.analyze(sequence("r = Relu(h)").model(seed=0)))
    assert "PruningClass(name='c0'" in shown
    assert "inference" not in shown and len(shown) < 1000
