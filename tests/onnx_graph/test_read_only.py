"""Stored arrays that copies of a model share cannot be edited in place."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from getac.onnx_graph.read_only import read_only, seal


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.int8, np.bool_, np.complex128, ml_dtypes.bfloat16, ml_dtypes.int4]
)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_a_view_shows_the_same_and_stays_closed(dtype, shape):
    array = np.ones(shape, dtype)
    view = read_only(array)
    assert view.dtype == array.dtype and view.shape == shape and np.array_equal(view, array)
    assert array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[...] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True


def test_slices_of_other_arrays():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(read_only(array.T[1:]), array.T[1:])
    assert np.shares_memory(read_only(array), array)


@pytest.fixture
def model(build):
    return build("(float[2] x) => (float[2] y) { y = Mul(x, w) }", w=np.ones(2, np.float32))


def test_the_array_of_the_caller_stays_as_it_is(model):
    array = np.full(2, 3, np.float32)
    value = model.graph.initializers["w"]
    value.const_value = ir.Tensor(array, name="w", doc_string="mine", metadata_props={"a": "b"})
    seal(model)
    tensor = value.const_value
    assert (tensor.name, tensor.doc_string, tensor.metadata_props) == ("w", "mine", {"a": "b"})
    assert not tensor.numpy().flags.writeable and array.flags.writeable
    seal(model)
    assert value.const_value is tensor


@pytest.mark.parametrize("cache", [False, True])
def test_tensors_that_are_made_when_they_are_read(model, cache):
    inner = ir.Tensor(np.full(2, 3, np.float32))
    lazy = ir.LazyTensor(lambda: inner, ir.DataType.FLOAT, ir.Shape([2]), name="w", cache=cache)
    value = model.graph.initializers["w"]
    value.const_value = lazy
    seal(model)
    assert not value.const_value.numpy().flags.writeable
    assert value.const_value.tobytes() == inner.tobytes()
    sealed = value.const_value
    seal(model)
    assert value.const_value is sealed


def test_tensors_in_attributes(model):
    node = ir.node("Constant", [], {"value": ir.Tensor(np.ones(2, np.float32))})
    model.graph.insert_before(model.graph[0], node)
    seal(model)
    assert not node.attributes["value"].as_tensor().numpy().flags.writeable
