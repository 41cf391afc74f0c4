"""Pipelines as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getac.errors import OptionError
from getac.pipelines.spec import PassSpec, parse

KEYS = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8)
VALUES = TEXTS.filter(lambda text: not {"'", '"'} <= set(text))
NAMES = KEYS | VALUES
SPECS = st.builds(
    lambda name, options: PassSpec(name, tuple(options)),
    NAMES,
    st.lists(st.tuples(KEYS, VALUES | st.lists(VALUES, max_size=3).map(tuple)), max_size=3),
)


@given(st.lists(SPECS, min_size=1, max_size=3))
def test_what_is_spelled_is_read_back(specs):
    assert parse(",".join(map(str, specs))) == tuple(specs)


def test_a_pipeline():
    text = "fold-quantizers, infer-axes{keep=[layer4.*,'a,b'] , prune=[]},my/file.py:Mine{n=3,s=''}"
    assert parse(text) == (
        PassSpec("fold-quantizers"),
        PassSpec("infer-axes", (("keep", ("layer4.*", "a,b")), ("prune", ()))),
        PassSpec("my/file.py:Mine", (("n", "3"), ("s", ""))),
    )


@pytest.mark.parametrize(
    ("text", "required", "found", "at"),
    [
        ("", "the name of a pass", "the end of the text", "at <here>"),
        ("a,,b", "the name of a pass", "','", "at a,<here>,b"),
        ("a{", "the name of an option", "the end of the text", "at a{<here>"),
        ("a{b}", "'='", "'}'", "at a{b<here>}"),
        ("a{b=}", "a value", "'}'", "at a{b=<here>}"),
        ("a{b=1", "','", "the end of the text", "at a{b=1<here>"),
        ("a{b=[1", "','", "the end of the text", "at a{b=[1<here>"),
        ("a{b='1}", "the closing '", "the end of the text", "at a{b='1}<here>"),
        ("a b{c=1}}", "','", "'}'", "at a b{c=1}<here>}"),
    ],
)
def test_what_is_no_pipeline_is_shown_where_it_ends(text, required, found, at):
    with pytest.raises(OptionError, match="this is not a pipeline") as error:
        parse(text)
    assert (error.value.required, error.value.found, error.value.where) == (required, found, at)
