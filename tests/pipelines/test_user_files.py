"""Passes in a user's file."""

from __future__ import annotations

import pytest

from getac.errors import OptionError
from getac.pipeline import Effect
from getac.pipelines.registry import make_passes
from getac.pipelines.spec import PassSpec, parse
from tests.pipelines.own import SOURCE

MINE = f"""
from pathlib import Path
from getac.pipeline import Effect
{SOURCE}
def surgery(graph):
    pass

def rounding(graph):
    pass
"""


@pytest.fixture
def file(tmp_path):
    def write(text=MINE, name="mine.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def refusal(pipeline):
    with pytest.raises(OptionError) as error:
        make_passes(pipeline)
    return error.value


def test_only_what_the_file_defines_is_suggested(file):
    assert refusal(f"{file()}:Nothing").required == "Mine or surgery or rounding"


def test_an_edited_file_is_read_again(file):
    (one,) = make_passes(f"{file()}:Mine")
    (same,) = make_passes(f"{file()}:Mine")
    assert type(one) is type(same) and one == same
    (other,) = make_passes(f"{file(MINE.replace('times: int = 1', 'times: int = 2'))}:Mine")
    assert (one.times, other.times) == (1, 2)
    assert not list(file().parent.glob("__pycache__"))  # nothing is left beside the user's file


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("x = 1\n\ny = 1 / 0", 3, "ZeroDivisionError: division by zero"),
        ("\nimport sys\nsys.exit(4)", 3, "SystemExit: 4"),
        ("x = 1\nsyntax error here (", 2, "SyntaxError"),
        ("import numpy as np\nnp.zeros(3).reshape(7)", 2, "ValueError: cannot reshape"),
    ],
)
def test_a_file_that_fails_says_at_which_line(file, text, line, found):
    path = file(text)
    error = refusal(f"{path}:Mine")
    assert error.where == f"{path}, line {line}" and error.found.startswith(found)


def test_a_path_with_a_comma_or_a_brace_is_quoted(file, tmp_path):
    path = file(name="a, {b}.py")
    (one,) = make_passes(f'"{path}:Mine"{{times=3}}')
    assert one.times == 3
    spec = PassSpec("a, {b}.py:Mine", (("times", "3"),))
    assert parse(f"remove-dead,{spec}")[1] == spec


@pytest.mark.parametrize(
    ("ending", "effect"),
    [
        ("surgery", Effect.NONE),
        ("surgery{effect=rounds}", Effect.ROUNDS),
        ("rounding", Effect.ROUNDS),
        ("rounding{effect=kernels}", Effect.KERNELS),
    ],
)
def test_a_function_says_its_effect(file, ending, effect):
    (one,) = make_passes(f"{file(MINE + 'rounding.effect = Effect.ROUNDS')}:{ending}")
    assert one.effect is effect


@pytest.mark.parametrize(
    ("ending", "found"),
    [
        ("surgery{effect=much}", "effect 'much'"),
        ("surgery{times=3}", "times"),
        ("rounding", "effect 'a lot'"),
    ],
)
def test_other_effects_are_refused(file, ending, found):
    path = file(MINE + "rounding.effect = 'a lot'")
    error = refusal(f"{path}:{ending}")
    assert "which has one option" in error.message and error.found == found
    assert error.required.startswith("effect: none|kernels|rounds|removes")
