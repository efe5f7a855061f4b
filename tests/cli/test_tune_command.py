"""``coterie tune``: from a split to a configuration file; stopped, shared, refused."""

import json
import shutil
import signal
import sqlite3
import time
import tomllib

import polars as pl
import pytest
from command_line import HERE, PATIENCE_S, start, stopped

SMALL_FIX = (
    "--fix",
    "model.hidden_dims=[16]",
    "model.latent_dim=8",
    "training.batch_size=50",
    "training.epochs=3",
)


def counted(folder):
    connection = sqlite3.connect(folder / "study.sqlite")
    (n,) = connection.execute("SELECT count(*) FROM trials WHERE state != 'FAIL'").fetchone()
    connection.close()
    return n


def test_a_vae_from_search_to_a_trained_model(coterie, workspace, tmp_path):
    """The test part of the split may be gone; ``train`` and ``compare`` take the file as it is."""
    blind = tmp_path / "blind"
    shutil.copytree(workspace.split, blind)
    for part in ("test_fold_in", "test_held_out"):
        shutil.rmtree(blind / part)
    words = ("tune", blind, "--model", "multi-vae+pia", "--out", tmp_path / "t", "--trials", 3)
    ended = coterie(*words, *SMALL_FIX, *HERE)
    assert ended.code == 0, ended.err
    assert "trial 3 of 3" in ended.err
    assert "best 0." in ended.err
    assert "multi-vae+pia: 3 trials by ndcg@100" in ended.out
    best = tomllib.loads((tmp_path / "t" / "best.toml").read_text())
    assert best["model"] == {"name": "multi-vae+pia", "hidden_dims": [16], "latent_dim": 8}
    assert best["objective"]["alignment"]["end"] > 0
    config = ("--config", tmp_path / "t" / "best.toml")
    trained = coterie("train", workspace.split, "--out", tmp_path / "r", *config, *HERE, "--json")
    assert trained.code == 0, trained.err
    kept = json.loads((tmp_path / "t" / "trials.json").read_text())["multi-vae+pia"]["trials"]
    value = max(trial["value"] for trial in kept)
    assert trained.json()["validation_ndcg@100"] == pytest.approx(value, abs=1e-12)
    compared = coterie(
        "compare", "--data", workspace.split, "--models", tmp_path / "t" / "best.toml",
        "popularity", "--seeds", 0, "--out", tmp_path / "c", *HERE, "--json",
    )  # fmt: skip
    assert compared.code == 0, compared.err
    assert "best" in str(compared.json())


def test_a_baseline_from_search_to_a_trained_model(coterie, workspace, tmp_path):
    out = tmp_path / "t"
    ended = coterie("tune", workspace.split, "--model", "ease", "--out", out, "--trials", 4)
    assert ended.code == 0, ended.err
    best = tomllib.loads((out / "best.toml").read_text())
    assert set(best) == {"model", "ease"}
    config = ("--config", out / "best.toml")
    trained = coterie("train", workspace.split, "--out", tmp_path / "r", *config, "--json")
    assert trained.code == 0, trained.err
    value = pl.read_parquet(out / "trials.parquet")["value"].max()
    assert trained.json()["validation_ndcg@100"] == pytest.approx(value, abs=1e-12)
    compared = coterie(
        "compare", "--data", workspace.split, "--models", out / "best.toml", "ease",
        "--seeds", 0, "--out", tmp_path / "c", *HERE,
    )  # fmt: skip
    assert compared.code == 0, compared.err


def test_several_models_and_a_space_from_a_file(coterie, workspace, tmp_path):
    space = tmp_path / "space.toml"
    space.write_text(
        '[tune]\ntrials = 2\nseed = 7\n[search]\n"ease.l2" = {low = 50.0, high = 60.0}\n'
        "[search.item-knn]\nneighbours = [3, 4]\n"
    )
    words = ("tune", workspace.split, "--models", "ease", "item-knn", "--out", tmp_path / "t")
    ended = coterie(*words, "--config", space, "--json")
    assert ended.code == 0, ended.err
    facts = ended.json()
    assert [model["trials"] for model in facts["models"]] == [2, 2]
    assert (tmp_path / "t" / "best-item-knn.toml").exists()
    table = pl.read_parquet(tmp_path / "t" / "trials.parquet")
    l2 = table["ease.l2"].drop_nulls()
    assert len(l2) > 0
    assert l2.is_between(50, 60).all()
    assert set(table["item-knn.neighbours"].drop_nulls()) <= {3, 4}
    more = coterie(*words, "--config", space, "--trials", 3)
    assert "trial 3 of 3" in more.err
    assert "trial 2 of" not in more.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--model", "eese"), "did you mean 'ease'"),
        (("--model", "popularity"), "nothing to search"),
        (("--model", "ease", "--trials", 0), "trials"),
        (("--model", "ease", "--trials", 2, "--minutes", 1), "not both"),
        (("--model", "ease", "--fix", "ease.l2"), "--fix takes SETTING=VALUE"),
        (("--model", "ease", "--fix", "ease.l3=1"), "has no setting 'l3'"),
        (("--models", "ease", "puresvd", "--fix", "ials.l2=1"), "None of the models"),
        (("--models", "ease", "ease"), "Name each model once"),
        (("--model", "multi-vae", "--fix", "training.epochs=many"), "got 'many'"),
        (("--model", "ease", "--metric", "hits@3"), "metric"),
        (("--model", "ease", "--device", "mps"), "not available"),
        (("--model", "ease", "--checkpoint-minutes", 1), "keep no checkpoints"),
        (("--model", "ease", "--config", "bad.toml"), "search.ease.l2: expected"),
    ],
)
def test_mistakes(flags, expected, coterie, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text('[search]\n"ease.l2" = 3\n')
    ended = coterie("tune", workspace.split, "--out", tmp_path / "t", *flags)
    assert ended.code == 2
    assert expected in ended.message()
    assert not (tmp_path / "t" / "study.sqlite").exists()


def test_no_split(coterie, workspace, tmp_path):
    for source in (workspace.data, tmp_path / "none"):
        ended = coterie("tune", source, "--model", "ease", "--out", tmp_path / "t")
        assert ended.code == 2
        assert "coterie split" in ended.message()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_nothing_is_left(number, workspace, tmp_path):
    """A real signal to a real process, while its first trial trains."""
    out = tmp_path / "t"
    fixed = (*SMALL_FIX[:-1], "training.epochs=3000", "training.patience=3000")
    words = ("tune", workspace.split, "--model", "multi-vae", "--out", out, *fixed, *HERE)

    def training():
        locks = (out / "running").glob("*")
        return any(time.time() - lock.stat().st_mtime > 0.5 for lock in locks)

    err = stopped(start(*words, "--trials", 2), number, training)
    assert "the same command goes on" in err
    assert counted(out) == 0
    assert list((out / "running").iterdir()) == []


def test_processes_share_the_budget(workspace, tmp_path):
    words = ("tune", workspace.split, "--model", "ease", "--out", tmp_path / "t", "--trials", 12)
    processes = [start(*words) for _ in range(2)]
    ended = [process.communicate(timeout=PATIENCE_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert counted(tmp_path / "t") == 12
    done = [err.count("ease: trial") for _, err in ended]
    assert sum(done) == 12
    kept = json.loads((tmp_path / "t" / "trials.json").read_text())["ease"]["trials"]
    numbers = [trial["number"] for trial in kept]
    assert numbers == sorted(set(numbers))
