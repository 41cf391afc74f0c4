"""Stages and periods cover every step once, bounds fall to their target, nonsense is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getac.errors import OptionError
from getac.qasso.schedule import Schedule, Stage

SMALL = Schedule(warm_up=2, projection=7, projection_periods=3, joint=4, joint_periods=2, cool_down=3)


def test_stages_follow_one_another() -> None:
    stages = [SMALL.at(step).stage for step in range(SMALL.total + 5)]
    assert stages == [Stage.WARM_UP] * 2 + [Stage.PROJECTION] * 7 + [Stage.JOINT] * 4 + [Stage.COOL_DOWN] * 8


def test_periods_share_the_steps() -> None:
    found = [SMALL.at(step)[1:] for step in range(2, 9)]
    assert found == [(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2), (2, 0, 3), (2, 1, 3), (2, 2, 3)]


@given(st.integers(0, 9), st.integers(1, 60), st.data())
def test_every_period_has_a_first_and_a_last_step(warm_up: int, steps: int, data: st.DataObject) -> None:
    periods = data.draw(st.integers(1, steps))
    schedule = Schedule(warm_up, 0, 1, steps, periods, 0)
    moments = [schedule.at(step) for step in range(warm_up, warm_up + steps)]
    assert sum(one.is_first for one in moments) == sum(one.is_last for one in moments) == periods
    lengths = Counter(one.period for one in moments)
    assert max(lengths.values()) - min(lengths.values()) <= 1
    assert all(lengths[one.period] == one.period_length for one in moments)


def test_stages_without_steps_are_skipped() -> None:
    schedule = Schedule(0, 0, 1, 0, 1, 4)
    assert schedule.at(0).stage is Stage.COOL_DOWN
    assert Schedule(3, 0, 1, 2, 1, 0).at(3).stage is Stage.JOINT


def test_shares_of_the_total() -> None:
    schedule = Schedule.of(30, warm_up=0.1, projection=0.2, joint=0.2)
    assert (schedule.warm_up, schedule.projection, schedule.joint, schedule.cool_down) == (3, 6, 6, 15)
    mixed = Schedule.of(100, warm_up=5, projection=0.25, joint=30, cool_down=0.4)
    assert (mixed.warm_up, mixed.projection, mixed.joint, mixed.cool_down) == (5, 25, 30, 40)


@given(st.integers(40, 1000), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_shares_that_make_one_always_fit(total: int, parts: list[float]) -> None:
    whole = sum(parts) or 1.0
    a, b, c, _ = (one / whole for one in parts)
    schedule = Schedule.of(total, a, b, 1, c, 1, max(1 - a - b - c, 0.0))
    assert schedule.total <= total


def test_the_upper_bound_falls_after_every_period() -> None:
    bounds = [SMALL.most_bits(step, 16, 8) for step in range(10)]
    even = 8 / 3
    assert bounds == pytest.approx([16] * 4 + [16 - even] * 2 + [16 - 2 * even] * 3 + [8])
    assert [SMALL.most_bits(step, 16, 8, 5) for step in (2, 4, 6, 9)] == [16, 11, 8, 8]
    assert SMALL.most_bits(0, 6, 8) == 8  # never under the target


def test_long_trainings_forget_in_more_periods() -> None:
    periods = [Schedule.of(total).joint_periods for total in (30, 1000, 2000, 10**6)]
    assert periods == [4, 4, 8, 32]
    assert Schedule.of(10**6, joint_periods=3).joint_periods == 3


@pytest.mark.parametrize(("total", "periods"), [(1, 1), (9, 1), (15, 3), (20, 4)])
def test_short_trainings_have_a_period_for_each_step(total: int, periods: int) -> None:
    schedule = Schedule.of(total, projection=0.0, projection_periods=1)
    assert schedule.joint_periods == periods


def test_is_printed_as_a_table() -> None:
    rows = [row.split() for row in str(SMALL).splitlines()]
    assert rows[0] == ["stage", "steps", "from", "periods"]
    assert rows[2] == ["projection", "7", "2", "3"]
    assert rows[4] == ["cool-down", "3", "13", "1"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"warm_up": -1}, "no number of steps"),
        ({"joint": 2.5}, "no number of steps"),
        ({"joint_periods": 5}, "1 to 4"),
        ({"projection_periods": 0}, "projection_periods"),
    ],
)
def test_refuses_impossible_stages(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Schedule(**{**vars(SMALL), **wrong})


@pytest.mark.parametrize(
    ("total", "stages", "said"),
    [
        (10, {"warm_up": 5, "joint": 6}, "longer than the training"),
        (100, {"warm_up": 0.6, "joint": 0.6}, "longer than the training"),
        (100, {"cool_down": 90}, "longer than the training"),
        (8, {}, "more periods than steps"),
        (0, {}, "how many steps"),
        (None, {}, "how many steps"),
        (100, {"warm_up": "long"}, "warm_up"),
        (100, {"warm_up": -0.5}, "neither a number of steps"),
        (100, {"warm_up": float("nan")}, "neither a number of steps"),
    ],
)
def test_refuses_what_does_not_fit(total: int, stages: dict[str, float], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Schedule.of(total, **stages)  # type: ignore[arg-type]


def test_refuses_a_reduction_that_stops_early() -> None:
    with pytest.raises(OptionError, match=r"2\.66667 or more"):
        SMALL.check_reduction(16, 8, 2)
    with pytest.raises(OptionError, match="b_r"):
        SMALL.check_reduction(16, 8, -1)
    SMALL.check_reduction(16, 8, 4)
