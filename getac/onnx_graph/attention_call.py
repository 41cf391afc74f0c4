"""What an Attention node says: its heads, its scale, and which keys a query sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper

from getac.onnx_graph.emitter import Dimensions, Types, dimensions, element_type

__all__ = ["AttentionCall", "read_call"]

_PADS_MASKS = 24  # from this version on, a mask may be shorter than the keys
_INPUTS, _OUTPUTS = 7, 4
_FLAT, _SPLIT = 3, 4  # ranks of (batch, length, heads x d) and (batch, heads, length, d)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class _Inputs:
    """The names of the inputs; empty where there is none."""

    query: str
    key: str
    value: str
    mask: str
    past_key: str
    past_value: str
    lengths: str


@dataclass(frozen=True)
class _Outputs:
    """The names of the outputs; empty where nobody asks for one."""

    y: str
    present_key: str
    present_value: str
    scores: str


@dataclass(frozen=True)
class AttentionCall:
    """One Attention node, with its defaults filled in.

    Args:
        dtype: The element type of queries, keys and values.
        flat: Whether they are (batch, length, heads x d); else (batch, heads, length, d).
        key_width: The head dimension of queries and keys; 0 where it is not known, and not needed.
        value_width: That of values, likewise.
        precision: The element type in which the softmax is computed.
        scores_mode: The stage at which the scores are an output.
        mask_is_short: Whether the mask may be shorter than the keys, and is padded.
    """

    label: str
    inputs: _Inputs
    outputs: _Outputs
    dtype: int
    flat: bool
    heads: int
    kv_heads: int
    key_width: int
    value_width: int
    scale: float
    causal: bool
    softcap: float
    precision: int
    scores_mode: int
    mask_is_bool: bool
    mask_is_short: bool

    @property
    def repeats(self) -> int:
        return self.heads // self.kv_heads

    @property
    def is_repeated(self) -> bool:
        """Whether keys and values are copied for their queries; a single one is stretched to all of them."""
        return self.repeats > 1 and self.kv_heads > 1


def read_call(node: onnx.NodeProto, version: int, types: Types) -> AttentionCall | None:
    """Reads a node of ONNX Attention-23, -24 or -25; None where that is not possible."""
    inputs = _Inputs(*(*node.input, *[""] * _INPUTS)[:_INPUTS])
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    dtype = element_type(types, inputs.query)
    precision = attributes.get("softmax_precision", dtype)
    query, key, value = (dimensions(types, name) for name in (inputs.query, inputs.key, inputs.value))
    if not _is_followed(inputs, attributes, types) or precision not in _FLOATS:
        return None
    if query is None or key is None or value is None or not len(query) == len(key) == len(value):
        return None
    flat = len(query) == _FLAT
    heads = _heads_given(attributes) if flat else _heads_of(query, key, value)
    if heads is None:
        return None
    widths = [_width(each, heads[1] if flat else 1) for each in (key, value)]
    scale = attributes.get("scale", widths[0] ** -0.5 if widths[0] else None)
    if scale is None:
        return None
    call = AttentionCall(
        label=node.name or node.op_type,
        inputs=inputs,
        outputs=_Outputs(*(*node.output, *[""] * _OUTPUTS)[:_OUTPUTS]),
        dtype=dtype,
        flat=flat,
        heads=heads[0],
        kv_heads=heads[1],
        key_width=widths[0],
        value_width=widths[1],
        scale=scale,
        causal=bool(attributes.get("is_causal", 0)),
        softcap=attributes.get("softcap", 0.0),
        precision=precision,
        scores_mode=attributes.get("qk_matmul_output_mode", 0),
        mask_is_bool=element_type(types, inputs.mask) == TensorProto.BOOL,
        mask_is_short=bool(inputs.mask) and version >= _PADS_MASKS and not _covers(inputs, types),
    )
    return call if all(widths) or not call.is_repeated else None


def _is_followed(inputs: _Inputs, attributes: Mapping[str, Any], types: Types) -> bool:
    """Whether the definition allows these inputs, in types that the decomposition has constants of."""
    dtype = element_type(types, inputs.query)
    same = all(element_type(types, name) == dtype for name in (inputs.key, inputs.value))
    masks = (dtype, TensorProto.BOOL)
    whole = bool(inputs.past_key) == bool(inputs.past_value) and not (inputs.past_key and inputs.lengths)
    return (
        dtype in _FLOATS
        and same
        and whole
        and (not inputs.mask or element_type(types, inputs.mask) in masks)
        and not any(attributes.get(f"{side}_window_size", -1) >= 0 for side in ("left", "right"))
    )


def _heads_given(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    return _checked(attributes.get("q_num_heads"), attributes.get("kv_num_heads"))


def _heads_of(query: Dimensions, key: Dimensions, value: Dimensions) -> tuple[int, int] | None:
    """How many heads tensors of rank 4 have."""
    return _checked(query[1], key[1]) if len(query) == _SPLIT and key[1] == value[1] else None


def _checked(heads: int | str | None, kv_heads: int | str | None) -> tuple[int, int] | None:
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or min(heads, kv_heads) < 1:
        return None
    return None if heads % kv_heads else (heads, kv_heads)


def _width(shape: Dimensions, parts: int) -> int:
    """The head dimension that the model was trained with; 0 where it is not known."""
    width = shape[-1]
    return width // parts if isinstance(width, int) else 0


def _covers(inputs: _Inputs, types: Types) -> bool:
    """Whether a mask is known to be as long as the keys."""
    names = (inputs.mask, inputs.key, inputs.past_key)
    mask, key, past = (dimensions(types, name) for name in names)
    if not mask or not key:
        return False
    length = key[1] if len(key) == _FLAT else key[2]
    if inputs.past_key:
        before = past[2] if past and len(past) == _SPLIT else None
        length = length + before if isinstance(length, int) and isinstance(before, int) else None
    return length is not None and length == mask[-1]
