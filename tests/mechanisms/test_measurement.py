"""What tables show of a measurement, and how large a sample a budget allows."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from coterie.errors import ConfigError, DataError
from coterie.mechanisms.measurement import Budget, SampleSize
from mechanisms.fake_measurements import Fake

FIGURES = {"a": 1.0, "a_se": 0.1, "b": 2.0, "c": 3.0, "c_low": 2.5, "c_high": 3.5, "a_share": 4.0}


@dataclass(frozen=True, eq=False)
class Headed(Fake):
    headline: ClassVar[tuple[str, ...]] = ("a", "c", "absent")

    def figures(self) -> dict[str, float]:
        return FIGURES


@dataclass(frozen=True, eq=False)
class Unheaded(Headed):
    headline: ClassVar[tuple[str, ...]] = ()


def test_headlines_come_with_their_uncertainty_and_json_has_everything() -> None:
    assert list(Headed().headlines()) == ["a", "a_se", "c", "c_low", "c_high"]
    assert Headed().to_dict()["figures"] == FIGURES
    assert Unheaded().headlines() == FIGURES


def test_a_budget_takes_the_least_of_time_memory_and_what_there_is() -> None:
    budget = Budget(seconds=1.0, memory=1e6)
    common = {"least": 2, "unit": "users"}
    assert budget.most(50, operations=1.0, memory=1.0, **common).used == 50
    assert budget.most(50, operations=2e9, memory=1.0, **common).used == 10
    assert budget.most(50, operations=1.0, memory=2e5, **common).used == 5
    assert budget.most(50, operations=1e12, memory=1.0, **common).used == 2, "never below the least"
    assert str(SampleSize(5, 50, "users")) == "5 of 50 users"
    assert str(SampleSize(50, 50, "users")) == "all 50 users"


def test_what_does_not_fit_is_said_in_a_unit_that_shows_it() -> None:
    for memory, each, said in (
        (100.0, 80.0, "memory budget of 100 bytes fits 1 users, .*: allow 160 bytes"),
        (2.5e5, 2e5, "memory budget of 250 kB fits 1 users, .*: allow 400 kB"),
        (2.5e9, 2e9, "memory budget of 2.5 GB fits 1 users, .*: allow 4 GB"),
    ):
        with pytest.raises(DataError, match=said):
            Budget(1.0, memory).most(9, operations=1.0, memory=each, least=2, unit="users")
    with pytest.raises(DataError, match="at least 2 users, got 1"):
        Budget().most(1, operations=1.0, memory=1.0, least=2, unit="users")
    with pytest.raises(ConfigError, match="seconds > 0"):
        Budget(seconds=0.0)
