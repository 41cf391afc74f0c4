"""Files that are whole or not there: everything is written beside its place and renamed into it."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from getac.errors import OutputError
from getac.onnx_graph.edit import NAMED_AFTER_RESULT
from getac.onnx_graph.origin import origin_of

__all__ = ["atomic_write_text", "check_output", "replacing", "same_file", "write_model"]

_EXTERNAL_ABOVE = 3 << 29  # 1.5 GiB of weights: one protobuf message ends at 2 GiB
_MAX_PROTO_BYTES = (1 << 31) - 1
_INLINE_BYTES = 256  # smaller tensors stay in the model file, where they may be shapes and scales
_ALIGNMENT = 64


def write_model(
    model: ir.Model, path: str | os.PathLike[str], *, external_data: bool | None = None
) -> list[Path]:
    """Write a model to an ONNX file, atomically; the model is not changed.

    Args:
        model: What to write.
        path: The file to make or replace.
        external_data: Whether the weights go to a file of their own, `<name>.data` beside the model, tensor
            by tensor in constant memory. None: if they exceed 1.5 GiB.

    Returns:
        The files written, the model first.

    Raises:
        OutputError: No such folder, not writable, disk full, a folder, or 2 GiB without external data.
    """
    target = _target(path)
    tensors = _tensors(model)
    _check_not_a_source(target, model)
    if external_data is None:
        external_data = sum(tensor.nbytes for tensor in tensors.values()) > _EXTERNAL_ABOVE
    if not external_data:
        data = _serialize(model, {}, target)
        _write(target, lambda file: file.write(data))
        return [target]
    data_path = _target(target.with_name(f"{target.name}.data"))
    _check_not_a_source(data_path, model)
    layout = _lay_out(tensors)
    proto = _serialize(model, _placeholders(layout, data_path.name), target)
    with _temporary(data_path) as data_file, _temporary(target) as model_file:
        _fill(data_file, lambda file: _write_tensors(file, layout))
        _fill(model_file, lambda file: file.write(proto))
        _rename_both(data_file, data_path, model_file, target)
    return [target, data_path]


def atomic_write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file (UTF-8) whole or not at all.

    Raises:
        OutputError: As `write_model`.
    """
    target = _target(path)
    _write(target, lambda file: file.write(text.encode()))
    return target


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the name of an empty file beside `path`; what is written there takes its place in the end.

    Raises:
        OutputError: As `write_model`.
    """
    target = _target(path)
    with _temporary(target) as temporary:
        _fill(temporary, lambda file: file.write(b""))
        try:
            mode = stat.S_IMODE(temporary.stat().st_mode)
        except OSError as error:
            raise _failure(target, error) from error
        yield temporary
        try:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(mode)  # whoever wrote it may have made a file of its own
        except OSError as error:
            raise _failure(target, error) from error
        _keep_mode(temporary, target)
        _rename(temporary, target)


def check_output(path: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]] = ()) -> None:
    """Check, before any work is done, that `path` can be written and is none of the inputs.

    Raises:
        OutputError: `path` is an input (by any of its names) or a folder, or cannot be written.
    """
    target = _target(path)
    for source in inputs:
        if same_file(target, source):
            raise OutputError(
                "the output is the same file as an input",
                where=str(path),
                found=f"input {source}",
                hint="choose another output file",
            )
    with _temporary(target) as probe:
        _fill(probe, lambda file: file.write(b""))


# ---- tensors ----


def _tensors(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    values = itertools.chain.from_iterable(graph.initializers.values() for graph in model.graphs())
    return {value: value.const_value for value in values if value.const_value is not None}


def _lay_out(tensors: dict[ir.Value, ir.TensorProtocol]) -> dict[ir.Value, tuple[int, ir.TensorProtocol]]:
    """An offset for every tensor that goes to the data file, one for a tensor that two initializers share."""
    layout: dict[ir.Value, tuple[int, ir.TensorProtocol]] = {}
    offsets: dict[int, int] = {}
    end = 0
    for value, tensor in tensors.items():
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < _INLINE_BYTES:
            continue
        if id(tensor) not in offsets:
            offsets[id(tensor)] = end = -(-end // _ALIGNMENT) * _ALIGNMENT
            end += tensor.nbytes
        layout[value] = (offsets[id(tensor)], tensor)
    return layout


def _placeholders(
    layout: dict[ir.Value, tuple[int, ir.TensorProtocol]], location: str
) -> dict[ir.Value, ir.TensorProtocol]:
    return {
        value: ir.ExternalTensor(
            location,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
        )
        for value, (offset, tensor) in layout.items()
    }


def _write_tensors(file: BinaryIO, layout: dict[ir.Value, tuple[int, ir.TensorProtocol]]) -> None:
    for offset, tensor in dict(layout.values()).items():
        file.write(b"\0" * (offset - file.tell()))
        if isinstance(tensor, ir.ExternalTensor):
            tensor.tofile(file)  # in pieces, without mapping it
        else:
            file.write(tensor.tobytes())


def _check_not_a_source(output: Path, model: ir.Model) -> None:
    for file in origin_of(model).files:
        if same_file(output, file):
            raise OutputError(
                "the output is a file that the model reads its weights from",
                where=str(output),
                hint="choose another output file",
            )


def _serialize(model: ir.Model, placeholders: dict[ir.Value, ir.TensorProtocol], target: Path) -> bytes:
    """The model file's bytes. Tensors without a placeholder are written into it, wherever they come from."""
    proto = onnx.ModelProto()
    originals = _tensors(model)
    try:
        for value, tensor in originals.items():
            value.const_value = placeholders.get(value) or _in_memory(tensor)
        proto = ir.to_proto(model)
    finally:
        for value, tensor in originals.items():
            value.const_value = tensor
    proto.producer_name, proto.producer_version = "getac", _version()
    _drop_implied_types(proto.graph)
    _drop_implied_names(proto.graph)
    if proto.ByteSize() > _MAX_PROTO_BYTES:
        raise OutputError(
            "the model does not fit into one ONNX file",
            where=str(target),
            required="at most 2 GiB",
            found=f"{proto.ByteSize()} bytes",
            hint="write it with external data",
        )
    return bytes(proto.SerializeToString())


def _drop_implied_types(graph: onnx.GraphProto) -> None:
    """Leaves out what stored tensors and ONNX's own operators say themselves; shapes of results stay.

    A quantized network of narrow layers has many small tensors: this is some percent of its file.
    """
    stored = {tensor.name for tensor in graph.initializer}
    typed = {name for node in graph.node if node.domain in ("", "ai.onnx") for name in node.output}
    kept = [
        value
        for value in graph.value_info
        if value.name not in stored
        and not (value.name in typed and value.type.HasField("tensor_type") and not _has_shape(value))
    ]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _drop_implied_names(graph: onnx.GraphProto) -> None:
    """Pairs that are called like what they make need not say it twice: reading gives them that name again."""
    for node in graph.node:
        if node.op_type in NAMED_AFTER_RESULT and node.name == node.output[0]:
            node.ClearField("name")


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def _in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)


def _version() -> str:
    try:
        return importlib.metadata.version("getac")
    except importlib.metadata.PackageNotFoundError:
        return "0"


# ---- files ----


def _target(path: str | os.PathLike[str]) -> Path:
    """The file behind `path` (a link keeps pointing to it), if it is one that can be made or replaced."""
    if not isinstance(path, str | os.PathLike):
        raise OutputError("the output is no path", found=type(path).__name__, required="the name of a file")
    try:
        target = Path(os.path.realpath(path))
        _check_place(target, path)
    except ValueError as error:  # a zero byte
        raise OutputError("the output is no path", where=repr(path), found=str(error)) from error
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise _failure(Path(path), error) from error
    return target


def _check_place(target: Path, path: str | os.PathLike[str]) -> None:
    if target.is_dir():
        raise OutputError("the output is a folder", where=str(path), required="the name of a file")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise OutputError("the output is not a regular file", where=str(path), required="the name of a file")
    if not target.parent.is_dir():
        raise OutputError(
            "the output's folder does not exist", where=str(path), found=f"no folder {target.parent}"
        )


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths name one file, which need not exist."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _write(target: Path, fill: Callable[[BinaryIO], object]) -> None:
    with _temporary(target) as temporary:
        _fill(temporary, fill)
        _keep_mode(temporary, target)
        _rename(temporary, target)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A name in the folder of `target`, on the same disk; no file of that name is left behind."""
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
    finally:
        _remove(temporary)


def _remove(file: Path) -> None:
    """Removes what may be there.

    A read-only disk refuses to remove even what is not there. What led here is the error to tell, and of the
    cleaning up after it there is nothing to say.
    """
    with suppress(OSError):
        os.unlink(file)


def _fill(temporary: Path, fill: Callable[[BinaryIO], object]) -> None:
    try:
        with open(temporary, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _failure(temporary.parent, error) from error


def _rename(temporary: Path, target: Path) -> None:
    try:
        os.replace(temporary, target)
    except OSError as error:
        raise _failure(target, error) from error


def _keep_mode(temporary: Path, target: Path) -> None:
    """Who may read and write a file that is replaced stays as it was."""
    try:
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
    except OSError as error:
        raise _failure(target, error) from error


def _rename_both(data_file: Path, data_path: Path, model_file: Path, target: Path) -> None:
    """The data first: a model must never point to data that is not there. Back again if the model fails."""
    _keep_mode(data_file, data_path)
    _keep_mode(model_file, target)
    with _temporary(data_path) as old_data:
        if data_path.exists():
            _rename(data_path, old_data)
        try:
            _rename(data_file, data_path)
            _rename(model_file, target)
        except OutputError:
            _remove(data_path)
            if old_data.exists():
                _rename(old_data, data_path)
            raise


def _failure(where: Path, error: OSError) -> OutputError:
    return OutputError(
        "the output cannot be written",
        where=str(where),
        found=error.strerror or str(error),
        hint="check the free space and the permissions of the folder",
    )
