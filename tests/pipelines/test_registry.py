"""Where passes are found."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from getac.errors import OptionError
from getac.passes import FoldBatchNorm, SliceUnits
from getac.pipelines import registry
from getac.pipelines.registry import check_names, make_passes
from tests.pipelines.own import SOURCE, Own

OWN = f"""{SOURCE}
class Other:
    pass
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_built_in_passes_by_name():
    assert make_passes("fold-batch-norm,slice-units{sparsity=0.3}") == (FoldBatchNorm(), SliceUnits(0.3))


def test_passes_as_they_are():
    assert make_passes([FoldBatchNorm()]) == (FoldBatchNorm(),)


def test_a_pass_from_a_file(own):
    (one,) = make_passes(f"{own}:Mine{{times=3}}")
    assert (type(one).__name__, one.times, one.name) == ("Mine", 3, "mine")


def test_a_pass_of_an_installed_package(own, monkeypatch):
    entry = EntryPoint("fold-more", "getac.passes.fold_batch_norm:FoldBatchNorm", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == "getac.passes" else [])
    assert make_passes("fold-more") == (FoldBatchNorm(),)


def test_a_package_that_cannot_be_imported_is_named(monkeypatch):
    entry = EntryPoint("lost", "no_such_package:Pass", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    with pytest.raises(OptionError, match="lost cannot be imported") as error:
        make_passes("lost")
    assert "no_such_package" in error.value.found


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (":Nothing", "has no Nothing"),
        (":Other", "is not a pass"),
        (":OWN", "has no OWN"),
        ("c:Mine", "there is no such file"),
    ],
)
def test_files_without_the_pass_are_refused(own, ending, message):
    with pytest.raises(OptionError, match=message):
        make_passes(f"{own}{ending}")


def test_a_file_that_fails_says_how(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    with pytest.raises(OptionError, match="cannot be imported") as error:
        make_passes(f"{path}:Mine")
    assert error.value.found == "ZeroDivisionError: division by zero"


def test_an_unknown_name_shows_the_known_ones():
    with pytest.raises(OptionError, match="there is no pass fold-everything") as error:
        make_passes("fold-everything")
    assert "fold-quantizers" in error.value.required


def test_an_unknown_name_shows_the_nearest():
    with pytest.raises(OptionError, match="there is no pass fold-batchnorm") as error:
        make_passes("fold-batchnorm")
    assert error.value.hint == "fold-batch-norm is nearly that"


def test_names_that_are_taken_have_their_package_in_front(monkeypatch):
    entries = [
        EntryPoint("fold-batch-norm", "one.passes:Mine", registry.GROUP),
        EntryPoint("double", "one.passes:Double", registry.GROUP),
        EntryPoint("double", "other:Double", registry.GROUP),
        EntryPoint("single", "getac.passes.infer_axes:InferAxes", registry.GROUP),
        EntryPoint("single", "getac.passes.infer_axes:InferAxes", registry.GROUP),  # found on two paths
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    names = ["one/fold-batch-norm", "one/double", "other/double", "single"]
    assert list(registry.installed_passes()) == names
    assert make_passes("fold-batch-norm") == (FoldBatchNorm(),)
    with pytest.raises(OptionError, match="the pass fold-batch-norm cannot be imported"):
        make_passes("one/fold-batch-norm")


class Strange(Own):
    """A pass with attributes of a test's choice."""

    def __init__(self, **attributes):
        super().__init__(lambda state: None)
        for name, value in attributes.items():
            object.__setattr__(self, name, value)


@pytest.mark.parametrize(
    ("pipeline", "found"),
    [
        (None, "None"),
        (3, "3"),
        (b"infer-axes", "b'infer-axes'"),
        (FoldBatchNorm(), "FoldBatchNorm()"),
        ([3], "3, without name, needs, gives, keeps, run"),
        (["infer-axes"], "'infer-axes', without name, needs"),
        ([FoldBatchNorm], "the class FoldBatchNorm, not an object of it"),
        ([Strange(needs=["axes"])], "needs = ['axes'], which is no frozenset of facts"),
        ([Strange(gives="sliced")], "gives = 'sliced', which is no frozenset"),
        ([Strange(keeps=frozenset({"axes"}))], "which is no frozenset of facts"),
        ([Strange(effect="rounds")], "effect = 'rounds', which is no Effect"),
        ([Strange(run=3)], "run = 3, which cannot be called"),
        ([Strange(name="../../evil")], "the name '../../evil', which is not like my-pass"),
        ([Strange(name="slash/name")], "which is not like my-pass"),
        ([Strange(name=3)], "the name 3, which is not like my-pass"),
    ],
)
def test_what_is_no_pass_is_refused(pipeline, found):
    with pytest.raises(OptionError) as error:
        make_passes(pipeline)
    assert found in error.value.found
    assert error.value.message.endswith(("is not a pass", "this is not a pipeline"))


def test_a_list_of_texts_has_a_hint():
    with pytest.raises(OptionError, match="str is not a pass") as error:
        make_passes(["infer-axes"])
    assert error.value.hint == "a pipeline in words is one text, not a list"


def test_names_that_no_pass_has():
    check_names("infer-axes", ["infer-axes", "fold-batch-norm"])
    with pytest.raises(OptionError, match="there is no pass fold-batchnorm") as error:
        check_names("infer-axes", ["fold-batchnorm"])
    assert error.value.hint == "fold-batch-norm is nearly that"
