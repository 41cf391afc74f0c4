"""The passes, and the pipelines that put them in order."""

from __future__ import annotations

from typing import Literal

from getac.axes.wishes import NO_WISHES, Wishes
from getac.passes.calibrate import Calibrate, Progress
from getac.passes.choose_strategies import ChooseStrategies
from getac.passes.choose_units import ChooseUnits
from getac.passes.drop_dynamic_quantizers import DropDynamicQuantizers
from getac.passes.expand_qoperators import ExpandQOperators
from getac.passes.flatten_products import FlattenProducts
from getac.passes.fold_batch_norm import FoldBatchNorm
from getac.passes.fold_constants import FoldConstants
from getac.passes.fold_quantizers import FoldQuantizers
from getac.passes.infer_axes import InferAxes
from getac.passes.infer_shapes import InferShapes
from getac.passes.lower_integers import LowerIntegers
from getac.passes.matmul_to_gemm import MatMulToGemm
from getac.passes.mean_to_pool import MeanToPool
from getac.passes.name_squeezed import NameSqueezed
from getac.passes.pack_weights import PackWeights
from getac.passes.quantize_dynamically import QuantizeDynamically
from getac.passes.quantize_embeddings import QuantizeEmbeddings
from getac.passes.quantize_weights import QuantizeWeights
from getac.passes.recognize_quantizers import RecognizeQuantizers
from getac.passes.remove_dead import RemoveDead
from getac.passes.remove_identities import RemoveIdentities
from getac.passes.replay_quantizers import ReplayQuantizers
from getac.passes.replay_units import ReplayUnits
from getac.passes.share_storage import ShareStorage
from getac.passes.slice_units import SliceUnits
from getac.passes.spell_quantizers import SpellQuantizers
from getac.passes.split_sequences import SplitSequences
from getac.passes.store_embeddings import StoreEmbeddings
from getac.passes.store_weights import StoreWeights
from getac.passes.surgeon import SurgeonPass
from getac.passes.write_quantizers import WriteQuantizers
from getac.pipeline import Fact, Pass, Pipeline, Refusal, State

__all__ = [
    "Calibrate",
    "ChooseStrategies",
    "ChooseUnits",
    "DropDynamicQuantizers",
    "ExpandQOperators",
    "Fact",
    "FlattenProducts",
    "FoldBatchNorm",
    "FoldConstants",
    "FoldQuantizers",
    "InferAxes",
    "InferShapes",
    "LowerIntegers",
    "MatMulToGemm",
    "MeanToPool",
    "NameSqueezed",
    "PackWeights",
    "Pass",
    "Pipeline",
    "Progress",
    "QuantizeDynamically",
    "QuantizeEmbeddings",
    "QuantizeWeights",
    "RecognizeQuantizers",
    "Refusal",
    "RemoveDead",
    "RemoveIdentities",
    "ReplayQuantizers",
    "ReplayUnits",
    "ShareStorage",
    "SliceUnits",
    "SpellQuantizers",
    "SplitSequences",
    "State",
    "StoreEmbeddings",
    "StoreWeights",
    "SurgeonPass",
    "WriteQuantizers",
    "analysis_passes",
    "integer_passes",
    "pruning_passes",
    "quantizing_passes",
    "weight_only_passes",
]


def analysis_passes(wishes: Wishes = NO_WISHES) -> tuple[Pass, ...]:
    """From a model as it was read to its pruning classes."""
    return (
        RemoveIdentities(),  # first: folding quantizers leaves Identities, which carry a record
        DropDynamicQuantizers(),
        ExpandQOperators(),  # before quantizers are folded: it makes some
        RecognizeQuantizers(),
        RemoveDead(),  # what a quantizer was spelled with still reads what it rounds
        FoldQuantizers(),  # early: what is folded into a quantized weight must keep its integers
        RemoveDead(),  # an unused branch would freeze what it touches
        InferShapes(),
        SplitSequences(),  # before constants are folded, so that what follows a split may fold
        FoldConstants(),  # layers whose weights an exporter transposes, or whose bias it makes up
        InferShapes(),
        NameSqueezed(),
        MeanToPool(),
        MatMulToGemm(),
        FoldBatchNorm(),  # before the axes: a dead channel shows in the folded weight
        RemoveDead(),
        InferShapes(),
        InferAxes(tuple(wishes.keep), tuple(wishes.prune)),
    )


def pruning_passes() -> tuple[Pass, ...]:
    """Carries out a choice of units."""
    return (SliceUnits(), RemoveDead())


def quantizing_passes(
    method: str = "minmax",
    weight_bits: int = 8,
    activation_bits: int = 8,
    progress: Progress | None = None,
    block: int | Literal["auto"] | None = "auto",
    embedding_bits: int | None = 8,
    target: str = "portable",
) -> tuple[Pass, ...]:
    """Gives weights and activations their quantizers; ranges are those of the sliced model."""
    return (
        QuantizeEmbeddings(embedding_bits),  # first: a head that is tied to a table takes its steps
        FlattenProducts(),
        QuantizeWeights(weight_bits, block, target),
        Calibrate(method, activation_bits, progress),
    )


def integer_passes(target: str = "portable") -> tuple[Pass, ...]:
    """Integer kernels where onnxruntime has them, small files everywhere."""
    return (
        StoreEmbeddings(),
        LowerIntegers(),
        *storing_passes(target),
    )  # storing takes what is still in floats


def weight_only_passes(target: str = "portable") -> tuple[Pass, ...]:
    """Integers in the file, floats in the kernels."""
    return (StoreEmbeddings(), *storing_passes(target))


def storing_passes(target: str) -> tuple[Pass, ...]:
    return (
        QuantizeDynamically(),  # before the rest of what is in floats is stored as integers
        StoreWeights(target),
        RemoveDead(),
        RemoveIdentities(apart=True),  # in front of outputs: what a pair makes can be one itself
        ShareStorage(),
        PackWeights(target),
    )  # packed last: nothing reads it again
