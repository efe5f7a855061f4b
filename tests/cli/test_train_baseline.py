import json

import pytest
from command_line import HERE, SMALL, Workspace

from coterie.cli.options import SECTIONS
from coterie.models.baselines import METHODS
from coterie.recommender import Recommender

OWN = {"puresvd": ("--puresvd.factors", 6), "ials": ("--ials.iterations", 2, "--ials.factors", 4)}


def test_every_baseline_has_its_table_in_a_file() -> None:
    assert {name for name, method in METHODS.items() if method.config.model_fields} <= set(SECTIONS)


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_is_trained_evaluated_and_asked(coterie, workspace: Workspace, tmp_path, name):
    run = tmp_path / "deep" / "run"
    trained = coterie(
        "train", workspace.split, "--model", name, "--out", run, *OWN.get(name, ()), "--json"
    )
    assert trained.code == 0
    facts = trained.json()
    assert facts["model"] == str(run / "model")
    assert facts["seconds"] >= 0
    assert {file.name for file in run.iterdir()} == {"model"}
    measured = coterie("evaluate", run, workspace.split, "--on", "validation", "--json").json()
    assert measured["metrics"]["ndcg@100"]["mean"] == pytest.approx(
        facts["validation_ndcg@100"], abs=1e-9
    )
    assert len(coterie("recommend", run, "--history", 1001, 1002, "--json").json()["items"]) == 10
    described = coterie("info", run, "--json").json()
    assert (described["kind"], described["model"]["name"]) == ("model", name)
    assert described["metadata"]["experiment"]["model"]["name"] == name
    similar = coterie("similar", run, 1001, "-k", 3, "--json")
    if name == "popularity":
        assert similar.code == 2
        assert similar.message() == "popularity has no notion of similar items."
    else:
        assert similar.json()["source"] == Recommender.load(run / "model").model.similarity
        assert len(similar.json()["items"]) == 3


def test_people_read_a_table_and_what_comes_next(coterie, workspace, tmp_path):
    run = tmp_path / "run"
    ended = coterie("train", workspace.split, "--model", "ease", "--out", run)
    assert "validation_ndcg@100" in ended.out
    assert f"Next: coterie evaluate {run} {workspace.split}" in ended.out
    shown = coterie("similar", run, 1001, "-k", 2)
    assert "weights" in shown.out
    assert "cosine" not in shown.out


def test_flags_override_the_file(coterie, workspace, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        '[model]\nname = "sparse-ease"\n[sparse-ease]\nl2 = 7\nneighbours = 9\n[ease]\nl2 = 3\n'
    )
    first, second = tmp_path / "first", tmp_path / "second"
    coterie("train", workspace.split, "--config", file, "--out", first)
    coterie(
        "train", workspace.split, "--config", file, "--out", second, "--sparse-ease.l2", 8, "--json"
    )
    configs = [Recommender.load(run / "model").model.config for run in (first, second)]
    assert [config.model_dump() for config in configs] == [
        {"neighbours": 9, "shrinkage": 10.0, "l2": 7.0},
        {"neighbours": 9, "shrinkage": 10.0, "l2": 8.0},
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--model", "ease", "--epochs", 3),
            "ease has no setting training.epochs; it has --ease.l2.",
        ),
        (("--model", "ease", "--lambda-a", 1), "ease has no setting objective.alignment.end"),
        (("--model", "ease", "--latent-dim", 4), "ease has no setting model.latent_dim"),
        (("--model", "ease", "--device", "cpu"), "ease has no setting run.device"),
        (("--model", "ease", "--puresvd.factors", 4), "ease has no setting puresvd.factors"),
        (
            ("--model", "popularity", "--ease.l2", 4),
            "popularity has no setting ease.l2; it has none",
        ),
        (("--ease.l2", 3), "ease.l2 is a setting of a baseline; name it (--model)"),
        (("--model", "multi-dae", "--ease.l2", 3), "ease.l2 is a setting of a baseline"),
        (("--model", "ease", "--resume"), "ease is fitted in one go"),
        (("--model", "ease", "--tensorboard"), "ease is fitted in one go"),
        (("--model", "ease", "--ease.l2", 0), "ease.l2: Input should be greater than 0"),
        (("--model", "puresvd", "--puresvd.factors", 1000), "puresvd.factors must be below"),
    ],
)
def test_what_makes_no_sense_is_refused(coterie, workspace, tmp_path, flags, message):
    ended = coterie("train", workspace.split, "--out", tmp_path / "run", *flags)
    assert ended.code == 2
    assert message in ended.message()
    assert list(tmp_path.iterdir()) == []


def test_a_split_is_needed(coterie, tmp_path):
    ended = coterie("train", "--model", "ease", "--out", tmp_path / "run")
    assert ended.code == 2
    assert "Which split to train on?" in ended.message()


def test_a_run_is_kept_unless_asked_and_replaced_whole(coterie, workspace, tmp_path):
    run = tmp_path / "run"
    vae = ("train", workspace.split, "--out", run, "--epochs", 1, *SMALL, *HERE)
    fit = ("train", workspace.split, "--out", run, "--model", "ease")
    assert coterie(*vae).code == 0
    kept = coterie(*fit)
    assert kept.code == 2
    assert "holds a run already" in kept.message()
    assert coterie(*fit, "--overwrite").code == 0
    assert {file.name for file in run.iterdir()} == {"model"}
    assert json.loads((run / "model" / "manifest.json").read_text())["model"]["name"] == "ease"
    assert coterie(*fit).code == 2
    assert coterie(*vae, "--overwrite").code == 0
    assert coterie("info", run, "--json").json()["kind"] == "run"


def test_a_failure_costs_no_old_run(coterie, workspace, tmp_path):
    run = tmp_path / "run"
    assert coterie("train", workspace.split, "--out", run, "--model", "ease").code == 0
    before = (run / "model" / "manifest.json").read_bytes()
    too_many = ("--model", "puresvd", "--puresvd.factors", 10**6)
    assert coterie("train", workspace.split, "--out", run, *too_many, "--overwrite").code == 2
    assert (run / "model" / "manifest.json").read_bytes() == before
