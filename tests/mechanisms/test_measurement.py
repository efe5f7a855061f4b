"""What tables show of a measurement, and how large a sample a budget allows."""

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import pytest

from coterie.errors import ConfigError, DataError
from coterie.mechanisms.alignment_effect import AlignmentEffect
from coterie.mechanisms.collaboration import Collaboration
from coterie.mechanisms.compromise import Compromise
from coterie.mechanisms.diagnose import MEASURES
from coterie.mechanisms.drift import Drift
from coterie.mechanisms.information import Information
from coterie.mechanisms.mask_geometry import MaskGeometry
from coterie.mechanisms.measurement import Budget, SampleSize, sought_among
from coterie.mechanisms.numbers import with_errors
from coterie.mechanisms.transfer import Transfer
from coterie.mechanisms.wasserstein import Wasserstein
from coterie.recommender import Recommender
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


@dataclass(frozen=True, eq=False)
class Labelled(Headed):
    labels: ClassVar[dict[str, str]] = {"a": "predicted_a"}

    def hidden(self) -> frozenset[str]:
        return frozenset({"c"})


def test_tables_show_labels_and_nothing_where_a_figure_says_nothing() -> None:
    found = Labelled().headlines()
    assert list(found) == ["predicted_a", "predicted_a_se", "c", "c_low", "c_high"]
    assert found["predicted_a_se"] == 0.1
    assert with_errors(found)["c"] == "–"
    assert Labelled().to_dict()["figures"] == FIGURES


def test_the_guide_defines_every_headline_figure() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "mechanisms.md").read_text()
    section = guide.partition("## The figures\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[1:-1] for row in section.splitlines() if row.startswith("| `")]
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
    defined = {name for row in rows for name in re.findall("`([^`]+)`", row[0])}
    assert len(defined) > 40
    for measure in (
        AlignmentEffect, Collaboration, Compromise, Drift, Information, MaskGeometry, Transfer,
        Wasserstein,
    ):  # fmt: skip
        assert measure.headline
        assert set(measure.labels) <= set(measure.headline)
        labels = {measure.labels.get(name, name) for name in measure.headline}
        assert labels <= defined, measure.name


def test_too_few_are_told_with_what_to_do() -> None:
    assert Fake(sample=SampleSize(10, 99, "users")).too_small() == ""
    assert "Only 9 users would" in Fake(sample=SampleSize(9, 99, "users")).too_small()
    assert sought_among(SampleSize(5, 5, "users"), "drift is larger") == []
    (text,) = sought_among(SampleSize(5, 6, "users"), "drift is larger")
    assert "among 5 of 6 users" in text
    assert "one budget" in text


@pytest.mark.parametrize(
    "name", sorted({*MEASURES, "latent_map", "neighbourhood", "attribution"} - {"mask_geometry"})
)
def test_a_recommender_is_not_a_model(name: str) -> None:
    measure = getattr(import_module(f"coterie.mechanisms.{name}"), name)
    whole = object.__new__(Recommender)
    for given in (whole, {"a": whole}):
        with pytest.raises(ConfigError, match=r"pass recommender\.model"):
            measure(given, None)


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
