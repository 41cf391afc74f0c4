"""All units of a module in one numbering, and where each lies in the parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, fx, nn

from getac.axes.analysis import Analysis, PruningClass
from getac.fx_graph.view import FxView
from getac.qasso.sides import sides_of
from getac.training.quantizers import PlacedQuantizer

__all__ = ["Entry", "Rows", "UnitTable", "along"]


@dataclass(frozen=True, eq=False)
class Entry:
    """A dimension of a parameter in which units lie.

    Args:
        owners: Which unit owns each index, -1 for none; shape (layers, size). There are several layers where
            an index belongs to units of several classes: to a head and to a dimension of all heads.
        quantizer: What rounds the parameter.
        steers: Whether the steps of the quantizer belong to the units here: one per index of this
            dimension, or one for the whole parameter.
    """

    parameter: nn.Parameter
    name: str
    dimension: int
    owners: Tensor
    quantizer: PlacedQuantizer | None
    steers: bool


@dataclass(frozen=True, eq=False)
class Rows:
    """Where some chosen units lie in one entry.

    Args:
        index: The indices of the entry's dimension that they own; shape (rows,).
        owners: Which of the chosen units own them, counted among the chosen; their number for none;
            shape (layers, rows).
    """

    entry: Entry
    index: Tensor
    owners: Tensor

    def gather(self, tensor: Tensor, out: Tensor | None = None) -> Tensor:
        """A copy of these rows of the parameter, or of a tensor that is shaped alike."""
        return torch.index_select(tensor.detach(), self.entry.dimension, self.index, out=out)

    @torch.no_grad()
    def fill(self, tensor: Tensor) -> None:
        """Sets these rows of the parameter, or of a tensor that is shaped alike, to zero."""
        tensor.index_fill_(self.entry.dimension, self.index, 0)


@dataclass(frozen=True, eq=False)
class UnitTable:
    """The units of all classes that training can zero, numbered one class after the other.

    A unit's group x_g is what its entries hold: zero there, the module computes what it computes without
    the unit. Classes whose units cannot be zeroed so are `excluded`, with the reason.

    Args:
        offsets: The number of the first unit of each class.
        size: How many units there are.
    """

    module: fx.GraphModule
    analysis: Analysis
    classes: Sequence[PruningClass]
    offsets: Sequence[int]
    size: int
    entries: Sequence[Entry]
    excluded: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, module: fx.GraphModule, analysis: Analysis, trained_by: Collection[Tensor] | None = None
    ) -> UnitTable:
        """Numbers the units of an analysed module; after a regeneration there is a new table to make.

        Args:
            trained_by: A set of the parameters that an optimizer trains; None: all that require gradients.
        """
        sides = sides_of(analysis, trained_by)
        classes = [one for one in analysis.classes if one.name in sides.members]
        offsets = np.cumsum([0, *(one.size for one in classes)]).tolist()
        owners: dict[tuple[object, int], list[np.ndarray]] = {}
        for one, offset in zip(classes, offsets, strict=False):
            for member in sides.members[one.name]:
                layers = owners.setdefault((member.parameter, member.dimension), [])
                for owner in member.owners(one.atom):
                    add_layer(layers, np.where(owner >= 0, owner + offset, -1))
        entries = entries_of(analysis, owners)
        return cls(module, analysis, classes, offsets[:-1], offsets[-1], entries, sides.excluded)

    @property
    def device(self) -> torch.device:
        return self.entries[0].parameter.device if self.entries else torch.device("cpu")

    def units_of(self, one: int) -> slice:
        """The units of a class, given by its position."""
        return slice(self.offsets[one], self.offsets[one] + self.classes[one].size)

    @cached_property
    def class_of(self) -> Tensor:
        """The position of each unit's class; shape (size,)."""
        sizes = torch.tensor([one.size for one in self.classes], dtype=torch.long)
        return torch.repeat_interleave(sizes).to(self.device)

    @cached_property
    def counts(self) -> Tensor:
        """How many numbers each unit's group has; shape (size,)."""
        return self.sums(lambda entry: along(torch.ones_like(entry.parameter), entry.dimension, Tensor.sum))

    @cached_property
    def _targets(self) -> Tensor:
        """The unit that each entry of `sums` goes to; the one after the last for none."""
        flat = [entry.owners.reshape(-1).to(self.device) for entry in self.entries]
        found = torch.cat(flat) if flat else torch.empty(0, dtype=torch.long)
        return torch.where(found < 0, self.size, found)

    @torch.no_grad()
    def sums(self, per_index: Callable[[Entry], Tensor]) -> Tensor:
        """Adds up, over each unit's group, what is known for each index of an entry's dimension.

        Args:
            per_index: Entry -> one number per index, shape (size of the dimension,).

        Returns:
            One number per unit, shape (size,).
        """
        parts = [per_index(one).expand(len(one.owners), -1).reshape(-1) for one in self.entries]
        found = torch.cat([part.to(self.device) for part in parts]) if parts else torch.zeros(0)
        return found.new_zeros(self.size + 1).index_add_(0, self._targets, found)[: self.size]

    def rows(self, units: Tensor) -> list[Rows]:
        """Where units lie, given by their numbers; entries without any are left out."""
        local = torch.full((self.size + 1,), len(units), device=self.device)  # -1, for none, is the last
        local[units.to(self.device)] = torch.arange(len(units), device=self.device)
        found = []
        for entry in self.entries:
            owners = local[entry.owners.to(self.device)]
            index = (owners < len(units)).any(0).nonzero()[:, 0]
            if len(index):
                found.append(Rows(entry, index.to(entry.parameter.device), owners[:, index]))
        return found

    def zero(self) -> Tensor:
        """Which units are exactly zero; shape (size,), bools."""
        return self.sums(lambda entry: along(entry.parameter != 0, entry.dimension, Tensor.sum).float()) == 0

    def keep(self, removed: Tensor) -> dict[str, np.ndarray]:
        """Name of a class -> which of its units stay, as `getac.regenerate` wants it.

        Args:
            removed: The numbers of the units that go.
        """
        stays = np.ones(self.size, dtype=np.bool_)
        stays[removed.cpu().numpy()] = False
        keep = {one.name: stays[self.units_of(i)] for i, one in enumerate(self.classes)}
        return {name: mask for name, mask in keep.items() if not mask.all()}


def add_layer(layers: list[np.ndarray], owners: np.ndarray) -> None:
    """Lays owners into the first layer in which nobody else has their indices."""
    for layer in layers:
        if not ((layer >= 0) & (owners >= 0)).any():
            np.maximum(layer, owners, out=layer)
            return
    layers.append(owners)


def entries_of(analysis: Analysis, owners: Mapping[tuple[object, int], list[np.ndarray]]) -> list[Entry]:
    view = analysis.view
    assert isinstance(view, FxView)
    entries, steered = [], set()
    for (value, dimension), layers in owners.items():
        parameter, quantizer = view.tensor(value), view.quantizers.get(value)
        assert isinstance(parameter, nn.Parameter)
        steers = quantizer is not None and quantizer.axis in (None, dimension) and value not in steered
        if steers:
            steered.add(value)
        index = torch.from_numpy(np.stack(layers)).to(parameter.device)
        entries.append(Entry(parameter, view.name_of(value), dimension, index, quantizer, steers))
    return entries


def along(tensor: Tensor, dimension: int, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduces all other dimensions; half precision is added up in float32."""
    rest = [i for i in range(tensor.ndim) if i != dimension]
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return reduce(wide, dim=rest) if rest else reduce(wide[:, None], dim=1)
