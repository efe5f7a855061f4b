from itertools import pairwise
from typing import Any

import pytest

from coterie.errors import ConfigError
from coterie.objectives.schedules import Schedule

STEPS = 10  # per epoch
KINDS: tuple[Any, ...] = ("warm-up", "linear")


def values(schedule: Schedule, *steps: int) -> list[float]:
    return [schedule.value(step, STEPS) for step in steps]


def test_constant_is_its_end_throughout() -> None:
    assert values(Schedule(start=5, end=0.3), 0, 1, 10**6) == [0.3, 0.3, 0.3]
    assert Schedule(end=0.0).value(0, 1) == 0


def test_linear_goes_in_equal_steps_and_stays() -> None:
    schedule = Schedule(kind="linear", start=0.1, end=0.5, epochs=4)
    expected = [0.1, 0.11, 0.3, 0.1 + 0.4 * 39 / 40, 0.5, 0.5]
    assert values(schedule, 0, 1, 20, 39, 40, 10**6) == pytest.approx(expected, rel=1e-12)


def test_linear_may_fall() -> None:
    schedule = Schedule(kind="linear", start=1, end=0, epochs=1)
    assert values(schedule, 0, 5, 10, 11) == [1, 0.5, 0, 0]


def test_geometric_goes_by_equal_ratios_and_stays() -> None:
    schedule = Schedule(kind="geometric", start=0.01, end=1, epochs=2)
    expected = [0.01, 0.01 * 10 ** (2 / 20), 0.1, 1, 1]
    assert values(schedule, 0, 1, 10, 20, 99) == pytest.approx(expected, rel=1e-12)
    steps = values(schedule, *range(21))
    ratios = [later / earlier for earlier, later in pairwise(steps)]
    assert ratios == pytest.approx([ratios[0]] * 20, rel=1e-12)


def test_warm_up_is_linear() -> None:
    assert values(Schedule(kind="warm-up", end=8, epochs=4), 0, 10, 20, 40, 99) == [0, 2, 4, 8, 8]
    warm_up, linear = (Schedule(kind=kind, start=1, end=3, epochs=2) for kind in KINDS)
    assert values(warm_up, *range(25)) == values(linear, *range(25))


def test_delayed_jumps_after_its_epochs() -> None:
    schedule = Schedule(kind="delayed", start=0.2, end=8, epochs=3)
    assert values(schedule, 0, 29, 30, 31) == [0.2, 0.2, 8, 8]


def test_fractions_of_an_epoch() -> None:
    assert values(Schedule(kind="delayed", end=1, epochs=0.55), 5, 6) == [0, 1]
    assert values(Schedule(kind="linear", end=1, epochs=0.5), 0, 1, 5) == [0, 0.2, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "linear"}, "linear schedule needs epochs > 0"),
        ({"kind": "warm-up", "epochs": 0}, "warm-up schedule needs epochs > 0"),
        ({"kind": "geometric", "epochs": 2}, "start > 0 and end > 0, got start=0.0"),
        ({"kind": "geometric", "epochs": 2, "start": 1, "end": 0}, "end > 0"),
        ({"kind": "quadratic"}, "'constant', 'linear', 'geometric', 'warm-up' or 'delayed'"),
        ({"start": -1}, "Schedule.start"),
        ({"end": float("inf")}, "Schedule.end"),
        ({"epochs": -2}, "Schedule.epochs"),
        ({"epoch": 2}, "did you mean 'epochs'"),
    ],
)
def test_nonsense_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule.read(settings)
