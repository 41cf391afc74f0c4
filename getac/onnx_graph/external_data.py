"""Tensor data of a model file: checked before anything is read, and set aside while the graph is rewritten.

A file can say that a tensor lies in another file, and a hostile file says `../../etc/passwd`, a pipe, or an
offset past the end. So every tensor of the model, in attributes, subgraphs and functions too, is checked
first. Then the big ones make room for placeholders: what the importer does with the graph (inlining,
operator-set conversion) costs no weight memory and meets no 2 GiB limit.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from getac.errors import InvalidModelError

__all__ = ["MappedTensor", "ModelFolders", "WeightTable", "placeholder_of", "put_back", "set_aside"]

WeightTable = dict[str, ir.TensorProtocol]
"""Placeholder location -> the tensor that it stands for."""

_SMALL = 1024  # elements; below this a tensor may carry shapes, axes or scales, which conversion reads
_PLACEHOLDER = "getac-placeholder:"
_TENSOR_CARRIERS = frozenset(
    f"onnx.{name}Proto" for name in ("Graph", "Node", "Attribute", "Function", "Tensor")
)
_TYPED_FIELD: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data",
    onnx.TensorProto.COMPLEX64: "float_data",
    onnx.TensorProto.DOUBLE: "double_data",
    onnx.TensorProto.COMPLEX128: "double_data",
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.UINT32: "uint64_data",
    onnx.TensorProto.UINT64: "uint64_data",
    onnx.TensorProto.STRING: "string_data",
}
_COMPLEX = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)


@dataclass(frozen=True)
class ModelFolders:
    """The folders in which a model's external data may lie.

    Args:
        given: The real path of the folder of the path as the user gave it.
        real: The folder of the model file's real path. It differs from `given` where the model is a symbolic
            link, as in the Hugging Face cache (snapshots/x/model.onnx -> ../../blobs/h).
    """

    given: Path
    real: Path

    @classmethod
    def of(cls, model_path: str | os.PathLike[str]) -> ModelFolders:
        """The folders of a model file."""
        absolute = os.path.abspath(model_path)
        return cls(Path(os.path.realpath(os.path.dirname(absolute))), Path(os.path.realpath(absolute)).parent)

    def locate(self, location: str, where: str) -> Path:
        """The real path of a file of external data.

        Raises:
            InvalidModelError: The location is absolute, contains `..`, leaves both folders through a symbolic
                link, or is no regular file with a single name.
        """
        required = "a relative path, without '..', to a file in the model's folder"
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location or os.path.isabs(location) or ".." in parts:
            raise _refusal("external data lies outside the model's folder", where, required, repr(location))
        candidates = [folder / location for folder in dict.fromkeys((self.given, self.real))]
        path = next((c for c in candidates if os.path.exists(c)), None)
        if path is None:
            raise InvalidModelError(
                "the file of external data is missing",
                where=where,
                required=str(candidates[0]),
                found="no such file",
                hint="copy the data file beside the model, under the name that the model expects",
            )
        resolved = Path(os.path.realpath(path))
        if not any(resolved.is_relative_to(folder) for folder in (self.given, self.real)):
            found = f"{location!r}, a link to {resolved}"
            raise _refusal("external data lies outside the model's folder", where, required, found)
        _check_plain_file(resolved, where)
        return resolved


class MappedTensor(ir.ExternalTensor):
    """An external tensor whose file is mapped once for all tensors in it.

    The base class maps the file once per tensor, and a thousand tensors exhaust the file descriptors.
    """

    __slots__ = ("_mapping",)

    def __init__(
        self,
        mapping: np.memmap[Any, Any] | None,
        path: Path,
        offset: int,
        length: int,
        header: onnx.TensorProto,
    ) -> None:
        # The real folder as base: the folder of a link would fail the base class's check in the cache layout.
        super().__init__(
            path.name,
            offset,
            length,
            ir.DataType(header.data_type),
            shape=ir.Shape(header.dims),
            name=header.name,
            base_dir=path.parent,
        )
        self._mapping = mapping

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values, in the mapped file; a copy where they are packed."""
        if self._mapping is None or self.dtype.bitwidth < 8:
            return super().numpy()
        dtype = self.dtype.numpy().newbyteorder("<")
        array = np.frombuffer(self._mapping, dtype, count=self.size, offset=self.offset or 0)
        return array.reshape(self.shape.numpy())

    def __array__(self, dtype: Any = None) -> np.ndarray[Any, Any]:
        """The values, in the mapped file."""
        return self.numpy().__array__(dtype)

    def tobytes(self) -> bytes:
        """The bytes as they are in the file."""
        if self._mapping is None:
            return b""
        start = self.offset or 0
        return self._mapping[start : start + (self.length or 0)].tobytes()


def set_aside(
    proto: onnx.ModelProto, folders: ModelFolders | None
) -> tuple[onnx.ModelProto, WeightTable, frozenset[Path]]:
    """Check every tensor of a model, and copy the model with placeholders in the place of its big tensors.

    Args:
        proto: The model; it is not changed. The table refers to its big tensors without copying them.
        folders: Where external data may lie; None if the model has no folder, so no external data either.

    Returns:
        The light copy, with external tensors of up to 1024 elements read into it, and what the placeholders
        stand for. External tensors in the table are memory-mapped when they are used. Then the files of
        external data, those that were read included.

    Raises:
        InvalidModelError: A tensor whose data is missing, outside the folder, or not of the size that its
            type and shape say; it names the tensor and the file.
    """
    copier = _Copier(folders)
    light = onnx.ModelProto()
    copier.copy(proto, light, "the model")
    return light, copier.table, frozenset(copier.files)


def put_back(model: ir.Model, table: WeightTable) -> None:
    """Replace the placeholders in `model` by the tensors that they stand for."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _original(value.const_value, table)
        for node in graph:
            # A constant of the main graph will be an initializer; elsewhere writers know no external data.
            lazy = graph is model.graph and node.op_type == "Constant"
            for attribute in [a for a in node.attributes.values() if not a.is_ref()]:
                if attribute.type == ir.AttributeType.TENSOR:
                    restored = _original(attribute.as_tensor(), table, lazy)
                    node.attributes[attribute.name] = ir.AttrTensor(attribute.name, restored)
                elif attribute.type == ir.AttributeType.TENSORS:
                    tensors = [_original(tensor, table, lazy) for tensor in attribute.as_tensors()]
                    node.attributes[attribute.name] = ir.AttrTensors(attribute.name, tensors)


def placeholder_of(tensor: onnx.TensorProto) -> str | None:
    """The table's key of a big tensor that was set aside, None for a tensor that was not."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), None)


def _element_count(tensor: onnx.TensorProto) -> int:
    """The number of elements that the tensor's shape says."""
    return math.prod(tensor.dims)


def _original(tensor: ir.TensorProtocol, table: WeightTable, lazy: bool = True) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    original = table[str(tensor.location)]
    if lazy or not isinstance(original, ir.ExternalTensor):
        return original
    return ir.Tensor(original.numpy(), dtype=original.dtype, name=original.name)


@dataclass(frozen=True)
class _Copier:
    """Copies a model message by message, checks its tensors, and sets the big ones aside in `table`."""

    folders: ModelFolders | None
    table: WeightTable = field(default_factory=dict)
    mappings: dict[Path, np.memmap[Any, Any]] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)

    def copy(self, source: Message, target: Message, where: str) -> None:
        """Copy a message field by field, descending only where tensors can be."""
        target.SetInParent()
        for descriptor, value in source.ListFields():
            place: Any = getattr(target, descriptor.name)
            if _leads_to_tensors(descriptor):
                for item, empty in _pairs(value, place):
                    if isinstance(item, onnx.TensorProto):
                        self._copy_tensor(
                            item, empty, f"tensor {item.name!r} of {where}" if item.name else where
                        )
                    else:
                        _check_attribute(item, where)
                        self.copy(item, empty, _describe(item, where))
            elif isinstance(value, Message):
                place.CopyFrom(value)
            elif hasattr(value, "extend"):
                place.extend(value)
            else:
                setattr(target, descriptor.name, value)

    def _copy_tensor(self, source: onnx.TensorProto, target: onnx.TensorProto, where: str) -> None:
        bits = _bits_per_element(source, where)
        tensor: ir.TensorProtocol
        if source.data_location == onnx.TensorProto.EXTERNAL:
            tensor = self._external_tensor(source, bits, where)
        else:
            _check_inline_data(source, bits, where)
            if _element_count(source) <= _SMALL or not bits:
                target.CopyFrom(source)
                return
            tensor = ir.serde.TensorProtoTensor(source)
        target.name, target.data_type = source.name, source.data_type
        target.dims.extend(source.dims)
        if _element_count(source) <= _SMALL:
            target.raw_data = tensor.tobytes()
            return
        location = f"{_PLACEHOLDER}{len(self.table)}"
        self.table[location] = tensor
        target.data_location = onnx.TensorProto.EXTERNAL
        target.external_data.add(key="location", value=location)

    def _external_tensor(self, tensor: onnx.TensorProto, bits: int, where: str) -> MappedTensor:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = str(entries.get("location", ""))  # bytes where it is no text
        if self.folders is None:
            raise InvalidModelError(
                "external data needs the model's folder",
                where=where,
                found=repr(location),
                hint="read the model from its file, or give its folder",
            )
        if not bits:
            raise InvalidModelError("text cannot be external data", where=where, found=repr(location))
        path = self.folders.locate(location, where)
        self.files.add(path)
        offset, length = _extent(entries, path, _byte_count(tensor, bits), where)
        return MappedTensor(self._map(path, where), path, offset, length, tensor)

    def _map(self, path: Path, where: str) -> np.memmap[Any, Any] | None:
        if path not in self.mappings and path.stat().st_size:
            try:
                self.mappings[path] = np.memmap(path, np.uint8, mode="r")
            except OSError as error:
                message = "the file of external data cannot be read"
                raise InvalidModelError(message, where=f"{where}, file {path}", found=str(error)) from error
        return self.mappings.get(path)


def _leads_to_tensors(descriptor: Any) -> bool:
    return descriptor.message_type is not None and descriptor.message_type.full_name in _TENSOR_CARRIERS


def _pairs(value: Any, place: Any) -> Iterator[tuple[Message, Message]]:
    """The messages of a field, each with an empty one in the same field of the copy."""
    if isinstance(value, Message):
        yield value, place
        return
    for item in value:
        yield item, place.add()


def _describe(message: Message, where: str) -> str:
    if isinstance(message, onnx.NodeProto):
        return f"node {message.name or next(iter(message.output), '')!r} ({message.op_type})"
    if isinstance(message, onnx.FunctionProto):
        return f"function {message.name!r}"
    return where


def _check_attribute(message: Message, where: str) -> None:
    if not isinstance(message, onnx.AttributeProto) or message.ref_attr_name:
        return
    missing = (message.type == message.TENSOR and not message.HasField("t")) or (
        message.type == message.GRAPH and not message.HasField("g")
    )
    if missing or message.type == message.UNDEFINED:
        raise InvalidModelError("an attribute has no value", where=where, found=repr(message.name))


def _bits_per_element(tensor: onnx.TensorProto, where: str) -> int:
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        raise InvalidModelError(
            "a tensor has an unknown element type", where=where, found=f"data_type {tensor.data_type}"
        )
    if any(dim < 0 for dim in tensor.dims):
        raise InvalidModelError(
            "a tensor has a negative dimension", where=where, found=str(list(tensor.dims))
        )
    return 0 if dtype == ir.DataType.STRING else dtype.bitwidth


def _byte_count(tensor: onnx.TensorProto, bits: int) -> int:
    """Bytes of the tensor's data; elements of fewer than 8 bits are packed."""
    return (_element_count(tensor) * bits + 7) // 8


def _check_inline_data(tensor: onnx.TensorProto, bits: int, where: str) -> None:
    if tensor.HasField("raw_data"):
        required, found, unit = _byte_count(tensor, bits), len(tensor.raw_data), "bytes"
    else:
        values = getattr(tensor, _TYPED_FIELD.get(tensor.data_type, "int32_data"))
        required, found, unit = _element_count(tensor), len(values), "values"
        if tensor.data_type in _COMPLEX:
            required *= 2
        elif bits in (2, 4):
            required = _byte_count(tensor, bits)
    if required != found:
        raise InvalidModelError(
            "a tensor's data does not have the size that its type and shape say",
            where=where,
            required=f"{required} {unit} for shape {list(tensor.dims)}",
            found=f"{found} {unit}",
        )


def _extent(entries: dict[str, str], path: Path, required: int, where: str) -> tuple[int, int]:
    """Offset and length in bytes of an entry, inside the file and of the size required."""
    size = path.stat().st_size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else size - offset
    except ValueError as error:
        raise InvalidModelError(
            "an offset or length of external data is no number", where=where, found=str(error)
        ) from error
    where = f"{where}, file {path}"
    if offset < 0 or length < 0 or offset + length > size:
        raise InvalidModelError(
            "external data reaches outside its file",
            where=where,
            required=f"offset and length within {size} bytes",
            found=f"offset {offset}, length {length}",
        )
    if length != required:
        raise InvalidModelError(
            "external data does not have the size that the tensor's type and shape say",
            where=where,
            required=f"{required} bytes",
            found=f"{length} bytes",
        )
    return offset, length


def _check_plain_file(path: Path, where: str) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _refusal("external data is not a regular file", where, "a regular file", str(path))
    if status.st_nlink > 1:
        # An archive can plant a hard link to any file of the same disk; a real path does not show it.
        found = f"{path} with {status.st_nlink} hard links"
        raise _refusal("external data has several names on the disk", where, "a file of its own", found)


def _refusal(message: str, where: str, required: str, found: str) -> InvalidModelError:
    hint = "copy the data into the model's folder and save the model again"
    return InvalidModelError(message, where=where, required=required, found=found, hint=hint)
