"""Attention (opset 23 and newer) in operators of opset 21, in a form whose heads the analysis follows.

The function body in the operator's own definition computes with head counts (Equal, Div, Mod, Where), so
heads would freeze. Here they are literals of a Reshape, or dimensions that nothing but Transpose touches:

    Q, K, V of rank 3   Reshape to (batch, length, heads, d), Transpose to (batch, heads, length, d)
    grouped heads       each key and value head stands `repeats` times: Unsqueeze, Expand, Reshape
    S = scale Q K^T     the scale as a number, as it was trained
    S = c tanh(S / c)   softcap
    Y = softmax(S + bias) V
    bias                0, or the float mask, where a query sees a key; -inf where it does not
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from getac.onnx_graph.attention_call import AttentionCall, read_call
from getac.onnx_graph.emitter import Emitter, Types
from getac.onnx_graph.functions import Names

__all__ = ["expand_attention"]


def expand_attention(
    node: onnx.NodeProto, version: int, types: Types, names: Names
) -> list[onnx.NodeProto] | None:
    """The nodes that an Attention node stands for; ONNX Attention-23, -24, -25.

    Args:
        version: The opset in which the operator was defined.
        types: What is known of the values.

    Returns:
        None where the decomposition would need what is not known (the element type; the heads of tensors
        of rank 4; the head dimension, where the scale or copies of heads follow from it), or where the
        node is none that the definition allows.
    """
    call = read_call(node, version, types)
    return None if call is None else _Expansion(call, Emitter(call.label, call.dtype, names)).nodes()


@dataclass(frozen=True)
class _Expansion:
    call: AttentionCall
    e: Emitter

    def nodes(self) -> list[onnx.NodeProto]:
        call, e, given, asked = self.call, self.e, self.call.inputs, self.call.outputs
        keys = self._cached(given.key, given.past_key, asked.present_key)
        values = self._cached(given.value, given.past_value, asked.present_value)
        keys = e("Transpose", self._repeated(keys, call.key_width), perm=[0, 1, 3, 2])
        values = self._repeated(values, call.value_width)
        scores = e("MatMul", self._scaled_queries(), keys)
        self._show(0, scores)
        if call.softcap > 0:
            cap = e.real(call.softcap)
            scores = e("Mul", e("Tanh", e("Div", scores, cap)), cap)
        self._show(1, scores)
        bias = self._bias(keys)
        hidden = self._hidden_queries(bias)
        self._show(2, scores, bias)
        weights = self._softmax(self._added(scores, bias, hidden))
        self._show_weights(weights, hidden)
        self._finish(weights, values, hidden)
        return e.made

    def _scaled_queries(self) -> str:
        split = self._split(self.call.inputs.query, self.call.heads)
        return split if self.call.scale == 1 else self.e("Mul", split, self.e.real(self.call.scale))

    def _split(self, x: str, heads: int) -> str:
        """(batch, heads, length, d)."""
        if not self.call.flat:
            return x
        return self.e("Transpose", self.e("Reshape", x, self.e.integers(0, 0, heads, -1)), perm=[0, 2, 1, 3])

    def _cached(self, x: str, past: str, present: str) -> str:
        """The new keys or values behind those of the past; together they are the present ones."""
        split = self._split(x, self.call.kv_heads)
        if past:
            return self.e("Concat", past, split, axis=2, output=present)
        return self.e("Identity", split, output=present) if present else split

    def _repeated(self, x: str, width: int) -> str:
        """Each head `repeats` times in a row. A single head needs no copies: matmul stretches it."""
        call, e = self.call, self.e
        if not call.is_repeated:
            return x
        copies = e("Expand", e("Unsqueeze", x, e.integers(2)), e.integers(1, 1, call.repeats, 1, 1))
        return e("Reshape", copies, e.integers(0, call.heads, -1, width))

    # ---- what is seen ----

    def _bias(self, keys: str) -> str:
        """What is added to the scores (batch, heads, queries, keys), stretched as needed; or none."""
        call, e = self.call, self.e
        length = e.length(keys, 3) if call.causal or call.inputs.lengths or call.mask_is_short else ""
        visible, mask = self._visible(length), self._mask(length)
        if not visible and (call.mask_is_bool or not mask):
            visible, mask = mask, ""
        elif call.mask_is_bool:
            visible, mask = e("And", mask, visible), ""
        return e("Where", visible, mask or e.real(0.0), e.real(-float("inf"))) if visible else mask

    def _mask(self, length: str) -> str:
        """The mask; where it is shorter than the keys, nobody sees what it does not reach."""
        call, e, mask = self.call, self.e, self.call.inputs.mask
        if not call.mask_is_short:
            return mask
        missing = e("Sub", length, e("Shape", mask, start=-1))
        unseen = e.truth(False) if call.mask_is_bool else e.real(-float("inf"))
        return e("Pad", mask, e("Concat", e.integers(0), missing, axis=0), unseen, e.integers(-1))

    def _visible(self, length: str) -> str:
        """Which keys a query's position lets it see: key j <= query i + offset, or j < the batch's length.

        The offset counts the keys that stand before the first query. Where lengths are given, the queries
        are the last ones before the end, and so stay inside it by themselves.
        """
        call, e, given = self.call, self.e, self.call.inputs
        if not call.causal and not given.lengths:
            return ""
        columns = e.counting(length)
        ends = e("Unsqueeze", given.lengths, e.integers(1, 2, 3)) if given.lengths else ""
        if not call.causal:
            return e("Less", columns, ends)
        queries = e.length(given.query, 1 if call.flat else 2)
        rows = e("Unsqueeze", e.counting(queries), e.integers(1))
        if given.past_key:
            rows = e("Add", rows, e.length(given.past_key, 2))
        elif ends:
            rows = e("Add", rows, e("Sub", ends, queries))
        return e("LessOrEqual", columns, rows)

    def _hidden_queries(self, bias: str) -> str:
        """Which queries see no key at all. With a causal mask alone, each sees the first one."""
        e, given = self.e, self.call.inputs
        if not given.mask and not given.lengths:
            return ""
        most = e("ReduceMax", bias, e.integers(-1), keepdims=1)
        return e("Equal", most, e.real(-float("inf")))

    def _added(self, scores: str, bias: str, hidden: str) -> str:
        """A query that sees nothing is spared the -inf, of which a softmax makes no number."""
        if hidden:
            bias = self.e("Where", hidden, self.e.real(0.0), bias)
        return self.e("Add", scores, bias) if bias else scores

    def _softmax(self, scores: str) -> str:
        call, e = self.call, self.e
        if call.precision == call.dtype:
            return e("Softmax", scores, axis=-1)
        weights = e("Softmax", e("Cast", scores, to=call.precision), axis=-1)
        return e("Cast", weights, to=call.dtype)

    # ---- outputs ----

    def _finish(self, weights: str, values: str, hidden: str) -> None:
        """A query that sees nothing gives zero."""
        call, e, y = self.call, self.e, self.call.outputs.y
        last = "" if call.flat else y
        result = e("MatMul", weights, values, output="" if hidden else last)
        if hidden:
            result = e("Where", hidden, e.real(0.0), result, output=last)
        if call.flat:
            rows = e("Transpose", result, perm=[0, 2, 1, 3])
            e("Reshape", rows, e.integers(0, 0, -1), output=y)

    def _show(self, mode: int, scores: str, bias: str = "") -> None:
        """The scores are an output, too, if somebody asks for them at this stage."""
        output = self.call.outputs.scores
        if output and mode == self.call.scores_mode:
            self.e(*(("Add", scores, bias) if bias else ("Identity", scores)), output=output)

    def _show_weights(self, weights: str, hidden: str) -> None:
        if hidden and self.call.outputs.scores and self.call.scores_mode == 3:
            weights = self.e("Where", hidden, self.e.real(0.0), weights)
        self._show(3, weights)
