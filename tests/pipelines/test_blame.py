"""Which pass failed, why it ran, and at which line."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from getac.errors import BadInputError, CalibrationError, OptionError, OutputError, PassError
from getac.passes import Pipeline, Refusal, State
from getac.pipelines.optimizing import optimize, reduce_failure
from tests.pipelines.own import Own
from tools.onnx_text import model_of

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from getac.passes import Fact, State

@dataclass(frozen=True)
class Mine:
    name: ClassVar[str] = "mine"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    keeps: ClassVar[frozenset[Fact]] = frozenset()
    def run(self, state: State) -> None:
"""


@pytest.fixture
def model():
    shapes = {"w": (16, 3, 3, 3), "v": (4, 16, 1, 1)}
    return model_of("c = Conv(x, w)  r = Relu(c)  y = Conv(r, v)", {"x": [2, 3, 6, 6]}, shapes)


@pytest.fixture
def mine(tmp_path):
    """Writes a pass with these lines in its `run`; gives its spec."""

    def write(*lines):
        (tmp_path / "mine.py").write_text(HEAD + "\n".join(f"        {line}" for line in lines))
        return f"{tmp_path / 'mine.py'}:Mine"

    return write


def test_the_line_of_the_author_and_not_of_a_library(model, mine):
    lines = HEAD.count("\n")
    with pytest.raises(PassError, match="the pass mine failed") as error:
        optimize(model, mine("np.broadcast_shapes(", "    (3,), (4,))"))
    assert error.value.where.endswith(f"mine.py, line {lines + 1}, in run")
    assert error.value.found.startswith("ValueError: shape mismatch")


@pytest.mark.parametrize("code", [0, 3])
def test_a_pass_that_exits_is_an_error(model, mine, tmp_path, code):
    with pytest.raises(PassError, match="the pass mine failed") as error:
        optimize(model, mine("import sys", f"sys.exit({code})"), tmp_path / "o.onnx")
    assert error.value.found == f"SystemExit: {code}"
    assert not (tmp_path / "o.onnx").exists()


def test_an_error_of_getac_names_the_pass_that_was_added(model):
    with pytest.raises(CalibrationError, match="activations need calibration data") as error:
        optimize(model, "fold-quantizers,lower-integers")
    assert error.value.where == "the pass calibrate, which was added: lower-integers needs what it gives"


def test_an_error_of_getac_keeps_its_place(model, tmp_path):
    with pytest.raises(BadInputError, match="the plan cannot be read") as error:
        optimize(model, f"infer-axes,replay-units{{plan='{tmp_path}/none.json'}}")
    assert error.value.where == f"{tmp_path}/none.json; in the pass replay-units"


def test_a_pass_that_returns_a_model_is_told_where_it_goes(model):
    class Returns(Own):
        def run(self, state):
            return state.model.clone()

    with pytest.raises(PassError, match="the pass own returned something") as error:
        optimize(model, [Returns(lambda state: None)])
    assert (error.value.found, error.value.hint) == ("Model", "state.program = model")


def test_a_pipeline_is_not_verified_on_nothing(model):
    for nothing in ([], {"x": np.zeros((2, 3, 6, 6), np.float32)}):
        with pytest.raises(OptionError, match="nothing to verify a pipeline on"):
            Pipeline([Own(lambda state: None)], verify=nothing).run(State(ir.from_proto(model)))


def test_two_assertions_are_two_failures(mine, tmp_path):
    """Without its Tanh the model fails at another line, in the same way otherwise."""
    kinds = "kinds = [node.op_type for node in state.model.graph]"
    spec = mine(kinds, "assert 'Tanh' not in kinds, 'no Tanh'", "assert len(kinds) > 3, 'short'")
    chain = model_of("a = Relu(x)  b = Neg(a)  c = Tanh(b)  d = Abs(c)  y = Neg(d)", {"x": [4]}, {})
    found = reduce_failure(chain, spec, tmp_path / "small.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node] == ["Tanh"]
    assert "no Tanh" in found.error.found and "no Tanh" in found.part_error.found
    assert found.part_error is not found.error


def test_the_part_s_own_error_is_told(mine, tmp_path):
    spec = mine("raise LookupError(f'{len(state.model.graph)} nodes')")
    chain = model_of("a = Relu(x)  b = Neg(a)  y = Tanh(b)", {"x": [4]}, {})
    found = reduce_failure(chain, spec, tmp_path / "small.onnx")
    assert (found.error.found, found.part_error.found) == ("LookupError: 3 nodes", "LookupError: 1 nodes")


def test_the_report_is_written_or_refused_before_anything_runs(model, tmp_path):
    ran = []
    own = Own(lambda state: state.refuse("own", Refusal("c", str(ran.append(1)))))
    onnx.save(model, tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    for output, report in (
        (None, tmp_path / "m.onnx"),
        (tmp_path / "o.onnx", tmp_path / "o.onnx"),
        (tmp_path / "o.onnx", tmp_path / "no" / "r.json"),
    ):
        with pytest.raises(OutputError):
            optimize(tmp_path / "m.onnx", [own], output, report=report)
    assert ran == [] and (tmp_path / "m.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    optimize(tmp_path / "m.onnx", [own], report=tmp_path / "r.json")
    assert '"own"' in (tmp_path / "r.json").read_text()
