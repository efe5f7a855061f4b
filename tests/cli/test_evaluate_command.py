"""``coterie evaluate``: the same figures as the library's, in every form."""

import json
import shutil

import polars as pl
import pytest

from coterie.cli.evaluate import EvaluateOptions, cohort
from coterie.data.parts import Split
from coterie.errors import ConfigError
from coterie.evaluation.cohorts import DEFAULT_COHORTS
from coterie.evaluation.protocol import evaluate
from coterie.recommender import Recommender


@pytest.mark.parametrize("on", ["test", "validation"])
def test_figures_are_the_librarys(on, coterie, workspace):
    flags = ("--on", on, "--ks", 5, 10, "--json")
    facts = coterie("evaluate", workspace.run, workspace.split, *flags).json()
    held_out = getattr(Split.open(workspace.split), on)
    expected = evaluate(Recommender.load(workspace.run / "model"), held_out, ks=(5, 10))
    assert (facts["on"], facts["n_users"]) == (on, 20)
    assert facts["metrics"]["ndcg@10"]["mean"] == pytest.approx(expected["ndcg@10"], abs=1e-12)
    assert facts["overall"]["coverage@5"] == expected["coverage@5"]
    assert "novelty@5" in facts["overall"]


def test_for_people(coterie, workspace):
    flags = ("--cohorts", "5-9", "10-", "--ks", 10)
    ended = coterie("evaluate", workspace.run / "model", workspace.split, *flags)
    assert ended.code == 0
    assert "recall_capped" in ended.out
    assert "5–9" in ended.out
    assert "±" in ended.out


def test_files(coterie, workspace, tmp_path):
    run = ("evaluate", workspace.run, workspace.split, "--out")
    assert coterie(*run, tmp_path / "users.parquet").code == 0
    assert pl.read_parquet(tmp_path / "users.parquet")["ndcg@100"].is_between(0, 1).all()
    printed = coterie(*run, tmp_path / "figures.json", "--json").json()
    assert json.loads((tmp_path / "figures.json").read_text()) == printed
    again = coterie(*run, tmp_path / "figures.json")
    assert again.code == 2
    assert "exists already" in again.message()
    assert coterie(*run, tmp_path / "figures.json", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--out", "x.csv"], ".json or .parquet"),
        (["--cohorts", "many"], "'many'"),
        (["--ks", "0"], "evaluate.ks"),
        (["--on", "train"], "validation"),
    ],
)
def test_mistakes(flags, expected, coterie, workspace):
    ended = coterie("evaluate", workspace.run, workspace.split, *flags)
    assert ended.code == 2
    assert expected in ended.message()


def test_things_in_the_wrong_place(coterie, workspace, tmp_path):
    for model, split, expected in (
        (workspace.data, workspace.split, "is a data set; expected a model"),
        (workspace.split, workspace.run, "expected a model"),
        (tmp_path / "none", workspace.split, "does not exist"),
        (workspace.run, workspace.data, "expected a split"),
        (tmp_path, workspace.split, "manifest.json is missing"),
    ):
        ended = coterie("evaluate", model, split)
        assert ended.code == 2
        assert expected in ended.message()


def test_edited_model(coterie, workspace, tmp_path):
    shutil.copytree(workspace.run / "model", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    ended = coterie("evaluate", tmp_path / "model", workspace.split)
    assert ended.code == 2
    assert "was edited" in ended.message()


def test_model_of_other_items(coterie, workspace, tmp_path):
    pl.read_csv(workspace.log).filter(pl.col("item_id") < 1030).write_csv(tmp_path / "less.csv")
    assert coterie("split", tmp_path / "less.csv", "--out", tmp_path / "s").code == 0
    ended = coterie("evaluate", workspace.run, tmp_path / "s")
    assert ended.code == 2
    assert "items" in ended.message()


def test_cohorts():
    read = [cohort(text) for text in EvaluateOptions().cohorts]
    assert [(c.low, c.high) for c in read] == [(c.low, c.high) for c in DEFAULT_COHORTS]
    with pytest.raises(ConfigError, match="empty"):
        cohort("9-5")


@pytest.mark.parametrize("cut", [0, 10**12])
def test_cut_out_of_range(cut, coterie, workspace):
    ended = coterie("evaluate", workspace.run, workspace.split, "--ks", cut)
    assert ended.code == 2
    assert "evaluate.ks" in ended.message()
