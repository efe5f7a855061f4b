"""``coterie info``: says what each thing is."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from coterie.cli import info


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("data", "data set"),
        ("split", "split"),
        ("split/train", "data set"),
        ("run", "run"),
        ("run/model", "model"),
        ("run/best.safetensors", "checkpoint"),
    ],
)
def test_kinds(name, kind, coterie, workspace):
    first, _, rest = name.partition("/")
    path = getattr(workspace, first) / rest
    assert coterie("info", path, "--verify", "--json").json()["kind"] == kind
    ended = coterie("info", path)
    assert ended.code == 0
    assert kind in ended.out


def test_figures(coterie, workspace):
    run = coterie("info", workspace.run, "--json").json()
    assert run["epochs"] == 2
    assert run["training"]["batch_size"] == 50
    assert run["trained_on"]["users"] == 160
    assert run["continue"] is None
    assert coterie("info", workspace.run / "model", "--json").json()["n_items"] > 40


@pytest.mark.parametrize("name", ["log.csv", ""])
def test_other_things(name, coterie, workspace, tmp_path):
    ended = coterie("info", workspace.log if name else tmp_path)
    assert ended.code == 2
    assert "nothing that coterie wrote" in ended.message()


def test_damaged_checkpoint(coterie, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"1234567890")
    ended = coterie("info", tmp_path / "x.safetensors")
    assert ended.code == 2
    assert "not a readable checkpoint" in ended.message()


@pytest.mark.parametrize(
    "rest", [{}, {"progress": "{}", "belongs_to": "[1]"}, {"progress": "{", "belongs_to": "{}"}]
)
def test_checkpoint_with_another_header(rest, coterie, tmp_path):
    header = {"format": "coterie-checkpoint", "version": "1", **rest}
    save_file({"x": np.zeros(3)}, tmp_path / "x.safetensors", header)
    ended = coterie("info", tmp_path / "x.safetensors")
    assert ended.code == 2
    assert "its header is not a checkpoint's" in ended.message()


def rows(ended):
    """The table's names and values."""
    lines = (line for line in ended.out.splitlines() if line.startswith("  "))
    cells = (line.split(maxsplit=1) for line in lines if line.strip())
    return {name: value.strip() for name, value in cells}


@pytest.mark.parametrize("name", ["run", "run/model", "run/last.safetensors"])
def test_people_see_the_settings_that_are_not_the_models_own(name, coterie, workspace, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    shown = rows(coterie("info", workspace.run.parent / name))
    settings = {
        key: value
        for key, value in shown.items()
        if key.split(".")[0] in info.TABLES and "." in key
    }
    expected = {
        "model.hidden_dims": "16",
        "model.latent_dim": "8",
        "objective.alignment.end": "0.5",
        "training.batch_size": "50",
    }
    if name == "run/model":  # a checkpoint leaves open how long to train
        expected["training.epochs"] = "2"
    assert settings == expected
    assert shown["model"] == "multi-vae"
    assert shown["settings"] == "multi-vae's own, but for those below"


def test_a_baselines_own_settings_are_not_repeated(coterie, workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    for flags, changed in (((), {}), (("--ease.l2", 7), {"model.l2": "7"})):
        run = tmp_path / str(len(flags))
        assert coterie("train", workspace.split, "--model", "ease", "--out", run, *flags).code == 0
        shown = rows(coterie("info", run))
        assert {key: value for key, value in shown.items() if key.startswith("model.")} == changed
        assert ("throughout" in shown["settings"]) == (not changed)


@pytest.mark.parametrize("name", [None, ["ease"], "unheard-of"])
def test_settings_of_a_model_that_has_no_own_are_all_shown(name):
    facts = {"kind": "model", "metadata": {"experiment": {"model": {"name": name, "x": 1}}}}
    assert info.for_people(facts) == facts


def test_long_names_are_folded_not_cut(coterie, workspace, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    printed = coterie("info", workspace.run / "model").out
    assert "…" not in printed
