"""QASSO, the quantization-aware structured sparse optimizer (arXiv 2502.16638, section 5).

warm-up      the base optimizer on everything
projection   the same, then the steps d of all quantizers are projected: b_l <= b <= b_u, and b_u falls
joint        likewise; in each period, the least important units are forgotten until they are zero
cool-down    numbers of bits are whole and fixed; what is left trains on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.optim import Optimizer

from getac.errors import GetacError, OptionError
from getac.qasso.attached import Attached, attached_to
from getac.qasso.bounds import FallingBounds, read_bounds, write_bounds
from getac.qasso.checks import Removal, check_given, check_joint, check_whole
from getac.qasso.finite import GoodBuffers, check_finite
from getac.qasso.floats import QuantizeFrom
from getac.qasso.joint import JointConstants, JointUpdate, ZeroUnits
from getac.qasso.metrics import Metrics, cost_of, measure
from getac.qasso.position import KEY, Position, no_units, saved_position
from getac.qasso.projection import Projection, fix_bits
from getac.qasso.pruning import Pruning
from getac.qasso.schedule import Moment, Schedule, Stage
from getac.qasso.units import UnitTable
from getac.qasso.variants import base_optimizer, listed_params, weight_groups
from getac.training.quantizers import find_quantizers
from getac.training.regenerating import regenerate
from getac.training.state import state_of

__all__ = ["QASSO"]


class QASSO(Optimizer):
    """Trains a prepared module until it is sparse and its numbers of bits are whole.

    It is used like any optimizer of torch: with schedulers of the learning rate, clipping, closures, several
    groups of parameters, gradient scalers and gradients that add up. A step that a scaler skips does not
    count. `state_dict` holds all that a resumed training needs.

    Args:
        module: From `getac.prepare` or `getac.GETA`; it changes in place.
        params: Parameters, or groups of them as torch takes them; None: all of the module. What is left out
            is not trained, and belongs to no unit. The parameters of quantizers make two groups of their
            own, the last, without weight decay: q_m and t, and d.
        schedule: How many steps each stage has.
        pruning: Which units become redundant; None: half of them.
        variant: The base: "sgd", "adam" or "adamw".
        lr: The learning rate.
        quantizer_lr: That of q_m and t; None: lr. A range must be able to follow its weights, which cannot
            grow beyond it.
        step_lr: That of d; None: a hundredth of quantizer_lr.
        bit_reduction: By how many bits the upper bound falls after each projection period: b_r of the paper;
            None: evenly.
        constants: beta, eta and xi of the paper.
        removal: When zero units leave the graph: after each joint "period", at the "end" of the joint
            stage, or "never", which leaves it to `construct_subnet`.
        check_every: In which steps gradients are checked to be finite, which waits for the device: every
            step, every second, ...; 0: never. With other values than 1, the last good state may be
            lost: a step that is not checked changes parameters and running statistics.
        quantize_from: The stage from which on there are quantizers. "warm-up": they train from the start, as
            in the paper. "projection": warm-up trains floats, which is quicker. After its last step, ranges
            are those of the weights, and what that step's batches in training mode show of activations, by
            the `ranges` of `getac.prepare` (one process; a module under torch.compile keeps its quantizers).
        options: Arguments of the base optimizer: momentum, weight_decay, betas, foreach, ...

    Raises:
        OptionError: Options outside of their domains, or that contradict each other.
        BadInputError: The module was not prepared; the sparsity cannot be reached.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        params: Iterable[Any] | None = None,
        *,
        schedule: Schedule,
        pruning: Pruning | None = None,
        variant: str = "adamw",
        lr: float = 1e-3,
        quantizer_lr: float | None = None,
        step_lr: float | None = None,
        bit_reduction: float | None = None,
        constants: JointConstants | None = None,
        removal: Removal = "period",
        check_every: int = 1,
        quantize_from: QuantizeFrom = "warm-up",
        **options: Any,
    ) -> None:
        state_of(module)  # it was prepared
        check_given(schedule, pruning, constants, removal, check_every, quantize_from)
        self.module, self.schedule, self.removal = module, schedule, removal
        self.quantize_from = quantize_from
        self.pruning, self.constants = pruning or Pruning(), constants or JointConstants()
        self.check_every = check_every
        self.base = base_optimizer(module, variant, params, lr, quantizer_lr, step_lr, options)
        super().__init__(self.base.param_groups, self.base.defaults)
        self._share()
        self.bounds = FallingBounds.of(module, bit_reduction)
        self.bounds.check(schedule)
        check_joint(schedule, self.pruning)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._read()
        dense = cost_of(self.table.analysis, {}, None)
        self.position = Position.start(self.table.size, dense, self.table.device)
        if not state_of(self.module).removals:  # otherwise it is being resumed, or the first step will tell
            self._plan()
        self._attached.detach()  # what another optimizer has left; nothing is refused from here on
        self._attached.quantize_together(self.module)
        self._choose_floats()

    @property
    def _attached(self) -> Attached:
        return attached_to(self.module)

    def _choose_floats(self) -> None:
        """Leaves quantizers out of a warm-up that was asked to be in floats; its last step sets ranges."""
        left = self.schedule.warm_up - self.position.step
        if self.quantize_from == "projection" and left > 0:
            self._attached.leave_out(self.module, last=left == 1)
        else:
            self._attached.put_back()

    def _plan(self) -> None:
        """Decides how many units go, while there is nothing to lose."""
        check_whole(self.module, self.pruning)
        self.position.goal = self.pruning.plan(self.table).reached if self.schedule.joint else 0

    def _share(self) -> None:
        """The base optimizer works on our groups and state, whoever replaced them."""
        self.base.param_groups, self.base.state = self.param_groups, self.state

    def _look(self) -> None:
        """Reads the module anew, after its graph has changed."""
        self._read()
        self._attached.quantize_together(self.module)

    def _read(self) -> None:
        self.table: UnitTable = self.pruning.table(self.module, set(self._parameters()))
        self.projection = Projection.of(find_quantizers(self.module))
        self._joint: JointUpdate | None = None
        self._zero: ZeroUnits | None = None
        self._buffers = GoodBuffers(self.module)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the parameters must be the module's.

        Raises:
            OptionError: They are not, or training has begun: how many units go was planned without them.
        """
        is_made = hasattr(self, "position")  # torch calls this for the first groups
        if is_made and self.position.step:
            raise OptionError(
                "parameters are added while units are being removed",
                required="groups that are added before the first step",
                found=f"{self.position.step} steps done",
            )
        if not is_made:
            return super().add_param_group(param_group)
        for group in weight_groups(self.module, listed_params([param_group])):
            super().add_param_group(group)
        self._begin_anew()

    @property
    def steps_done(self) -> int:
        """How many steps were taken."""
        return self.position.step

    @property
    def moment(self) -> Moment:
        """Where the next step stands."""
        return self.schedule.at(self.position.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of whatever stage the schedule is in.

        Raises:
            GetacError: A gradient is NaN or infinite; the module is as after the last good step, its running
                statistics too.
            OptionError: In the first step: the module was pruned before, and there are units to remove.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moment, step = self.moment, self.position.step
        if self.check_every and step % self.check_every == 0:
            self._check(step, moment)
        if step == 0:
            self._plan()
            self._begin(moment)
        if moment.stage is Stage.JOINT:
            self._forget(moment)
        else:
            self.base.step()
        self._hold_zeros()
        if moment.stage is not Stage.WARM_UP:
            self.projection.apply()
        self.position.step += 1
        self._choose_floats()
        if moment.stage is Stage.JOINT and moment.is_last:
            self._end_joint_period(moment)
        if self.moment.is_first:
            self._begin(self.moment)
        return loss

    def _check(self, step: int, moment: Moment) -> None:
        try:
            check_finite(self.module, self._parameters(), step, moment.stage, self._buffers)
        except GetacError:
            self._attached.forget()
            raise

    def _hold_zeros(self) -> None:
        if self.removal == "period":
            return  # they leave as soon as they are zero
        if self._zero is None:
            self._zero = ZeroUnits(self.table, self.position.gone.nonzero()[:, 0])
        self._zero.hold(self)

    def _parameters(self) -> Iterator[Tensor]:
        return (one for group in self.param_groups for one in group["params"])

    def _begin(self, moment: Moment) -> None:
        """Sets the bounds of the numbers of bits that a period has."""
        if moment.stage is Stage.COOL_DOWN:
            self._fix_bits()
        elif self.bounds.set(self.module, self.schedule, self.position.step):
            self._look()
            self.projection.apply()

    def _forget(self, moment: Moment) -> None:
        """The base optimizer's step, and one towards zero for redundant units."""
        if moment.is_first:
            self.position.redundant = self._next_redundant(moment)
            self._joint = None
        if self._joint is None:
            self._joint = JointUpdate(self.table, self.position.redundant, self.constants)
            group_of = {one: group for group in self.param_groups for one in group["params"]}
            self._rated = [group_of[one] for one in self._joint.parameters]
        held = self._joint.gather()
        rates = [group["lr"] for group in self._rated]
        self.base.step()
        self._joint.apply(held, rates, moment.step_in_period, moment.period_length)

    def _next_redundant(self, moment: Moment) -> Tensor:
        """As many units as bring the zero ones to their share of the goal."""
        position = self.position
        share = (moment.period + 1) / self.schedule.joint_periods
        zero = position.zero
        amount, final = max(round(position.goal * share) - zero, 0), position.goal - zero
        return self.pruning.choose(self.table, amount, final, position.gone)

    def _end_joint_period(self, moment: Moment) -> None:
        self.position.gone[self.position.redundant] = True
        self.position.redundant = no_units(self.table.device)
        is_end = moment.period == self.schedule.joint_periods - 1
        if self.removal == "period" or (self.removal == "end" and is_end):
            self._remove()
        else:
            self._look()

    def _remove(self) -> None:
        """Takes the zero units out of the graph, of the parameters, and of what is kept of these."""
        gone = self.position.gone
        self.position.removed += int(gone.sum())
        regenerate(self.module, self.table.keep(gone.nonzero()[:, 0]), self, self.pruning.wishes)
        self.position.gone = gone.new_zeros(0)
        self._look()
        self.position.gone = gone.new_zeros(self.table.size)

    def _fix_bits(self) -> None:
        """Rounds the numbers of bits, which then stay."""
        if not self.position.bits_fixed:
            self.bounds.set(self.module, self.schedule, self.schedule.total)
            self._look()
            self.projection.apply()
            fix_bits(self.module, find_quantizers(self.module))
            self.position.bits_fixed = True
            self._look()

    def finish(self) -> None:
        """Removes units that are zero and still there, and fixes numbers of bits that are not fixed yet."""
        self._attached.put_back()
        if self.position.gone.any():
            self._remove()
        self._fix_bits()
        self._attached.detach()

    def metrics(self) -> Metrics:
        """How the training stands; waits for the device."""
        last = self.schedule.at(max(self.position.step - 1, 0))
        return measure(self.module, self.table, self.position, last.stage)

    @property
    def _options(self) -> dict[str, Any]:
        reduction = self.bounds.reduction
        return {
            **self.pruning.settings,
            "removal": self.removal,
            "quantize_from": self.quantize_from,
            "bit_reduction": None if reduction is None else float(reduction),
            **{name: float(value) for name, value in vars(self.constants).items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with how far the training has come under "qasso": numbers, strings and tensors."""
        own = {
            "position": self.position.state(),
            "schedule": vars(self.schedule).copy(),
            "starts": dict(self.bounds.starts),
            "targets": dict(self.bounds.targets),
            "bounds": read_bounds(self.module),
            "options": self._options,
        }
        return {**super().state_dict(), KEY: own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where another run has stopped.

        Args:
            state_dict: From an optimizer that was made alike, for a module cut alike (`getac.load`).

        Raises:
            BadInputError: It is one of another optimizer, or of another schedule.
            OptionError: Of another pruning, removal, bit_reduction or other constants; says which.
        """
        own = saved_position(state_dict, self.schedule, self._options, self.table.size)
        super().load_state_dict(dict(state_dict))
        self._share()
        self.bounds = replace(self.bounds, starts=own["starts"], targets=own["targets"])
        write_bounds(self.module, own["bounds"])
        self.position = Position.of_state(own["position"], self.table.device)
        self._attached.put_back(ranges=False)
        self._choose_floats()
        self._look()
