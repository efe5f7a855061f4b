"""``coterie experiment simulate``: a real server of its own, one at a URL, and wrong calls."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from coterie.cli.simulation_folder import MARK, simulation_folder
from coterie.data.interactions import Interactions
from coterie.data.splits import strong_generalization
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.experiment.settings import read_experiment
from coterie.serving.store import Store
from experiment.stub_server import Stub, listening

FILE = """
name = "pia"
start = 2026-03-01T00:00:00Z
end = 2026-03-08T00:00:00Z
surfaces = ["home"]
least_users = 10
minimum_effect = 0.2
[arms]
control = 0.5
pia = 0.5
"""


@pytest.fixture
def pia(tmp_path):
    path = tmp_path / "pia.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def simulate(coterie, workspace, pia, tmp_path):
    """The command with models, tastes and place; each argument may be left out by None."""

    def run(*more, **changed):
        flags = {
            "model": workspace.run,
            "arm": f"pia={workspace.run}",
            "data": workspace.split,
            "out": tmp_path / "simulation",
            **changed,
        }
        given = [part for n, v in flags.items() if v is not None for part in (f"--{n}", v)]
        return coterie("experiment", "simulate", pia, *given, *more)

    return run


@pytest.mark.slow
def test_an_experiment_of_two_equal_arms_from_held_out_items(simulate, coterie, tmp_path):
    out, html = tmp_path / "simulation", tmp_path / "report.html"
    small = ("--users", 80, "--visits", 1.5, "-k", 5)
    found = simulate(*small, "--json", "--html", html).json()
    assert {truth["lift"] for truth in found["truth"]} == {0.0}, "both arms are one model"
    assert found["truth"][0]["control"] > 0
    assert found["simulated"]["people"] == 80
    assert found["simulated"]["visits_before"] > 0
    assert sorted(found["written"]) == sorted(map(str, [*out.iterdir(), html]))
    assert str(out / "server.log") in found["written"]
    assert found["results"][0]["variance_reduction"] > 0, "tastes are uneven"
    assert "held out" in found["simulated"]["tastes"]
    experiment = read_experiment(out / "experiment.toml")
    assert experiment.start <= datetime.now(UTC) < experiment.end
    assert experiment.end - experiment.start == timedelta(days=7)

    events = pl.read_parquet(out / "events.parquet")
    store = Store(f"sqlite:///{out}/store.db")
    stored = pl.concat(store.log())
    store.close()
    assert stored.sort("event_id").equals(events.sort("event_id")), "all is in the store, once"
    assert len(events) == found["simulated"]["events"]
    assert json.loads((out / "server.log").read_text().splitlines()[-1])["message"] == "stopped"

    analysed = coterie(
        "experiment",
        "analyze",
        out / "experiment.toml",
        "--events",
        out / "events.parquet",
        "--json",
    ).json()
    assert analysed["results"] == found["results"]
    assert "if all were in one arm" in html.read_text()

    again = simulate(*small)
    assert (again.code, "holds a simulation already" in again.message()) == (2, True)
    second = simulate(*small, "--overwrite")
    assert second.code == 0
    repeated = pl.read_parquet(out / "events.parquet").drop("time")
    assert repeated.equals(events.drop("time")), "the same seed clicks the same"
    assert "truth, %" in second.out
    assert "ctr_per_impression of pia differs by 0.00" in second.out.replace("+", "")


def test_the_help_says_how_many_items_may_be_shown(coterie):
    text = " ".join(coterie("experiment", "simulate", "--help").out.split())
    assert "shown on a visit, at most 80" in text


def test_invented_data_has_its_planted_truth(tmp_path):
    from coterie.cli.simulate import read_tastes

    config = SyntheticConfig(n_users=100, n_items=80, n_communities=4, n_niches=4, mean_history=10)
    data = synthetic(config, 0).interactions
    data.save(tmp_path / "data")
    split = strong_generalization(data, n_validation_users=10, n_test_users=10, rng=0)
    split.save(tmp_path / "split")
    assert len(read_tastes(tmp_path / "data")) == 100
    assert len(read_tastes(tmp_path / "split")) == 10
    for name in ("data", "split"):
        assert "planted truth" in read_tastes(tmp_path / name).about
    assert Interactions.open(tmp_path / "data").source["seed"] == 0


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model": None, "arm": None}, "either --model and --arm, or --url"),
        ({"url": "http://127.0.0.1:1"}, "either --model and --arm, or --url"),
        ({"model": None, "url": "http://127.0.0.1:1"}, "either --model and --arm, or --url"),
        ({"model": None, "arm": None, "url": "localhost"}, "is no URL of a server"),
        ({"model": "nowhere"}, "nowhere"),
        ({"arm": "pia"}, "--arm takes NAME=MODEL"),
        ({"arm": None}, "The arm 'pia' of 'pia' has no model"),
        ({"data": "nowhere"}, "nowhere"),
        ({"users": 0}, "--users"),
        ({"visits": 0.5}, "--visits"),
        ({"k": 81}, "--k"),
        ({"seed": -1}, "--seed"),
        ({"html": "page.txt"}, "--html must end in .html"),
    ],
)
def test_wrong_calls_are_said_and_leave_nothing(changed, why, simulate, tmp_path):
    ended = simulate(**changed)
    assert ended.code == 2
    assert why in ended.message()
    assert not (tmp_path / "simulation").exists()


def test_a_model_without_an_arm(simulate, workspace):
    ended = simulate("--arm", f"other={workspace.run}")
    assert (ended.code, "has no arm 'other'" in ended.message()) == (2, True)


def test_a_server_that_is_away_is_said(simulate, tmp_path, monkeypatch):
    from coterie.experiment.simulation import client

    monkeypatch.setattr(client, "AWAY_SECONDS", 0.0)
    ended = simulate(model=None, arm=None, url="http://127.0.0.1:1")
    assert ended.code == 2
    assert "http://127.0.0.1:1 does not answer" in ended.message()
    assert not (tmp_path / "simulation").exists()


def test_an_experiment_decided_at_its_end_is_simulated_to_its_end(simulate, pia, tmp_path):
    """Everybody has come, although the end is a hundred years ahead."""
    text = FILE.replace("end = 2026", 'decision = "end"\nend = 2126')
    pia.write_text(text)
    with listening(Stub(read_experiment(pia))) as url:
        found = simulate("--users", 60, "--json", model=None, arm=None, url=url).json()
    assert found["finished"]
    assert {one["verdict"] for one in found["results"]} & {"better", "worse", "undecided"}
    assert "too early" not in {one["verdict"] for one in found["results"]}
    assert {path.name for path in (tmp_path / "simulation").iterdir()} == {
        "experiment.toml",
        "events.parquet",
    }


def test_real_data_needs_a_split(simulate, workspace):
    message = simulate(data=workspace.data).message()
    assert "nothing is held out" in message


def test_what_is_there_is_spared(simulate, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in simulate(out=tmp_path / "file").message()
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    (folder / "events.parquet").write_text("mine, too")
    for more in ((), ("--overwrite",)):
        assert "no experiment.toml that a simulation wrote" in simulate(*more, out=folder).message()
    assert (folder / "events.parquet").read_text() == "mine, too"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("out", [".", "elsewhere"])
def test_overwriting_spares_what_no_simulation_wrote(out, simulate, tmp_path, monkeypatch):
    """An experiment of one's own, by the same name as a simulation's, marks nothing as ours."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if out != ".":
        (folder / out).mkdir()
    for name in ("events.parquet", "store.db", "server.log"):
        (folder / out / name).write_text("mine")
    (folder / out / "experiment.toml").write_text(FILE)
    before = contents(folder / out)
    ended = simulate("--overwrite", out=out)
    assert (ended.code, "are not overwritten" in ended.message()) == (2, True)
    assert contents(folder / out) == before


def test_a_failure_leaves_an_earlier_simulation_as_it_was(simulate, tmp_path, monkeypatch):
    """With a real file of ours there, and a server that is away: nothing is lost or added."""
    from coterie.experiment.simulation import client

    monkeypatch.setattr(client, "AWAY_SECONDS", 0.0)
    away = {"model": None, "arm": None, "url": "http://127.0.0.1:1"}
    out = tmp_path / "simulation"
    for _ in range(2):  # the same command does not refuse the second time
        assert "does not answer" in simulate(**away).message()
        assert not out.exists()
    out.mkdir()
    for name in ("events.parquet", "store.db", "notes.txt"):
        (out / name).write_text("earlier")
    (out / "experiment.toml").write_text(MARK + FILE)
    before = contents(out)
    assert "holds a simulation already" in simulate(**away).message()
    assert "does not answer" in simulate("--overwrite", **away).message()
    assert contents(out) == before


def test_a_finished_simulation_takes_the_place_of_an_earlier_one_and_no_more(tmp_path):
    out = tmp_path / "simulation"
    out.mkdir()
    for name in ("events.parquet", "store.db-wal", "report.html"):
        (out / name).write_text("earlier")
    (out / "experiment.toml").write_text(MARK + FILE)
    with simulation_folder(out, overwrite=True) as folder:
        for name in ("experiment.toml", "events.parquet", "store.db"):
            (folder / name).write_text("new")
    assert {name: text.decode() for name, text in contents(out).items()} == {
        "experiment.toml": "new",
        "events.parquet": "new",
        "store.db": "new",
        "report.html": "earlier",
    }


def test_without_the_extra_it_says_so(simulate, monkeypatch):
    import sys

    for name in ("client", "run"):
        monkeypatch.delitem(sys.modules, f"coterie.experiment.simulation.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    ended = simulate(model=None, arm=None, url="http://127.0.0.1:1")
    assert ended.code == 2
    assert "pip install 'coterie[serve]'" in ended.message()


def test_a_short_experiment_is_refused_and_leaves_nothing(simulate, pia, tmp_path):
    pia.write_text(FILE.replace("2026-03-08T00", "2026-03-01T00").replace("00:00Z\ns", "20:00Z\ns"))
    ended = simulate("--users", 30)
    assert (ended.code, "an hour or more" in ended.message()) == (2, True)
    assert not (tmp_path / "simulation").exists()
