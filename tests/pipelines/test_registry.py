"""Where passes are found."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from getac.errors import OptionError
from getac.passes import FoldBatchNorm, SliceUnits
from getac.pipelines import registry
from getac.pipelines.registry import make_passes

OWN = '''
from dataclasses import dataclass
from typing import ClassVar
from getac.passes import Fact, State

@dataclass(frozen=True)
class Mine:
    """Counts."""
    times: int = 1
    name: ClassVar[str] = "mine"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()
    def run(self, state: State) -> None:
        pass

class Other:
    pass
'''


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
