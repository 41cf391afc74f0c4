"""QASSO, the quantization-aware structured sparse optimizer (arXiv 2502.16638, section 5).

    warm-up      the base optimizer on everything
    projection   the same, then the steps d of all quantizers are projected: b_l <= b <= b_u, and b_u falls
    joint        likewise; in each period, the least important units are forgotten until they are zero
    cool-down    numbers of bits are whole and fixed; what is left trains on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.optim import Optimizer

from getac.errors import BadInputError, GetacError, OptionError
from getac.qasso.bounds import rounded_bits, set_bounds, target_bounds
from getac.qasso.metrics import Metrics, cost_of, mean_bits_of
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Moment, Schedule, Stage
from getac.qasso.units import UnitTable
from getac.qasso.variants import base_optimizer, check_own
from getac.training.gradients import check_gradients
from getac.training.quantizers import find_quantizers
from getac.training.regenerating import regenerate
from getac.training.state import state_of

__all__ = ["QASSO"]
