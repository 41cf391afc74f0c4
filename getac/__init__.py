"""getac: a compiler that makes trained networks small and fast.

    report = getac.lower("model.onnx", "small.onnx", sparsity=0.5, calibration="data.npz")

Names are imported when they are first used, so that `import getac` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from getac.analyzing import analyze as analyze
    from getac.axes.analysis import Analysis as Analysis
    from getac.errors import GetacError as GetacError
    from getac.fx_graph.capture import capture as capture
    from getac.inspection import inspect as inspect
    from getac.lowering import lower as lower
    from getac.qasso.geta import GETA as GETA
    from getac.qasso.joint import JointConstants as JointConstants
    from getac.qasso.optimizer import QASSO as QASSO
    from getac.qasso.progress import LiveLine as LiveLine
    from getac.qasso.schedule import Schedule as Schedule
    from getac.report import Report as Report
    from getac.training.checkpoint import load as load
    from getac.training.checkpoint import save as save
    from getac.training.exporting import export as export
    from getac.training.gradients import check_gradients as check_gradients
    from getac.training.preparing import prepare as prepare
    from getac.training.regenerating import regenerate as regenerate
    from getac.training.saved_optimizer import load_optimizer as load_optimizer

__all__ = [
    "GETA",
    "QASSO",
    "Analysis",
    "GetacError",
    "JointConstants",
    "LiveLine",
    "Report",
    "Schedule",
    "analyze",
    "capture",
    "check_gradients",
    "export",
    "inspect",
    "load",
    "load_optimizer",
    "lower",
    "prepare",
    "regenerate",
    "save",
]

_HOMES = {
    "Analysis": "getac.axes.analysis",
    "GetacError": "getac.errors",
    "capture": "getac.fx_graph.capture",
    "check_gradients": "getac.training.gradients",
    "export": "getac.training.exporting",
    "load": "getac.training.checkpoint",
    "load_optimizer": "getac.training.saved_optimizer",
    "prepare": "getac.training.preparing",
    "regenerate": "getac.training.regenerating",
    "save": "getac.training.checkpoint",
    "GETA": "getac.qasso.geta",
    "JointConstants": "getac.qasso.joint",
    "LiveLine": "getac.qasso.progress",
    "QASSO": "getac.qasso.optimizer",
    "Report": "getac.report",
    "Schedule": "getac.qasso.schedule",
    "analyze": "getac.analyzing",
    "inspect": "getac.inspection",
    "lower": "getac.lowering",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'getac' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
