"""A pass's fields are its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import ClassVar, Literal

import pytest

from getac.errors import OptionError
from getac.pipeline import Fact
from getac.pipelines.declaration import make_pass, options_of, spec_of, summary_of
from getac.pipelines.registry import built_in_passes
from getac.pipelines.spec import PassSpec, parse


@dataclass(frozen=True)
class Sample:
    """Does nothing.

    At all.
    """

    must: int
    rate: float | None = None
    names: tuple[str, ...] = ()
    mode: Literal["ort", "portable"] = "ort"
    loud: bool = False
    callback: Callable[[], None] | None = None

    name: ClassVar[str] = "sample"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, state):
        pass


def made(text):
    return make_pass(Sample, parse(text)[0])


def test_options_have_the_types_of_their_fields():
    assert made("sample{must=3,rate=0.5,names=[a,b],mode=portable,loud=true}") == Sample(
        3, 0.5, ("a", "b"), "portable", True
    )
    assert made("sample{must=3,rate=none,names=a}") == Sample(3, None, ("a",))


def test_callbacks_are_no_options():
    assert list(options_of(Sample)) == ["must", "rate", "names", "mode", "loud"]
    assert [str(one) for one in options_of(Sample).values()][:4] == [
        "must: int",
        "rate: float|none=none",
        "names: list=[]",
        "mode: ort|portable=ort",
    ]


def test_a_pass_is_spelled_with_what_differs_from_the_defaults():
    one = Sample(3, names=("a", "b,c"), loud=True)
    assert str(spec_of(one)) == "sample{must=3,names=[a,'b,c'],loud=true}"
    assert made(str(spec_of(one))) == one


def test_every_built_in_pass_with_its_defaults_reads_back():
    for name, kind in built_in_passes().items():
        assert summary_of(kind).endswith(".") and "State." not in summary_of(kind)
        if all(option.default is not MISSING for option in options_of(kind).values()):
            assert make_pass(kind, PassSpec(name)) == kind()
            assert spec_of(kind()) == PassSpec(name)


@pytest.mark.parametrize(
    ("text", "message", "required"),
    [
        ("sample", "needs options", "must"),
        ("sample{must=1,other=2}", "it has no option other", "must: int, rate"),
        ("sample{must=1,must=2}", "must is given twice", "must: int"),
        ("sample{must=1.5}", "must has a value of another type", "int"),
        ("sample{must=1,loud=yes}", "loud has a value of another type", "true|false"),
        ("sample{must=1,mode=gpu}", "mode has a value of another type", "ort|portable"),
        ("sample{must=[1]}", "must has a value of another type", "int"),
        ("sample{must=1,callback=print}", "it has no option callback", "must"),
    ],
)
def test_options_that_do_not_fit_are_refused(text, message, required):
    with pytest.raises(OptionError, match=message) as error:
        made(text)
    assert required in error.value.required
    assert error.value.where == str(parse(text)[0])


@dataclass(frozen=True)
class Texts(Sample):
    must: int = 1
    text: str | None = None


def test_none_is_nothing_even_where_texts_are_allowed():
    assert make_pass(Texts, parse("texts{text=none}")[0]).text is None
    assert make_pass(Texts, parse("texts{text=some}")[0]).text == "some"


def refusal(kind, text="sample"):
    with pytest.raises(OptionError) as error:
        make_pass(kind, parse(text)[0])
    return error.value


def test_a_field_that_no_text_can_set_needs_a_default():
    @dataclass(frozen=True)
    class Mute:
        action: Callable[[], None]

    error = refusal(Mute)
    assert error.message == "the pass sample can be made in Python alone"
    assert error.required == "a default for what no text can set: action"


def test_whatever_its_own_checks_raise_is_told():
    @dataclass(frozen=True)
    class Checked:
        rate: float = 0.0

        def __post_init__(self):
            if self.rate > 1:
                raise OptionError("mine")
            assert self.rate >= 0, "not below zero"

    error = refusal(Checked, "sample{rate=2}")
    assert (error.message, error.where) == ("mine", "sample{rate=2}")
    error = refusal(Checked, "sample{rate=-1}")
    assert error.message == "the pass sample refuses its options"
    assert error.found.startswith("AssertionError: not below zero")


def test_a_type_that_is_not_there_is_named():
    @dataclass(frozen=True)
    class Lost:
        rate: Nowhere = 1  # noqa: F821

    error = refusal(Lost)
    assert "Lost have types that cannot be found" in error.message
    assert error.found == "NameError: name 'Nowhere' is not defined"
