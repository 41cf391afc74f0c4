"""The numbers of a module under their names, and whether those of a file are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from getac.errors import BadInputError

__all__ = ["check_same", "copy_into", "once", "stored_tensors", "unchanged_on_failure"]


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and the buffers that are saved, by all of their names."""
    state = module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors by their first names alone."""
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), name)
    return {name: tensors[name] for name in names.values()}


def check_same(
    own: Mapping[str, Tensor], saved: Mapping[str, Tensor], *, cut: bool, model: str, path: str
) -> None:
    """Checks that the tensors of a file belong to a module.

    Args:
        own: The module's, tied ones by all of their names.
        saved: The file's, tied ones by one of them.
        cut: Whether the module is cut already as the file's was. If not, its tensors may be larger, and it
            may have others that its graph does not read.
        model: What the module was made of.

    Raises:
        BadInputError: They differ in names, shapes or kinds of numbers.
    """
    wrong = list(differences(own, saved, cut))
    if wrong:
        more = f" (and {len(wrong) - 1} more of {len(saved)} tensors)" if len(wrong) > 1 else ""
        raise BadInputError(
            "the checkpoint is one of another model",
            where=path,
            found=wrong[0] + more,
            required=f"the tensors of this {model}",
            hint="make the model with the code and the settings that it was trained with",
        )


def differences(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], cut: bool) -> Iterator[str]:
    yield from (f"{name} is not in the model" for name in saved if name not in own)
    for name in (name for name in own if name in saved):
        here, there = own[name].shape, saved[name].shape
        if not (here == there if cut else fits_into(there, here)):
            yield f"{name} has shape {tuple(here)} in the model, {tuple(there)} in the file"
        if not is_cast(own[name].dtype, saved[name].dtype):
            yield f"{name} is {own[name].dtype} in the model, {saved[name].dtype} in the file"
    if cut:
        known = {id(own[name]) for name in saved if name in own}
        yield from (f"{n} is not in the file" for n, one in once(own).items() if id(one) not in known)


def is_cast(one: torch.dtype, other: torch.dtype) -> bool:
    """Whether a module that was cast may have the one type for the other: floats stay floats."""
    kinds = [(dtype.is_floating_point, dtype.is_complex) for dtype in (one, other)]
    return one == other or (kinds[0] == kinds[1] and any(kinds[0]))


def fits_into(small: torch.Size, large: torch.Size) -> bool:
    pairs = zip(small, large, strict=False)
    return len(small) == len(large) and all(size <= whole for size, whole in pairs)


@contextmanager
def unchanged_on_failure(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Tensors that have been cut have their whole content again if something fails later."""
    before = [(tensor, tensor.data, tensor.grad) for tensor in tensors]
    try:
        yield
    except BaseException:
        for tensor, data, grad in before:
            tensor.grad = None  # of the other shape
            tensor.data, tensor.grad = data, grad
        raise


@torch.no_grad()
def copy_into(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Writes the numbers of a file into a module; a module that was cast is cast again."""
    for name, tensor in saved.items():
        if own[name].dtype != tensor.dtype:
            own[name].data = own[name].data.to(tensor.dtype)
        own[name].copy_(tensor)
