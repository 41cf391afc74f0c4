"""Exporting modules by torch's own exporter."""

from __future__ import annotations

import logging
import warnings

import pytest

torch = pytest.importorskip("torch")
from getac.errors import UnsupportedModelError  # noqa: E402
from getac.fx_graph.onnx_export import export_module, silence  # noqa: E402


def test_silence_ends(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with silence():
        print("swallowed")
        warnings.warn("swallowed", stacklevel=1)
        logging.getLogger("torch").error("swallowed")
    print("heard")
    logging.getLogger("torch").error("heard too")
    assert capsys.readouterr().out == "heard\n"
    assert caplog.messages == ["heard too"]


def test_parameters_keep_their_names_and_parts_their_modes() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    net.train()
    net[1].eval()
    model = export_module(net, (torch.zeros(2, 3),))
    assert {"0.weight", "0.bias", "1.running_mean", "2.weight"} <= {
        one.name for one in model.graph.initializer
    }
    assert (net.training, net[0].training, net[1].training) == (True, True, False)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_what_torch_cannot_export_is_refused() -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedModelError, match="torch cannot export"):
        export_module(Branches(), (torch.zeros(2, 3),))
