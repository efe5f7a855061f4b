"""``coterie diagnose``: every form of its result, several models, and mistakes."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import HERE, SMALL, Workspace

from coterie.cli import main
from coterie.cli.diagnose import named_folders
from coterie.data.parts import Split
from coterie.errors import ConfigError
from coterie.mechanisms import diagnose as module
from coterie.mechanisms.collaboration import Collaboration
from coterie.mechanisms.diagnose import MEASURES, diagnose
from coterie.mechanisms.mask_geometry import MaskGeometry
from coterie.mechanisms.measurement import Budget
from coterie.models.baselines.ease import EaseConfig
from coterie.recommender import Recommender

QUICK = ("--seconds", 0.5)


@pytest.fixture(scope="module")
def other(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second run on the same split, without alignment."""
    run = tmp_path_factory.mktemp("other") / "masking"
    command = ("train", workspace.split, "--out", run, "--epochs", 1, *SMALL, *HERE)
    assert main(list(map(str, command))) == 0
    return run


def test_figures_are_the_librarys(coterie, workspace):
    facts = coterie("diagnose", workspace.run, workspace.split, "--json", *QUICK).json()
    assert facts["data"] == {
        "path": str(workspace.split),
        "users": "training users",
        "unknown_items": 0,
    }
    (found,) = facts["models"].values()
    assert list(facts["models"]) == ["run"]
    train = Split.open(workspace.split).train
    expected = diagnose(Recommender.load(workspace.run / "model"), train, budget=Budget(0.5))
    assert list(found["measurements"]) == list(expected.measurements)
    for name, figures in expected.figures().items():
        printed = found["measurements"][name]["figures"]
        plain = {key: value if np.isfinite(value) else None for key, value in figures.items()}
        assert printed == pytest.approx(plain, nan_ok=True)
    assert facts["latent_map"] is None
    assert facts["html"] is None


def test_for_people(coterie, workspace, other):
    ended = coterie("diagnose", workspace.run, workspace.split, "--compare", other, *QUICK)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[0] == f"Measured on the training users of {workspace.split}:"
    header = next(line for line in ended.out.splitlines() if "figure" in line)
    assert header.split()[:2] == ["figure", "run"]
    assert "masking" in ended.out
    assert "relative mask" in ended.out
    assert " ± " in ended.out
    assert "run: " in ended.out
    assert ended.out.count("Compared, masking: ") == 7, "masks are the same for both"
    assert "combined in quadrature" in ended.out


def test_a_budget_that_lets_hardly_anything_be_measured_is_a_mistake(coterie, workspace):
    ended = coterie("diagnose", workspace.run, workspace.split, "--seconds", 0.001)
    assert ended.code == 2
    assert "of 8 measures be taken; allow more seconds" in ended.message()
    assert "would stand behind its figures, but at least 100 are needed" in ended.message()


def test_a_file_gives_settings_and_flags_override_it(coterie, workspace, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("[diagnose]\nseconds = 0.5\nseed = 4\nkeep_probability = 0.25\n")
    command = ("diagnose", workspace.run, workspace.split, "--json", "--config", file)
    (found,) = coterie(*command, "--seed", 5).json()["models"].values()
    assert (found["seed"], found["keep_probability"]) == (5, 0.25)
    flags = ("--seconds", 0.5, "--seed", 5, "--keep-probability", 0.25)
    (same,) = coterie(*command[:-2], *flags).json()["models"].values()
    for one in (found, same):
        for measured in one["measurements"].values():
            del measured["seconds"]
    assert found == same
    file.write_text("[diagnose]\nsecnds = 1\n")
    ended = coterie(*command)
    assert ended.code == 2
    assert "did you mean 'seconds'" in ended.message()


def test_tables_print_the_headlines_and_json_everything(coterie, workspace, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # a figure has one line
    command = ("diagnose", workspace.run, workspace.split, *QUICK)
    lines = [line.strip() for line in coterie(*command).out.splitlines()]
    table = lines[: lines.index(MaskGeometry.title)]
    for name, title in (("mask geometry", MaskGeometry), ("collaboration", Collaboration)):
        start = next(at for at, line in enumerate(table) if line == name)
        rows = table[start + 1 :]
        blank = next(at for at, line in enumerate(rows) if not line or set(line) == {"─"})
        assert blank == len(title.headline) <= 8
    (found,) = coterie(*command, "--json").json()["models"].values()
    assert len(found["measurements"]["mask_geometry"]["figures"]) > 20
    assert "local_help_se" in found["measurements"]["collaboration"]["figures"]


def test_a_baseline_is_measured_where_no_codes_are_needed(coterie, workspace, tmp_path):
    train = Split.open(workspace.split).train
    model = Recommender.fit(EaseConfig(l2=10.0), train).save(tmp_path / "ease")
    command = ("diagnose", model, workspace.split, *QUICK)
    (found,) = coterie(*command, "--json").json()["models"].values()
    assert list(found["measurements"]) == ["mask_geometry"]
    assert set(found["skipped"]) == set(MEASURES) - {"mask_geometry"}
    assert all("ease is no autoencoder" in reason for reason in found["skipped"].values())
    page = tmp_path / "report.html"
    ended = coterie(*command, "--compare", workspace.run, "--html", page)
    assert ended.code == 0, ended.err
    assert ended.out.count("ease is no autoencoder") == 1, "once, not for every measure"
    assert "ease is no autoencoder" in page.read_text()
    alone = coterie(*command, "--html", tmp_path / "alone.html")
    assert alone.code == 0, alone.err
    assert "no model has latent vectors" in alone.err


def test_report(coterie, workspace, other, tmp_path):
    page = tmp_path / "new" / "report.html"
    command = ("diagnose", workspace.run, workspace.data, "--html", page, *QUICK)
    facts = coterie(*command, "--compare", other, "--json").json()
    assert facts["data"]["users"] == "users"
    assert facts["html"] == str(page)
    assert facts["latent_map"]["sample"]["used"] >= 92
    text = page.read_text()
    assert "masking" in text
    assert 'src="http' not in text
    again = coterie(*command)
    assert again.code == 2
    assert "--overwrite" in again.message()
    assert page.read_text() == text


def test_figures_in_a_folder_may_be_replaced(coterie, workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MEASURES", {"drift": MEASURES["drift"]})
    command = ("diagnose", workspace.run, workspace.split, *QUICK, "--figures", tmp_path / "plots")
    facts = coterie(*command, "--json").json()
    names = ["drift-run.png", "drift-run.svg", "latent_map.png", "latent_map.svg"]
    assert facts["figures"] == [str(tmp_path / "plots" / name) for name in names]
    (tmp_path / "plots" / "mine.txt").write_text("kept")
    again = coterie(*command)
    assert again.code == 2
    assert "is not empty" in again.message()
    replaced = coterie(*command, "--overwrite")
    assert replaced.code == 0
    assert f"Written: 4 files in {tmp_path / 'plots'}" in replaced.out.splitlines()
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == sorted(
        [*names, "mine.txt"]
    )


def test_unknown_items_are_counted(coterie, workspace, tmp_path):
    log = pl.read_csv(workspace.log)
    strange = log.with_columns(
        item_id=pl.when(pl.col("item_id") < 1005)
        .then(pl.col("item_id") + 5000)
        .otherwise("item_id")
    )
    strange.write_csv(tmp_path / "log.csv")
    assert coterie("prepare", tmp_path / "log.csv", "--out", tmp_path / "data").code == 0
    ended = coterie("diagnose", workspace.run, tmp_path / "data", "--json", *QUICK)
    assert ended.json()["data"]["unknown_items"] == 5
    assert "do not know 5 of the data's items" in ended.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--html", "report.pdf"], ".html"),
        (["--html", "."], ".html"),
        (["--seconds", "0"], "diagnose.seconds"),
        (["--keep-probability", "1"], "diagnose.keep_probability"),
        (["--seed", "-1"], "diagnose.seed"),
        (["--memory", "1e-4"], "memory budget of 100 bytes"),
    ],
)
def test_mistakes(flags, expected, coterie, workspace):
    ended = coterie("diagnose", workspace.run, workspace.split, *flags)
    assert ended.code == 2
    assert expected in ended.message()


def test_things_in_the_wrong_place(coterie, workspace, tmp_path):
    for model, data, expected in (
        (workspace.data, workspace.split, "is a data set; expected a model"),
        (workspace.run, workspace.run / "model", "is a model; expected a split"),
        (workspace.run, tmp_path / "none", "does not exist"),
        (tmp_path / "none", workspace.split, "does not exist"),
    ):
        ended = coterie("diagnose", model, data)
        assert ended.code == 2
        assert expected in ended.message()
    (tmp_path / "file").write_text("")
    ended = coterie("diagnose", workspace.run, workspace.split, "--figures", tmp_path / "file")
    assert "is a file" in ended.message()


def test_data_of_other_items_or_models_of_others(coterie, workspace, tmp_path):
    log = pl.read_csv(workspace.log).with_columns(pl.col("item_id") + 10_000)
    log.write_csv(tmp_path / "log.csv")
    split = tmp_path / "split"
    assert coterie("split", tmp_path / "log.csv", "--out", split).code == 0
    ended = coterie("diagnose", workspace.run, split, *QUICK)
    assert ended.code == 2
    assert "No user has an item that the model knows" in ended.err
    run = tmp_path / "run"
    assert coterie("train", split, "--out", run, "--epochs", 1, *SMALL, *HERE).code == 0
    ended = coterie("diagnose", workspace.run, workspace.split, "--compare", run)
    assert ended.code == 2
    assert "know different items" in ended.message()


def test_names_of_models(workspace, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(workspace.run, tmp_path / name / "run")
    first, second = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert list(named_folders([first])) == ["run"]
    assert list(named_folders([first, second])) == [str(first), str(second)]
    shutil.copytree(first / "model", tmp_path / "alone")
    names = named_folders([first / "model", tmp_path / "alone"])
    assert names == {"run": first / "model", "alone": tmp_path / "alone"}
    with pytest.raises(ConfigError, match="given once"):
        named_folders([first, first / "model"])


def test_help_says_what_is_measured(coterie):
    ended = coterie("diagnose", "--help")
    text = " ".join(ended.out.split())
    assert "--compare" in text
    assert "50" in text  # the default budget
    assert json.dumps(list(MEASURES))  # the module imports
