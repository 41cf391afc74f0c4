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
    from getac.benchmarking.bench_report import Bench as Bench
    from getac.benchmarking.benching import bench as bench
    from getac.errors import GetacError as GetacError
    from getac.fx_graph.capture import capture as capture
    from getac.inspection import inspect as inspect
    from getac.lowering import lower as lower
    from getac.pipelines.optimizing import Optimized as Optimized
    from getac.pipelines.optimizing import optimize as optimize
    from getac.plans.applying import apply as apply
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
    from getac.verifying.comparing import compare as compare
    from getac.verifying.comparison import Comparison as Comparison

__all__ = [
    "GETA",
    "QASSO",
    "Analysis",
    "Bench",
    "Comparison",
    "GetacError",
    "JointConstants",
    "LiveLine",
    "Optimized",
    "Report",
    "Schedule",
    "analyze",
    "apply",
    "bench",
    "capture",
    "check_gradients",
    "compare",
    "export",
    "inspect",
    "load",
    "load_optimizer",
    "lower",
    "optimize",
    "prepare",
    "regenerate",
    "save",
]

_HOMES = {
    "Analysis": "getac.axes.analysis",
    "Bench": "getac.benchmarking.bench_report",
    "Comparison": "getac.verifying.comparison",
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
    "Optimized": "getac.pipelines.optimizing",
    "QASSO": "getac.qasso.optimizer",
    "Report": "getac.report",
    "Schedule": "getac.qasso.schedule",
    "analyze": "getac.analyzing",
    "apply": "getac.plans.applying",
    "bench": "getac.benchmarking.benching",
    "compare": "getac.verifying.comparing",
    "inspect": "getac.inspection",
    "lower": "getac.lowering",
    "optimize": "getac.pipelines.optimizing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'getac' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
