"""The passes, and the pipelines that put them in order."""

from __future__ import annotations

from getac.passes.calibrate import Calibrate
from getac.passes.choose_units import ChooseUnits
from getac.passes.fold_batch_norm import FoldBatchNorm
from getac.passes.fold_quantizers import FoldQuantizers
from getac.passes.infer_axes import InferAxes
from getac.passes.infer_shapes import InferShapes
from getac.passes.lower_integers import LowerIntegers
from getac.passes.matmul_to_gemm import MatMulToGemm
from getac.passes.remove_dead import RemoveDead
from getac.passes.slice_units import SliceUnits
from getac.passes.store_weights import StoreWeights
from getac.pipeline import Fact, Pass, Pipeline, Refusal, State

__all__ = [
    "Calibrate",
    "ChooseUnits",
    "Fact",
    "FoldBatchNorm",
    "FoldQuantizers",
    "InferAxes",
    "InferShapes",
    "LowerIntegers",
    "MatMulToGemm",
    "Pass",
    "Pipeline",
    "Refusal",
    "RemoveDead",
    "SliceUnits",
    "State",
    "StoreWeights",
]
