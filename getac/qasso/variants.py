"""The base optimizers of QASSO: torch's own, in whose groups the parameters of quantizers stand apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.optim import Optimizer

from getac.errors import OptionError
from getac.qasso.schedule import is_number
from getac.training.quantizers import find_quantizers

__all__ = ["VARIANTS", "base_optimizer", "quantizer_parameters"]

VARIANTS: Mapping[str, type[Any]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
SHOWN_NAMES = 5
STEP_SHARE = 0.01  # of the ranges' learning rate: a step is that much smaller than its range


def base_optimizer(
    module: fx.GraphModule,
    variant: str,
    params: Iterable[Any] | None,
    lr: float | Tensor,
    quantizer_lr: float | Tensor | None,
    step_lr: float | Tensor | None,
    options: Mapping[str, Any],
) -> Optimizer:
    """torch's optimizer on the parameters of a module; its last two groups are the quantizers'.

    Weight decay would pull ranges and steps towards zero, where they mean nothing: their groups have none.

    Args:
        variant: sgd, adam or adamw.
        params: Parameters, or groups of them as torch takes them; None: all of the module.
        quantizer_lr: Of ranges and exponents; None: lr.
        step_lr: Of steps; None: a hundredth of quantizer_lr.
        options: Arguments of torch's class beside these.

    Raises:
        OptionError: An unknown variant or option, a learning rate that is none, a parameter that the module
            does not have.
    """
    kind = VARIANTS.get(variant)
    if kind is None:
        raise OptionError("unknown variant", required=", ".join(VARIANTS), found=repr(variant))
    check_rate("lr", lr)
    of_ranges = lr if quantizer_lr is None else quantizer_lr
    check_rate("quantizer_lr", of_ranges)
    of_steps = of_ranges * STEP_SHARE if step_lr is None else step_lr
    check_rate("step_lr", of_steps)
    given = list(module.parameters()) if params is None else listed_params(params)
    ranges, steps = quantizer_parameters(module)
    together = {} if options.keys() & {"foreach", "fused", "differentiable"} else {"foreach": True}
    apart = [
        {"params": [one for one in found if one.requires_grad], "lr": rate, "weight_decay": 0.0}
        | ({} if isinstance(rate, Tensor) else together)  # many tiny tensors: calls are what they cost
        for found, rate in ((ranges, of_ranges), (steps, of_steps))
    ]
    groups = [*weight_groups(module, given), *apart]
    try:
        base: Optimizer = kind([group for group in groups if group["params"]], lr=lr, **options)
    except (TypeError, ValueError) as error:  # torch's own checks of its options
        raise OptionError(
            f"torch.optim.{kind.__name__} does not take these options", found=str(error)
        ) from error
    return base


def weight_groups(module: fx.GraphModule, given: Sequence[Any]) -> list[dict[str, Any]]:
    """The groups as given, without the parameters of quantizers."""
    groups = [dict(one) for one in given] if isinstance(given[0], dict) else [{"params": given}]
    apart = {one for found in quantizer_parameters(module) for one in found}
    for group in groups:
        listed = [parameter_of(one) for one in group["params"]]
        check_own(module, listed)
        group["params"] = [one for one in listed if one not in apart]
    return groups


def listed_params(params: Any) -> list[Any]:
    """Parameters or groups of them; raises OptionError for what is neither, and for none at all."""
    given = [read_once(one) for one in as_list(params)]
    groups = [one for one in given if isinstance(one, dict)]
    wrong = [one for one in groups if "params" not in one]
    is_mixed = len(groups) not in (0, len(given))
    is_empty = not given or (groups and not wrong and not any(one["params"] for one in groups))
    if wrong or is_mixed or is_empty:
        raise OptionError(
            "these are no parameters to train",
            where="params",
            required='parameters, or groups of them such as {"params": [...], "lr": 1e-3}',
            found=f"a group with {', '.join(map(repr, wrong[0])) or 'nothing'}" if wrong else repr(params),
            hint="leave params out to train all",
        )
    return given


def read_once(given: Any) -> Any:
    """A group with a list of its parameters, which may come from a generator."""
    is_group = isinstance(given, dict) and "params" in given
    return {**given, "params": as_list(given["params"])} if is_group else given


def as_list(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params) if isinstance(params, Iterable) else []


def parameter_of(given: Any) -> Any:
    """torch also takes pairs of a name and a parameter."""
    return given[1] if isinstance(given, tuple) and len(given) == 2 else given


def check_own(module: fx.GraphModule, given: Sequence[Any]) -> None:
    own = set(module.parameters())
    foreign = [one for one in given if not isinstance(one, Tensor) or one not in own]
    if foreign:
        shapes = [str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in foreign]
        more = ["..."] if len(shapes) > SHOWN_NAMES else []
        raise OptionError(
            "the optimizer was given parameters that are not the module's",
            required="parameters of the prepared module, such as geta.model.parameters()",
            found=f"{len(foreign)} others, of shapes {', '.join([*shapes[:SHOWN_NAMES], *more])}",
            hint="leave params out to train all; a loss with parameters of its own needs its own optimizer",
        )


def quantizer_parameters(module: fx.GraphModule) -> tuple[list[Tensor], list[Tensor]]:
    """q_m and t of all quantizers, and d, each once."""
    quantizers = find_quantizers(module)
    ranges = dict.fromkeys(one for q in quantizers for one in (q.q_m, q.t))
    return list(ranges), list(dict.fromkeys(q.d for q in quantizers))


def check_rate(name: str, rate: float | Tensor) -> None:
    number: object = rate.item() if isinstance(rate, Tensor) and rate.numel() == 1 else rate
    if not is_number(number) or rate < 0:
        raise OptionError("this is no learning rate", where=name, required="0 or more", found=repr(rate))
