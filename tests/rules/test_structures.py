"""Structures of well-known networks: which classes are found, from the equations alone."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.rules.cases import Case, Sizes, ints
from tools.law import AS_WRITTEN, analyzed, check_law
from tools.onnx_text import Tensor

SEQUENCE = {"x": ("N", "T", 6)}
IMAGE = {"x": ("N", 3, 8, 8)}
ATTEND = """a = MatMul(qh, kh)  d = Div(a, depth)  p = Softmax(d)  o = MatMul(p, vh)
    ot = Transpose<perm=[0, 2, 1, 3]>(o)  om = Reshape(ot, merged)  y = MatMul(om, wo)"""
SIZES = """shape = Shape(x)  b = Gather(shape, i0)  t = Gather(shape, i1)
    bu = Unsqueeze(b, axis0)  tu = Unsqueeze(t, axis0)"""
INDICES: dict[str, Tensor] = {"i0": ints(0).reshape(()), "i1": ints(1).reshape(()), "axis0": ints(0)}
DEPTH: dict[str, Tensor] = {"depth": (1,)}


def case(body: str, units: tuple[int, ...], inputs: Mapping[str, Sizes], **tensors: Tensor) -> Case:
    return Case(body, units, inputs, tensors)


CASES = {
    "attention of unknown length, computed targets": case(
        SIZES + """ target = Concat<axis=0>(bu, tu, h4, d5)  merged = Concat<axis=0>(bu, tu, m20)
        q = MatMul(x, wq)  qb = Add(q, bq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        qr = Reshape(qb, target)  kr = Reshape(k, target)  vr = Reshape(v, target)
        qh = Transpose<perm=[0, 2, 1, 3]>(qr)  kh = Transpose<perm=[0, 2, 3, 1]>(kr)
        vh = Transpose<perm=[0, 2, 1, 3]>(vr) """ + ATTEND,
        (4, 5), SEQUENCE, **INDICES, **DEPTH, h4=ints(4), d5=ints(5), m20=ints(20),
        wq=(6, 20), bq=(20,), wk=(6, 20), wv=(6, 20), wo=(20, 6),
    ),
    "attention of unknown length, stored targets": case(
        """q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        qr = Reshape(q, target)  kr = Reshape(k, target)  vr = Reshape(v, other)
        qh = Transpose<perm=[0, 2, 1, 3]>(qr)  kh = Transpose<perm=[0, 2, 3, 1]>(kr)
        vh = Transpose<perm=[0, 2, 1, 3]>(vr) """ + ATTEND,
        (4, 5, 3), SEQUENCE, **DEPTH, target=ints(0, 0, 4, 5), other=ints(0, -1, 4, 3), merged=ints(0, 0, -1),
        wq=(6, 20), wk=(6, 20), wv=(6, 12), wo=(12, 6),
    ),
    "fused projection, parts outermost": case(
        """f = MatMul(x, w)  r = Reshape(f, target)  m = Transpose<perm=[2, 0, 3, 1, 4]>(r)
        q, k, v = Split<axis=0, num_outputs=3>(m)
        qh = Squeeze(q, axis0)  ks = Squeeze(k, axis0)  vh = Squeeze(v, axis0)
        kh = Transpose<perm=[0, 1, 3, 2]>(ks) """ + ATTEND,
        (4, 5), SEQUENCE, **DEPTH, axis0=ints(0), target=ints(0, 0, 3, 4, 5), merged=ints(0, 0, 20),
        w=(6, 60), wo=(20, 6),
    ),
    "fused projection, split": case(
        """f = MatMul(x, w)  q, k, v = Split<axis=2, num_outputs=3>(f)
        qr = Reshape(q, target)  kr = Reshape(k, target)  vr = Reshape(v, target)
        qh = Transpose<perm=[0, 2, 1, 3]>(qr)  kh = Transpose<perm=[0, 2, 3, 1]>(kr)
        vh = Transpose<perm=[0, 2, 1, 3]>(vr) """ + ATTEND,
        (4, 5, 5), SEQUENCE, **DEPTH, target=ints(0, 0, 4, 5), merged=ints(0, 0, 20), w=(6, 60), wo=(20, 6),
    ),
    "shared key and value heads": case(
        """q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        qr = Reshape(q, qt)  kr = Reshape(k, kt)  vr = Reshape(v, kt)
        qh = Transpose<perm=[0, 2, 1, 3]>(qr)  km = Transpose<perm=[0, 2, 3, 1]>(kr)
        vm = Transpose<perm=[0, 2, 1, 3]>(vr)  ku = Unsqueeze(km, axis2)  vu = Unsqueeze(vm, axis2)
        ke = Expand(ku, times)  ve = Expand(vu, times)
        ks = Shape(qh)  t = Shape<start=1, end=2>(x)
        kc = Concat<axis=0>(zero, six, five, t)  vc = Concat<axis=0>(zero, six, t, five)
        kh = Reshape(ke, kc)  vh = Reshape(ve, vc) """ + ATTEND,
        (2, 3, 5, 5), SEQUENCE, **DEPTH, qt=ints(0, 0, 6, 5), kt=ints(0, 0, 2, 5), axis2=ints(2),
        times=ints(1, 1, 3, 1, 1), zero=ints(0), six=ints(6), five=ints(5), merged=ints(0, 0, 30),
        wq=(6, 30), wk=(6, 10), wv=(6, 10), wo=(30, 6),
    ),
    "rotary halves": case(
        """q = MatMul(x, wq)  r = Reshape(q, target)  one = Slice(r, s0, e3, axis3)
        two = Slice(r, s3, end, axis3)  neg = Neg(two)
        turned = Concat<axis=3>(neg, one)  c = Mul(r, cos)  s = Mul(turned, sin)
        z = Add(c, s)  m = Reshape(z, merged)  y = MatMul(m, wo)""",
        (4, 3), SEQUENCE, target=ints(0, 0, 4, 6), merged=ints(0, 0, 24), s0=ints(0), e3=ints(3), s3=ints(3),
        end=ints(2**63 - 1), axis3=ints(3), cos=(6,), sin=(6,), wq=(6, 24), wo=(24, 6),
    ),
    "windows": case(
        """h = Conv(x, w)  r = Reshape(h, cut)  m = Transpose<perm=[0, 2, 4, 3, 5, 1]>(r)
        v = Reshape(m, windows)  q = MatMul(v, wq)  a = Relu(q)  u = MatMul(a, wu)  z = Reshape(u, back)
        n = Transpose<perm=[0, 5, 1, 3, 2, 4]>(z)  i = Reshape(n, image)  y = Conv(i, wo)""",
        (10, 7, 12), IMAGE, w=(10, 3, 1, 1), cut=ints(0, 10, 2, 4, 2, 4), windows=ints(-1, 16, 10),
        wq=(10, 7), wu=(7, 12), back=ints(-1, 2, 2, 4, 4, 12), image=ints(-1, 12, 8, 8), wo=(4, 12, 1, 1),
    ),
    "pixels from channels": case(
        """h = Conv(x, w)  r = Reshape(h, cut)  m = Transpose<perm=[0, 1, 4, 2, 5, 3]>(r)
        i = Reshape(m, image)  y = Conv(i, wo)""",
        (5,), IMAGE, w=(20, 3, 1, 1), cut=ints(0, 5, 2, 2, 8, 8), image=ints(0, 5, 16, 16), wo=(4, 5, 1, 1),
    ),
    "channel shuffle": case(
        """h = Conv<group=1>(x, w)  r = Reshape(h, cut)  m = Transpose<perm=[0, 2, 1, 3, 4]>(r)
        i = Reshape(m, image)  y = Conv(i, wo)""",
        (2, 6), IMAGE, w=(12, 3, 1, 1), cut=ints(0, 2, 6, 8, 8), image=ints(0, 12, 8, 8), wo=(4, 12, 1, 1),
    ),
    "dense connections": case(
        """a = Conv(x, wa)  b = Conv(a, wb)  ab = Concat<axis=1>(a, b)  c = Conv(ab, wc)
        abc = Concat<axis=1>(ab, c)  y = Conv(abc, wo)""",
        (5, 4, 3), IMAGE, wa=(5, 3, 1, 1), wb=(4, 5, 1, 1), wc=(3, 9, 1, 1), wo=(4, 12, 1, 1),
    ),
    "tied embedding": case(
        """h = MatMul(x, w)  a = Relu(h)  t = Transpose(w)  y = MatMul(a, t)""", (9,), SEQUENCE, w=(6, 9)
    ),
    "recurrence of one layer": case(
        """h = MatMul(x, w)  a = Tanh(h)  b = MatMul(a, u)  c = Tanh(b)  d = MatMul(c, u)  e = Add(d, h)
        y = MatMul(e, wo)""",
        (8,), SEQUENCE, w=(6, 8), u=(8, 8), wo=(8, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("one", CASES.values(), ids=CASES.keys())
def test_classes_of_known_structures(one: Case) -> None:
    analysis = analyzed(one.model(seed=0), AS_WRITTEN).analysis
    assert analysis is not None
    assert analysis.opaque == []
    assert sorted(found.size for found in analysis.classes) == sorted(one.units)
    for seed in range(4):
        assert check_law(one.model(seed), seed, passes=AS_WRITTEN).difference <= 1e-5
