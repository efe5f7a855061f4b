from datetime import UTC, datetime, timedelta

import pytest
from made_up import START, experiment, settings

from coterie.errors import ConfigError, DataError
from coterie.experiment.settings import Column, Experiment, Term, read_experiment

FILE = """\
name = "pia"
start = 2026-03-01T00:00:00Z
end = 2026-03-29T12:00:00+01:00
surfaces = ["home_card", "movie_card"]
guardrails = [{ metric = "watch_seconds_per_user", margin = 0.01 }]

[arms]
old = 0.25
new = 0.75

[group]
name = "ranking"
slice = [0.2, 0.6]

[[metrics]]
name = "seconds_per_watch"
numerator = "watch_seconds"
denominator = "watches"
window_days = 7
minimum_effect = 0.1
"""


def test_a_file(tmp_path):
    (tmp_path / "pia.toml").write_text(FILE)
    read = read_experiment(tmp_path / "pia.toml")
    assert read.arm_names == ("old", "new")
    assert read.shares == (0.25, 0.75)
    assert read.seasoning == "pia"
    assert read.traffic == pytest.approx(0.4)
    assert read.days == 29  # 28 whole days and eleven hours
    assert read.effect_of(read.every_metric["seconds_per_watch"]) == 0.1
    assert read.effect_of(read.every_metric["ctr_per_user"]) == read.minimum_effect


def test_numerator_and_denominator_may_have_surfaces_of_their_own():
    ratio = {"name": "m", "numerator": "clicks", "denominator": "impressions"}

    def surfaces(**changes):
        metric = experiment(metrics=[{**ratio, **changes}]).every_metric["m"]
        return [term.column.surface for term in metric.terms]

    assert surfaces() == [None, None]
    assert surfaces(surface="home") == ["home", "home"]
    assert surfaces(numerator_surface="home") == ["home", None]
    assert surfaces(denominator_surface="home") == [None, "home"]
    assert surfaces(numerator_surface="a", denominator_surface="b") == ["a", "b"]
    for changes, why in (
        ({"surface": "a", "numerator_surface": "b"}, "surface is that of numerator and"),
        ({"denominator": None, "denominator_surface": "b"}, "but no denominator"),
        ({"surface": "a page"}, "surface"),
        ({"surface": ""}, "surface"),
        ({"numerator_surface": "a\n"}, "numerator_surface"),
    ):
        with pytest.raises(ConfigError, match=why):
            surfaces(**changes)


def test_the_papers_metrics_come_by_surface_and_the_primary_first():
    read = experiment(surfaces=["home"], primary="ctr_per_user")
    assert list(read.every_metric) == [
        "ctr_per_user",
        "ctr_per_impression",
        "ctr_per_impression.home",
        "ctr_per_user.home",
        "watch_seconds_per_user",
    ]
    home = read.every_metric["ctr_per_impression.home"]
    assert home.terms == (
        Term(Column("click", surface="home")),
        Term(Column("impression", surface="home")),
    )
    assert read.every_metric["ctr_per_user"].terms == (Term(Column("click"), any=True),)


def test_a_declared_metric_takes_the_usual_ones_place():
    read = experiment(metrics=[{"name": "ctr_per_user", "numerator": "clicks"}])
    assert read.every_metric["ctr_per_user"].numerator == "clicks"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arms": {"control": 0.5, "pia": 0.4}}, "must sum to 1, got 0.9"),
        ({"arms": {"control": 1.0}}, "arms.control"),
        ({"arms": {"control": 0.5, "": 0.5}}, "arms"),
        ({"arms": {"control": 1.0, "pia": 0.0}}, "arms.pia"),
        ({"arms": {}}, "two or more, got 0"),
        ({"start": datetime(2026, 3, 1)}, "needs a zone"),
        ({"end": "2026-03-29T00:00:00"}, "timezone"),
        ({"end": START}, "end must be after start"),
        ({"primary": "ctr_per_impresion"}, "no metric 'ctr_per_impresion'"),
        ({"guardrails": [{"metric": "speed", "margin": 0.1}]}, "no metric 'speed'"),
        ({"guardrails": [{"metric": "ctr_per_impression", "margin": 0.1}]}, "is primary"),
        ({"metrics": [{"name": "x", "numerator": "revenue"}]}, "'watch_seconds'"),
        ({"metrics": [{"name": "x", "numerator": "clicks"}] * 2}, "'x' stands more than once"),
        ({"group": {"name": "g", "slice": [0.5, 0.5]}}, "from < to"),
        ({"exposed": 0}, "exposed"),
        ({"name": "a:b"}, "name"),
        ({"armz": {}}, "did you mean 'arms'"),
    ],
)
def test_what_makes_no_sense(changes, expected):
    with pytest.raises(ConfigError, match="Experiment") as raised:
        experiment(**changes)
    assert expected in str(raised.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_experiment(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_experiment(tmp_path / "bad.toml")
    (tmp_path / "naive.toml").write_text(
        FILE.replace("2026-03-01T00:00:00Z", "2026-03-01T00:00:00")
    )
    with pytest.raises(ConfigError, match=r"naive.toml:\n.*start: a time needs a zone"):
        read_experiment(tmp_path / "naive.toml")


def test_other_zones_are_the_same_time():
    read = Experiment.read(settings(end="2026-03-02T00:00:00+02:00"))
    assert read.end == datetime(2026, 3, 1, 22, tzinfo=UTC)
    assert read.end - read.start == timedelta(hours=22)
