"""``coterie demo``, shortened, and what it leaves can be used by the other commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.cli import demo, trial
from coterie.data.synthetic import SyntheticConfig


@pytest.fixture(autouse=True)
def short(monkeypatch):
    config = SyntheticConfig(n_users=300, n_items=200, n_communities=4, n_niches=5, mean_history=20)
    monkeypatch.setattr(demo, "SyntheticConfig", lambda: config)
    monkeypatch.setattr(demo, "EPOCHS", 2)
    monkeypatch.setattr(trial, "USERS", 60)


def test_table_examples_and_files(coterie, tmp_path):
    ended = coterie("demo", "--out", tmp_path / "d")
    assert ended.code == 0
    for title in demo.TITLES.values():
        assert title in ended.out
    assert ended.out.count(" knows The ") == demo.EXAMPLE_USERS
    assert "coterie evaluate" in ended.out
    online = tmp_path / "d" / "online"
    assert "multi-vae-pia against popularity" in ended.out
    assert "The truth: ctr_per_impression of multi-vae-pia differs by" in ended.out
    assert f"Report with plots: {online / 'report.html'}" in " ".join(ended.out.split())
    assert "if all were in one arm" in (online / "report.html").read_text()
    model, split = tmp_path / "d" / "multi-vae-pia", tmp_path / "d" / "split"
    assert coterie("evaluate", model, split, "--json").code == 0
    assert coterie("train", "--resume", "--out", model, "--json").json()["epochs"] == 2


def test_json_and_again(coterie, tmp_path):
    run = ("demo", "--out", tmp_path / "d", "--json", "--seed", 5)
    first = coterie(*run).json()
    assert set(first["results"]) == set(demo.TITLES)
    assert len(first["examples"][0]["recommended"]) == demo.EXAMPLE_ITEMS
    again = coterie(*run)
    assert again.code == 2
    assert "exists already" in again.message()
    second = coterie(*run, "--overwrite").json()
    lifts = [[one["lift"] for one in found.pop("online")["truth"]] for found in (first, second)]
    assert lifts[0] == pytest.approx(lifts[1])
    assert len(lifts[0]) == 3
    assert second == first


def test_without_what_serves_it_says_so_and_goes_on(coterie, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "NEEDED", ("alembic", "not_installed_at_all"))
    ended = coterie("demo", "--out", tmp_path / "d", "--json")
    assert ended.code == 0
    assert "left out" in ended.err
    assert "not_installed_at_all" in ended.err
    assert "pip install 'coterie[serve]'" in ended.err
    assert ended.json()["online"] is None
    assert not (tmp_path / "d" / "online").exists()


@pytest.mark.parametrize("name", ["data", "split", "clean/model", "popularity/model"])
def test_overwrite_spares_what_is_not_ours(name, coterie, tmp_path):
    (tmp_path / "d" / name).mkdir(parents=True)
    (tmp_path / "d" / name / "thesis.txt").write_text("mine")
    ended = coterie("demo", "--out", tmp_path / "d", "--overwrite")
    assert ended.code == 2
    assert str(tmp_path / "d" / name) in ended.message()
    assert (tmp_path / "d" / name / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range_leaves_nothing(seed, coterie, tmp_path):
    ended = coterie("demo", "--out", tmp_path / "d", "--seed", seed)
    assert ended.code == 2
    assert "seed" in ended.message()
    assert not (tmp_path / "d").exists()


def test_what_to_try_works_as_printed(coterie, tmp_path, monkeypatch):
    """Here without an activated environment: not even the command is on the path."""
    folder = Path(sys.executable).parent
    elsewhere = [p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != folder]
    monkeypatch.setenv("PATH", os.pathsep.join(elsewhere))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "missing_extra", lambda: "is not what this is about")
    printed = coterie("demo", "--out", "my demo").out
    info, evaluate, recommend = printed.partition("Try:\n")[2].splitlines()
    assert ("info" in info, "evaluate" in evaluate) == (True, True)
    done = subprocess.run(recommend, shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "The " in done.stdout


def test_an_activated_environment_needs_no_path(tmp_path, monkeypatch):
    (tmp_path / "coterie").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = demo._where(Path("my demo")).splitlines()[1:]
    assert lines[0] == "  coterie info 'my demo/multi-vae-pia'"
    assert all(line.startswith("  coterie ") for line in lines)
