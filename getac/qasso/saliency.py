"""How much a unit matters: one number per unit, from its group x_g and the gradient of the loss.

    magnitude            ||x_g||
    average_magnitude    ||x_g|| / sqrt(n_g)       n_g: how many numbers the group has
    cosine               1 - cos(x_g, grad)        0: a descent step goes straight towards zero
    taylor               |x_g . grad|              the loss without the unit, to first order
    taylor2              sum of (x grad)^2 / 2     to second order, Fisher's diagonal in place of the Hessian
    mixed                the mean of the five, each in units of its own mean

In the mixture, norms are relative to the mean of their class, because layers differ in their fan-in and
nothing else; changes of the loss compare across layers and are relative to the mean of all units. The cosine
needs no unit. Mixing these five is GETA's idea (arXiv 2502.16638), how they are normalised is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from getac.errors import BadInputError, OptionError
from getac.qasso.units import Entry, UnitTable, along

__all__ = ["SALIENCIES", "Saliency", "per_cost", "score_units"]

Saliency = Callable[[UnitTable, nn.Module], Tensor]
"""A table and its module -> one number per unit, shape (table.size,); the least go first."""


class Sums:
    """Sums over the group of every unit, each computed when it is first asked for."""

    def __init__(self, table: UnitTable) -> None:
        self.table = table

    @cached_property
    def squares(self) -> Tensor:
        return self.table.sums(lambda entry: squares_along(entry.parameter, entry.dimension))

    @cached_property
    def gradient_squares(self) -> Tensor:
        return self.table.sums(lambda entry: squares_along(gradient(entry), entry.dimension))

    @cached_property
    def products(self) -> Tensor:
        """x . grad"""
        return self.table.sums(lambda entry: along(product(entry), entry.dimension, Tensor.sum))

    @cached_property
    def squared_products(self) -> Tensor:
        return self.table.sums(lambda entry: squares_along(product(entry), entry.dimension))

    @property
    def norms(self) -> Tensor:
        return self.squares.sqrt()


def squares_along(tensor: Tensor, dimension: int) -> Tensor:
    return along(tensor, dimension, torch.linalg.vector_norm).square()


def gradient(entry: Entry) -> Tensor:
    grad = entry.parameter.grad
    if grad is None:
        return torch.zeros_like(entry.parameter)
    return grad.to_dense() if grad.is_sparse else grad  # of an embedding that was made with sparse=True


def product(entry: Entry) -> Tensor:
    return entry.parameter * gradient(entry)


def magnitude(of: Sums) -> Tensor:
    return of.norms


def average_magnitude(of: Sums) -> Tensor:
    return of.norms / of.table.counts.sqrt()


def cosine(of: Sums) -> Tensor:
    norms = of.norms * of.gradient_squares.sqrt()
    return 1 - torch.where(norms > 0, of.products / norms, 0).clamp(-1, 1)


def taylor(of: Sums) -> Tensor:
    return of.products.abs()


def taylor2(of: Sums) -> Tensor:
    return of.squared_products / 2


def mixed(of: Sums) -> Tensor:
    norms = (relative_to_class(one(of), of.table) for one in (magnitude, average_magnitude))
    changes = (relative(one(of)) for one in (taylor, taylor2))
    return torch.stack([*norms, cosine(of), *changes]).mean(0)


def relative(scores: Tensor) -> Tensor:
    """In units of the mean; zeros stay."""
    mean = scores.mean()
    return torch.where(mean > 0, scores / mean, 0)


def relative_to_class(scores: Tensor, table: UnitTable) -> Tensor:
    sums = scores.new_zeros(len(table.classes)).index_add_(0, table.class_of, scores)
    sizes = scores.new_tensor([one.size for one in table.classes])
    means = (sums / sizes)[table.class_of]
    return torch.where(means > 0, scores / means, 0)


def built_in(compute: Callable[[Sums], Tensor]) -> Saliency:
    return lambda table, _: compute(Sums(table))


SALIENCIES: Mapping[str, Saliency] = {
    one.__name__: built_in(one) for one in (magnitude, average_magnitude, cosine, taylor, taylor2, mixed)
}


@torch.no_grad()
def score_units(
    table: UnitTable,
    saliency: str | Saliency = "mixed",
    costs: Mapping[str, float] | None = None,
    exponent: float = 1.0,
) -> Tensor:
    """Scores every unit, from the parameters and the gradients as they are.

    Args:
        saliency: A name of `SALIENCIES`, or a function of the table and the module.
        costs: Name of a class -> what removing one unit saves (`getac.qasso.costs`, or measured seconds);
            scores are then divided by it.
        exponent: The power of the costs that they are divided by.

    Returns:
        Shape (table.size,).

    Raises:
        OptionError: There is no saliency of that name.
        BadInputError: A function returned something else than one number per unit, or NaN; a cost is
            missing, or not positive for any class.
    """
    if isinstance(saliency, str) and saliency not in SALIENCIES:
        names = ", ".join(SALIENCIES)
        raise OptionError(f"there is no saliency {saliency!r}", required=f"{names}, or a function")
    scores = (SALIENCIES[saliency] if isinstance(saliency, str) else saliency)(table, table.module)
    check_scores(scores, table, saliency)
    scores = scores if scores.is_floating_point() else scores.float()  # ranks, counts
    return scores if costs is None else per_cost(scores, table, costs, exponent)


def check_scores(scores: object, table: UnitTable, saliency: str | Saliency) -> None:
    name = saliency if isinstance(saliency, str) else getattr(saliency, "__name__", "of the user")
    if not isinstance(scores, Tensor) or scores.shape != (table.size,):
        raise BadInputError(
            "a saliency is not one number per unit",
            where=f"the saliency {name}",
            required=f"a tensor of shape ({table.size},)",
            found=f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__,
        )
    if scores.isnan().any():
        at = set(table.class_of[scores.isnan()].tolist())
        raise BadInputError(
            "a saliency is NaN",
            where=f"the saliency {name}",
            found=f"NaN in {', '.join(table.classes[i].name for i in sorted(at))}",
            hint="parameters or gradients are not finite: lower the learning rate",
        )


def per_cost(scores: Tensor, table: UnitTable, costs: Mapping[str, float], exponent: float = 1.0) -> Tensor:
    """Scores per cost^exponent saved, in units of the mean cost of all units; what saves nothing goes last.

    Raises:
        BadInputError: A class has no cost, or none has a positive one.
    """
    missing = [one.name for one in table.classes if one.name not in costs]
    given = [float(costs.get(one.name, 0.0)) for one in table.classes]
    if missing or not any(cost > 0 for cost in given):
        found = f"none for {', '.join(missing)}" if missing else "no positive cost"
        required = "what one unit saves, for each class of the table"
        raise BadInputError("costs do not fit the units", found=found, required=required)
    each = scores.new_tensor(given).clamp(min=0)[table.class_of]
    return torch.where(each > 0, scores * (each.mean() / each).pow(exponent), torch.inf)
