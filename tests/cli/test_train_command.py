"""``coterie train``: the run's folder, interruption and resumption, and mistakes."""

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from command_line import HERE, SMALL, start, stopped
from safetensors.numpy import load_file

from coterie.cli.progress import Display
from coterie.data.parts import Split
from coterie.recommender import Recommender


def test_run_folder(workspace):
    names = {file.name for file in workspace.run.iterdir()}
    assert names == {
        "last.safetensors", "best.safetensors", "metrics.jsonl", "settings.json", "model",
    }  # fmt: skip
    settings = json.loads((workspace.run / "settings.json").read_text())
    assert settings["experiment"]["objective"]["alignment"]["end"] == 0.5
    assert settings["experiment"]["objective"]["beta"]["kind"] == "linear"
    recommender = Recommender.load(workspace.run / "model")
    assert recommender.model.config.latent_dim == 8
    assert recommender.anchors is not None
    assert recommender.metadata["epochs"] == 2


def test_config_file_and_flags(coterie, workspace, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        "[model]\nhidden_dims = [12]\nlatent_dim = 5\n[training]\nepochs = 9\nbatch_size = 50\n"
        '[run]\ndevice = "cpu"\nprecision = "fp32"\n'
    )
    flags = ("--config", config, "--epochs", 1, "--latent-dim", 6, "--json")
    ended = coterie("train", workspace.split, "--out", tmp_path / "run", *flags)
    assert ended.code == 0
    assert ended.json()["epochs"] == 1
    assert "epoch   1" in ended.err
    assert "users/s" in ended.err
    model = Recommender.load(tmp_path / "run" / "model").model.config
    assert (model.hidden_dims, model.latent_dim) == ((12,), 6)


def test_tensorboard_and_for_people(coterie, workspace, tmp_path):
    run = ("train", workspace.split, "--out", tmp_path / "r", "--epochs", 1, *SMALL, *HERE)
    ended = coterie(*run, "--tensorboard")
    assert ended.code == 0
    assert "validation_ndcg@100" in ended.out
    assert "coterie evaluate" in ended.out
    assert any((tmp_path / "r" / "tensorboard").iterdir())


def test_no_validation_users(coterie, workspace, tmp_path):
    split = ("split", workspace.data, "--out", tmp_path / "s", "--n-validation-users", 0)
    assert coterie(*split).code == 0
    run = ("train", tmp_path / "s", "--out", tmp_path / "r", "--epochs", 1, *SMALL, *HERE)
    assert coterie(*run, "--json").json()["best_epoch"] is None


def test_existing_run_is_kept_resumed_or_dropped(coterie, workspace, tmp_path):
    shutil.copytree(workspace.run, tmp_path / "run")
    run = ("train", workspace.split, "--out", tmp_path / "run", "--epochs", 1, *SMALL, *HERE)
    ended = coterie(*run)
    assert ended.code == 2
    assert "--resume" in ended.message()
    assert coterie(*run, "--overwrite", "--json").json()["epochs"] == 1
    assert coterie("train", "--resume", "--out", tmp_path / "run", "--json").json()["epochs"] == 1


def contents(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder): file.read_bytes() for file in files}


def test_a_mistake_does_not_cost_the_old_run(coterie, workspace, tmp_path):
    """Not even where it is found only in the data: here, a split without a training pair."""
    shutil.copytree(workspace.run, tmp_path / "run")
    before = contents(tmp_path / "run")
    split = Split.open(workspace.split)
    nothing = split.train.select(np.zeros(split.train.nnz, dtype=bool))
    replace(split, train=nothing).save(tmp_path / "empty")
    for source, flags in (
        (workspace.split, ("--device", "mps")),
        (workspace.split, ("--metric", "ndcg@x")),
        (workspace.data, ()),
        (tmp_path / "empty", ()),
    ):
        ended = coterie("train", source, "--out", tmp_path / "run", "--overwrite", *flags)
        assert ended.code == 2, ended
        assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["model", "tensorboard"])
def test_overwrite_spares_what_is_not_ours(name, coterie, workspace, tmp_path):
    shutil.copytree(workspace.run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
    (tmp_path / "run" / name).mkdir()
    (tmp_path / "run" / name / "manifest.json").write_text('{"name": "my web page"}')
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run = ("train", workspace.split, "--out", tmp_path / "run", "--epochs", 1, *SMALL, *HERE)
    before = contents(tmp_path / "run")
    ended = coterie(*run, "--overwrite")
    assert ended.code == 2
    assert str(tmp_path / "run" / name) in ended.message()
    assert contents(tmp_path / "run") == before
    shutil.rmtree(tmp_path / "run" / name)
    assert coterie(*run, "--overwrite").code == 0
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--resume",)])
def test_settings_of_something_else_are_spared(flags, coterie, workspace, tmp_path):
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "settings.json"
    file.write_text('{"editor.fontSize": 12}')
    ended = coterie("train", workspace.split, "--out", tmp_path / "run", *flags)
    assert ended.code == 2
    assert str(file) in ended.message()
    assert file.read_text() == '{"editor.fontSize": 12}'


def test_an_extension_is_kept_before_it_is_trained(coterie, workspace, tmp_path, monkeypatch):
    """What a killed extension leaves behind says how far it was to go."""
    shutil.copytree(workspace.run, tmp_path / "run")
    settings = tmp_path / "run" / "settings.json"

    def epochs():
        return json.loads(settings.read_text())["experiment"]["training"]["epochs"]

    seen = []
    monkeypatch.setattr(Display, "step", lambda *_: seen.append(epochs()))
    resume = ("train", "--resume", "--out", tmp_path / "run")
    before = contents(tmp_path / "run")
    assert coterie(*resume, "--epochs", 3, "--latent-dim", 9).code == 2
    assert contents(tmp_path / "run") == before
    assert coterie(*resume, "--epochs", 3).code == 0
    assert set(seen) == {3}


def test_checkpoint_of_another_config(coterie, workspace, tmp_path):
    shutil.copytree(workspace.run, tmp_path / "run")
    ended = coterie("train", "--resume", "--out", tmp_path / "run", "--latent-dim", 9)
    assert ended.code == 2
    assert "model.latent_dim is 8 there and 9 here" in ended.message()


@pytest.mark.parametrize("name", ["last.safetensors", "settings.json"])
def test_truncated_run(name, coterie, workspace, tmp_path):
    shutil.copytree(workspace.run, tmp_path / "run")
    file = tmp_path / "run" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    ended = coterie("train", "--resume", "--out", tmp_path / "run")
    assert ended.code == 2
    assert name in ended.message()


MISTAKES = {
    "a log": ("log", (), "`coterie split` writes one"),
    "a data set": ("data", (), "is a data set; expected a split"),
    "nothing": (None, ("--resume",), "holds no run to continue. Which split"),
    "metric": ("split", ("--metric", "ndgc@10"), "ndgc@10"),
    "device": ("split", ("--device", "mps"), "not available"),
    "both": ("split", ("--resume", "--overwrite"), "choose one"),
    "zeros": ("split", ("--metric", "ndcg@010"), "leading zeros"),
    "seed": ("split", ("--seed", str(2**63)), "training.seed"),
    "no effect": (
        "split",
        ("--lambda-a", "1", "--no-align-mean", "--no-shrink-variance"),
        "both off",
    ),
    "choice": ("split", ("--model", "multi-vea"), "multi-vea"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_leave_nothing(case, coterie, workspace, tmp_path):
    source, flags, expected = MISTAKES[case]
    sources = [] if source is None else [getattr(workspace, source)]
    ended = coterie("train", *sources, "--out", tmp_path / "run", *flags)
    assert ended.code == 2
    assert expected in ended.message()
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_two_tables_is_told_without_a_place(coterie, workspace, tmp_path):
    flags = ("--model", "multi-dae", "--beta", "0.3")
    ended = coterie("train", workspace.split, "--out", tmp_path / "run", *flags)
    assert ended.code == 2
    assert ended.err.startswith("coterie: multi-dae has a point code and no KL term")
    assert not (tmp_path / "run").exists()


def test_misspelt_key_in_the_file_names_the_nearest(coterie, workspace, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("[training]\nlearning_rat = 0.1\n")
    ended = coterie("train", workspace.split, "--out", tmp_path / "run", "--config", config)
    assert ended.code == 2
    assert "'learning_rat'; did you mean 'learning_rate'?" in ended.message()


def test_run_path_is_a_file(coterie, workspace):
    ended = coterie("train", workspace.split, "--out", workspace.log)
    assert ended.code == 2
    assert "is a file" in ended.message()


def test_divergence_is_no_mistake_of_the_user(coterie, workspace, tmp_path):
    run = ("train", workspace.split, "--out", tmp_path / "r", *SMALL, *HERE)
    ended = coterie(*run, "--learning-rate", "1e30", "--epochs", 3)
    assert ended.code == 1
    assert "diverged at step" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_is_as_if_nothing_had_happened(number, coterie, workspace, tmp_path):
    """A real signal to a real process, while it trains."""
    flags = ("--epochs", "40", "--patience", "none", "--metric", "ndcg@10", *SMALL, *HERE)
    process = start("train", workspace.split, "--out", tmp_path / "a", *flags)
    err = stopped(process, number, (tmp_path / "a" / "last.safetensors").exists)
    assert "stopped; checkpoint in" in err
    assert "continue with --resume" in err
    assert not (tmp_path / "a" / "model").exists()
    unfinished = coterie("evaluate", tmp_path / "a", workspace.split)
    assert unfinished.code == 2
    assert "coterie train --resume" in unfinished.message()
    assert coterie("info", tmp_path / "a", "--json").json()["continue"] is not None

    assert coterie("train", "--resume", "--out", tmp_path / "a", "--json").json()["epochs"] == 40
    assert coterie("train", workspace.split, "--out", tmp_path / "b", *flags).code == 0
    resumed, whole = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("a", "b")
    )
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--resume",)])
def test_a_run_is_not_mixed_into_other_folders(coterie, workspace, flags):
    before = sorted(path.name for path in (workspace.split).iterdir())
    ended = coterie("train", workspace.split, "--out", workspace.split, *flags)
    assert ended.code == 2
    assert "would be mixed into it" in ended.message()
    assert sorted(path.name for path in (workspace.split).iterdir()) == before


# ---- models by name


def settings_of(run):
    return json.loads((run / "settings.json").read_text())["experiment"]


TINY_RECVAE = ("--hidden-dims", 9, 9, "--latent-dim", 4, "--epochs", 4, "--batch-size", 100)


@pytest.mark.parametrize("in_file", [False, True])
def test_a_preset_is_the_base_that_file_and_flags_override(in_file, coterie, workspace, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[model]\nname = "recvae+pia"\n[objective]\nalignment = {end = 0.5}\n')
    named = ("--config", config) if in_file else ("--model", "recvae+pia", "--lambda-a", 0.5)
    run = tmp_path / "run"
    ended = coterie("train", workspace.split, "--out", run, *named, *TINY_RECVAE, *HERE, "--json")
    assert ended.code == 0, ended
    settings = settings_of(run)
    assert settings["model"]["name"] == "recvae"
    assert settings["model"]["prior"]["kind"] == "composite"
    assert settings["training"]["learning_rate"] == 5e-4
    assert (settings["objective"]["gamma"], settings["objective"]["beta"]) == (0.005, None)
    assert settings["objective"]["alignment"]["end"] == 0.5
    assert ended.json()["epochs"] == 4
    recommender = Recommender.load(run / "model")
    assert recommender.model.config.encoder == "densely-connected"
    assert recommender.anchors is not None
    resume = ("train", "--resume", "--out", run, "--epochs", 8, "--json")
    assert coterie(*resume, *(named if in_file else ())).json()["epochs"] == 8


def test_a_weight_on_the_command_line_replaces_the_other(coterie, workspace, tmp_path):
    flags = ("--model", "recvae", "--beta", 0.3, *TINY_RECVAE, *HERE)
    assert coterie("train", workspace.split, "--out", tmp_path / "b", *flags).code == 0
    objective = settings_of(tmp_path / "b")["objective"]
    assert (objective["gamma"], objective["beta"]["end"]) == (None, 0.3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "recvae+pia", "--lambda-a", 0), "recvae+pia aligns, but alignment.end is 0"),
        (("--model", "recvae", "--epochs", 6), "a multiple of 4; got 6"),
        (("--model", "recvae", "--encoder", "gated"), "The gated encoder is hierarchical"),
        (("--model", "recvae", "--beta", 1, "--gamma", 1), "one weight, beta or gamma"),
        (("--prior.kind", "none"), "has a point code and no prior"),
        (("--model", "recvea"), "recvea"),
    ],
)
def test_models_that_make_no_sense(flags, message, coterie, workspace, tmp_path):
    ended = coterie("train", workspace.split, "--out", tmp_path / "run", *flags)
    assert ended.code == 2
    assert message in " ".join(ended.message().split())
    assert not (tmp_path / "run").exists()


def test_an_unknown_model_in_the_file_names_the_nearest(coterie, workspace, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[model]\nname = "recvea+pia"\n')
    ended = coterie("train", workspace.split, "--out", tmp_path / "run", "--config", config)
    assert ended.code == 2
    assert "did you mean 'recvae+pia'" in " ".join(ended.message().split())


# ---- what the result says, and what cannot be continued


def test_a_best_epoch_that_is_the_last_asks_for_more(coterie, workspace, tmp_path):
    run = tmp_path / "run"
    first = coterie("train", workspace.split, "--out", run, "--epochs", 1, *SMALL, *HERE)
    more = next(line for line in first.out.splitlines() if line.startswith("The best epoch"))
    told, _, command = more.partition(": coterie ")
    assert told == "The best epoch is the last: more may help"
    assert coterie(*command.split(), "--json").json()["epochs"] == 2


def test_a_learning_rate_that_falls_to_zero_ends_the_run(coterie, workspace, tmp_path):
    """More is asked for as long as it lasts, and refused after that."""
    run, name = tmp_path / "run", "--learning-rate-schedule"
    decay = (f"{name}.kind", "linear", f"{name}.end", 0, f"{name}.epochs", 3)
    flags = ("--epochs", 2, *decay, *SMALL, *HERE)
    first = coterie("train", workspace.split, "--out", run, *flags)
    more = next(line for line in first.out.splitlines() if line.startswith("The best epoch"))
    assert more.endswith("--epochs 3")
    last = coterie(*more.partition(": coterie ")[2].split())
    assert coterie("info", run, "--json").json()["best_epoch"] == 3
    assert "more may help" not in last.out
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    longer = coterie("train", "--resume", "--out", run, "--epochs", 4)
    assert longer.code == 2
    assert "The learning rate is 0 after 3 of 4 epochs" in " ".join(longer.message().split())
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == before


def test_an_earlier_best_epoch_asks_for_nothing(coterie, workspace, tmp_path):
    run = tmp_path / "run"
    flags = ("--epochs", 30, "--patience", 2, "--learning-rate", 0.05, *SMALL, *HERE)
    ended = coterie("train", workspace.split, "--out", run, *flags)
    facts = coterie("info", run, "--json").json()
    assert facts["best_epoch"] < facts["epochs"]
    assert "more may help" not in ended.out


def test_without_its_settings_a_run_needs_them_again(coterie, workspace, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workspace.run, run)
    (run / "settings.json").unlink()
    ended = coterie("train", "--resume", "--out", run)
    assert ended.code == 2
    assert f"{run / 'settings.json'} is missing; name the split, and the flags" in ended.message()
    same = ("--epochs", 2, "--lambda-a", 0.5, *SMALL, *HERE)
    assert coterie("train", workspace.split, "--resume", "--out", run, *same).code == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "it lacks 'split', 'experiment', 'run'"),
        ('{"split": "x", "run": {}}', "it lacks 'experiment'"),
        ("{", "it is no valid JSON from line 1, column 2 on"),
        ('{"split": 3, "experiment": {}, "run": {}}', "it must name a split and hold two tables"),
        ('{"split": "x", "experiment": [], "run": {}}', "it must name a split and hold two tables"),
        ('{"split": "x", "experiment": {}, "run": 1}', "it must name a split and hold two tables"),
    ],
)
def test_damaged_settings_are_explained(text, why, coterie, workspace, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workspace.run, run)
    (run / "settings.json").write_text(text)
    ended = coterie("train", "--resume", "--out", run)
    assert ended.code == 2
    assert why in ended.message()


@pytest.mark.parametrize("with_split", [False, True])
def test_a_baseline_is_not_resumed(with_split, coterie, workspace, tmp_path):
    run = tmp_path / "run"
    assert coterie("train", workspace.split, "--model", "ease", "--out", run).code == 0
    before = contents(run)
    named = (workspace.split,) if with_split else ()
    ended = coterie("train", *named, "--resume", "--out", run)
    assert ended.code == 2
    assert ended.message() == f"{run}: ease was fitted in one go; there is nothing to resume."
    assert contents(run) == before


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--lambda-a", -1), "--lambda-a (objective.alignment.end): Input should be"),
        (("--seed", -1), "--seed (training.seed): Input should be"),
        (("--prior.weights", 2, 3, 4), "--prior.weights (model.prior.weights.0): Input should be"),
        (("--metric", "ndcg"), "--metric (training.metric): a metric reads name@cut"),
    ],
)
def test_mistakes_name_the_flag(flags, expected, coterie, workspace, tmp_path):
    ended = coterie("train", workspace.split, "--out", tmp_path / "run", *flags)
    assert ended.code == 2
    assert ended.message().startswith(expected)
    assert "Value error" not in ended.message()
