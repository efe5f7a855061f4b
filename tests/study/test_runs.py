"""A study's runs: what a record holds, and that nothing finished is done again."""

import json
import signal

import numpy as np
import pytest

from coterie.errors import DataError
from coterie.evaluation.protocol import evaluate
from coterie.recommender import Recommender
from coterie.study import runs
from coterie.study.folder import StudyFolder
from coterie.study.measures import sample
from coterie.study.runs import checked, identity, run_study
from coterie.study.settings import Plan, StudyConfig
from coterie.training.loop import train
from training.small_run import context, small_split

TINY = {
    "betas": [],
    "rhos": [],
    "lambdas": [],
    "ablation": False,
    "hidden_dims": [16],
    "latent_dim": 6,
    "epochs": 2,
    "evaluate_every": 1,
    "batch_size": 60,
    "beta_ramp": 2,
    "measured_users": 120,
    "budget": 0.2,
}
SEEDS = (0, 1)


def plan_of(**settings):
    return Plan(StudyConfig.read({**TINY, **settings}))


def claimed(path, plan):
    folder = StudyFolder(path)
    folder.claim(identity(plan, small_split, context(), split_per_seed=True))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two seeds of the three main settings, really trained and measured; and what was told."""
    plan, told = plan_of(), []
    folder = claimed(tmp_path_factory.mktemp("study") / "s", plan)
    assert run_study(plan, SEEDS, small_split, folder, context=context(), progress=told.append)
    return plan, folder, told


def times(folder):
    files = sorted((folder.path / "runs").iterdir())
    return {file.name: file.stat().st_mtime_ns for file in files}


def test_one_record_per_run_and_the_models_of_the_main_settings(finished):
    plan, folder, told = finished
    assert len(times(folder)) == 6
    assert [(step.record.seed, step.record.key) for step in told] == plan.runs(SEEDS)
    assert [step.done for step in told] == [1, 2, 3, 4, 5, 6]
    assert told[-1].seconds_left == 0
    assert told[0].seconds_left == pytest.approx(5 * told[0].record.seconds)
    assert {model.name for model in (folder.path / "models").iterdir()} == {
        f"seed-{seed}-{key}" for seed in SEEDS for key in plan.keys
    }
    assert not (folder.path / "unfinished").exists()


def test_a_record_says_what_the_library_finds(finished):
    plan, folder, _ = finished
    record = folder.load(1, "pia")
    split = small_split(1)
    experiment = plan.config.experiment(plan["pia"].objective, 1)
    result = train(split.train, split.validation, experiment, context=context())
    assert record.values["best_epoch"] == result.best_epoch
    assert record.beta == result.history[result.best_epoch - 1]["beta"]
    expected = evaluate(result.recommender, split.test)
    assert record.metric("ndcg@100") == pytest.approx(expected["ndcg@100"], abs=1e-12)
    assert list(record.users()) == expected.user_ids.to_list()
    assert np.mean(list(record.users().values())) == pytest.approx(expected["ndcg@100"], abs=1e-6)
    saved = Recommender.load(folder.model(1, "pia"), device="cpu")
    assert evaluate(saved, split.test)["ndcg@100"] == expected["ndcg@100"]
    assert saved.anchors is not None


def test_mechanisms_are_measured(finished):
    _, folder, _ = finished
    record = folder.load(0, "masking")
    for measure, figure in (
        ("drift", "drift"),
        ("drift", "relative_mask_variance"),
        ("collaboration", "global_share"),
        ("collaboration", "local_share_of_help"),
        ("information", "active_units"),
        ("information", "mutual_information"),
        ("alignment_effect", "curvature"),
        ("alignment_effect", "mask_variance"),
        ("alignment_effect", "distance"),
    ):
        found = record.values["measures"][measure]
        assert np.isfinite(record.figure(measure, figure)), found
    json.dumps(record.values, allow_nan=False)


def test_all_settings_of_a_seed_are_measured_on_the_same_users(finished):
    plan, folder, _ = finished
    chosen = sample(small_split(0).train, plan.config)
    assert chosen.n_users == 120
    assert chosen.user_ids == sample(small_split(0).train, plan.config).user_ids
    used = {
        key: {
            name: found.get("sample")
            for name, found in folder.load(0, key).values["measures"].items()
        }
        for key in plan.keys
    }
    assert used["clean"] == used["masking"] == used["pia"]


def test_nothing_finished_is_done_again(finished, monkeypatch):
    plan, folder, _ = finished
    before = times(folder)

    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(runs, "train", fail)
    assert run_study(plan, SEEDS, small_split, folder, context=context())
    assert times(folder) == before


class Interrupting:
    """Sends a real SIGINT in the middle of the n-th run."""

    def __init__(self, n):
        self.left = n

    def __call__(self, setting, seed):
        self.left -= 1
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def step(self, report):
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)

    def epoch(self, record):
        pass


@pytest.mark.parametrize("checkpoints", [False, True])
def test_interrupted_and_continued_is_as_if_nothing_had_happened(
    finished, tmp_path, checkpoints, monkeypatch
):
    plan, whole, _ = finished
    folder = claimed(tmp_path / "s", plan)
    options = {"context": context(), "checkpoints": checkpoints}
    interrupting = Interrupting(3)
    assert not run_study(plan, (0,), small_split, folder, watch=interrupting, **options)
    before = times(folder)
    assert list(before) == ["seed-0-clean.json", "seed-0-masking.json"]
    assert folder.finished(plan.keys) == []
    assert (folder.path / "unfinished").exists() == checkpoints

    trained = []

    def counted(*args, **kwargs):
        trained.append(kwargs["folder"])
        return train(*args, **kwargs)

    monkeypatch.setattr(runs, "train", counted)
    assert run_study(plan, (0,), small_split, folder, **options)
    assert len(trained) == 1
    after = times(folder)
    assert {name: after[name] for name in before} == before
    for key in plan.keys:
        ours, theirs = folder.load(0, key).values, whole.load(0, key).values
        assert ours["per_user"] == theirs["per_user"]
        assert {n: m.get("figures") for n, m in ours["measures"].items()} == {
            n: m.get("figures") for n, m in theirs["measures"].items()
        }
    assert not any((folder.path / "unfinished").glob("*"))


class InterruptingAtTheEnd(Interrupting):
    """Sends SIGINT after the last step of the n-th run, when nothing is left to interrupt."""

    def step(self, report):
        """Nothing yet."""

    def epoch(self, record):
        if self.left == 0 and record["epoch"] == TINY["epochs"]:
            signal.raise_signal(signal.SIGINT)


def test_interrupted_after_the_last_step_keeps_that_run_and_begins_no_other(tmp_path):
    plan = plan_of()
    folder = claimed(tmp_path / "s", plan)
    watch = InterruptingAtTheEnd(2)
    assert not run_study(plan, (0,), small_split, folder, context=context(), watch=watch)
    assert (len(times(folder)), watch.left) == (2, 0)
    assert run_study(plan, (0,), small_split, folder, context=context())


def test_interrupted_while_measuring_leaves_no_record(tmp_path, monkeypatch):
    plan = plan_of()
    folder = claimed(tmp_path / "s", plan)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "measure", interrupted)
    assert not run_study(plan, (0,), small_split, folder, context=context())
    assert not (folder.path / "runs").exists()


def test_killed_between_model_and_record(tmp_path, monkeypatch):
    """The model is there, the record is not: the run is done again, over the model."""
    plan = plan_of()
    folder = claimed(tmp_path / "s", plan)
    monkeypatch.setattr(runs, "measure", lambda *_: {})

    def killed(self, record):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(StudyFolder, "save", killed)
        with pytest.raises(SystemExit):
            run_study(plan, (0,), small_split, folder, context=context())
    assert folder.model(0, "clean").exists()
    assert folder.load(0, "clean") is None
    assert run_study(plan, (0,), small_split, folder, context=context())
    assert len(times(folder)) == 3


def test_another_process_with_other_seeds(finished, tmp_path):
    """Seeds in one call or in two give the same records."""
    plan, whole, _ = finished
    folder = claimed(tmp_path / "s", plan)
    for seed in reversed(SEEDS):
        assert run_study(
            plan, (seed,), small_split, claimed(tmp_path / "s", plan), context=context()
        )
    for seed, key in plan.runs(SEEDS):
        ours, theirs = folder.load(seed, key).values, whole.load(seed, key).values
        assert ours["per_user"] == theirs["per_user"]


def test_nothing_to_test_on():
    split = small_split()
    nothing = split.test.held_out.select(np.zeros(split.test.held_out.nnz, dtype=bool))
    empty = type(split)(
        split.train, split.validation, type(split.test)(split.test.fold_in, nothing), "x"
    )
    with pytest.raises(DataError, match="No test user"):
        checked(empty)
