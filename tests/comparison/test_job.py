"""A run's process: its messages, its memory, and what it leaves or does not leave."""

import io
import json
import os
import subprocess
import sys
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

import coterie
from coterie.comparison.contestants import BaselineContestant, VaeContestant
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.job import INTERRUPTED, Job, Messages, do, peak_memory
from coterie.comparison.process import run_job
from coterie.config import merged
from coterie.data.parts import Split
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.errors import ConfigError, CoterieError
from coterie.training.config import Experiment, RunContext

EXPERIMENT = Experiment.read(
    {"model": {"hidden_dims": [12], "latent_dim": 4}, "training": {"epochs": 3, "batch_size": 50}}
)
VAE = VaeContestant(name="vae", experiment=EXPERIMENT)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    config = SyntheticConfig(
        n_users=200, n_items=60, n_communities=3, n_niches=2, niche_size=5, mean_history=12
    )
    made = coterie.strong_generalization(
        synthetic(config, 0).interactions, n_validation_users=20, n_test_users=30, rng=0
    )
    return made.save(tmp_path_factory.mktemp("job") / "split")


def job(split, folder, contestant=VAE, **more):
    return Job(
        **{
            "folder": folder,
            "split": split,
            "contestant": contestant,
            "seed": 4,
            "cuts": (5, 20),
            "context": RunContext(device="cpu", precision="fp32"),
            "checkpoints": False,
            **more,
        }
    )


def test_what_a_run_leaves(split, tmp_path):
    stream = io.StringIO()
    assert do(job(split, tmp_path), Messages(stream))
    run = ComparisonFolder(tmp_path).load(4, VAE)
    opened = Split.open(split)
    seeded = Experiment.read(merged(EXPERIMENT.model_dump(), {"training": {"seed": 4}}))
    expected = coterie.train(
        opened.train, opened.validation, seeded, context=RunContext(device="cpu", precision="fp32")
    )
    evaluation = coterie.evaluate(expected.recommender, opened.test, ks=(5, 20))
    assert run.users["ndcg@20"].to_list() == evaluation.per_user["ndcg@20"].tolist()
    assert run.users["user_id"].to_list() == evaluation.user_ids.to_list()
    assert run.values["best_epoch"] == expected.best_epoch
    assert run.values["test"]["metrics"]["recall@5"]["mean"] == pytest.approx(run.mean("recall@5"))
    assert run.values["parameters"] == expected.recommender.model.n_parameters
    assert set(run.values["seconds"]) == {"read", "train", "test"}
    assert run.values["peak_memory"] > 50 << 20
    messages = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [m["epoch"]["epoch"] for m in messages if "epoch" in m] == [1, 2, 3]
    assert messages[0]["step"]["epochs"] == 3


def test_checkpoints_are_gone_with_the_run(split, tmp_path):
    assert do(job(split, tmp_path, checkpoints=True), Messages(io.StringIO()))
    folder = ComparisonFolder(tmp_path)
    assert folder.finished(4, VAE)
    assert not folder.unfinished(4, VAE.key).exists()


def test_nobody_listens_any_more():
    """A run that is asked to stop must still write its checkpoint, not fail at its messages."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        messages = Messages(stream)
        messages.epoch({"epoch": 1})
        messages.epoch({"epoch": 2})


def test_peak_memory_is_of_this_process_and_counts_what_was_freed():
    code = (
        "import numpy as np; from coterie.comparison.job import peak_memory; "
        "before = peak_memory(); x = np.ones(20 << 20); del x; print(before, peak_memory())"
    )
    ballast = np.ones(40 << 20)  # 320 MiB here must not count there
    assert peak_memory() > ballast.nbytes
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    assert after - before > 140 << 20
    assert before < peak_memory() - ballast.nbytes / 2


class Watcher:
    def __init__(self):
        self.steps, self.epochs = [], []

    def step(self, report):
        self.steps.append(report)

    def epoch(self, record):
        self.epochs.append(record["epoch"])


def test_the_observer_hears_from_the_process(split, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    watcher = Watcher()
    assert run_job(job(split, tmp_path), threads=1, observer=watcher)
    assert watcher.epochs == [1, 2, 3]
    assert watcher.steps[-1].users == 150
    assert ComparisonFolder(tmp_path).load(4, VAE).values["threads"] == 1


class Impatient(Watcher):
    """Presses Ctrl-C after some epochs."""

    def epoch(self, record):
        super().epoch(record)
        if record["epoch"] == 3:
            raise KeyboardInterrupt


class Kept(subprocess.Popen):
    """Keeps the processes that were started."""

    all: ClassVar[list[subprocess.Popen]] = []

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.all.append(self)


def test_interrupted_with_checkpoints_goes_on_where_it_stopped(split, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Kept)
    long = merged(EXPERIMENT.model_dump(), {"training": {"epochs": 40, "patience": None}})
    one = VaeContestant(name="vae", experiment=Experiment.read(long))
    with pytest.raises(KeyboardInterrupt):
        run_job(job(split, tmp_path / "a", one, checkpoints=True), observer=Impatient())
    assert capfd.readouterr().err == ""
    assert Kept.all[-1].returncode == INTERRUPTED  # it had the time to stop by itself
    folder = ComparisonFolder(tmp_path / "a")
    assert not folder.finished(4, one)
    assert (folder.unfinished(4, one.key) / "last.safetensors").exists()
    stream = io.StringIO()
    assert do(job(split, tmp_path / "a", one, checkpoints=True), Messages(stream))
    first = next(json.loads(line) for line in stream.getvalue().splitlines() if "epoch" in line)
    assert first["step"]["epoch"] > 3
    assert do(job(split, tmp_path / "b", one), Messages(io.StringIO()))
    whole = ComparisonFolder(tmp_path / "b").load(4, one)
    assert folder.load(4, one).users.equals(whole.users)


STARTS_A_RUN = """
import os, subprocess, sys
run = [sys.executable, "-m", "coterie.comparison.job", str(os.getpid())]
process = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
process.stdin.write(sys.argv[1])
process.stdin.close()
print(process.stdout.readline(), end="", flush=True)
sys.stdin.read()
"""


def test_a_run_stops_when_whoever_started_it_is_killed(split, tmp_path):
    long = merged(EXPERIMENT.model_dump(), {"training": {"epochs": 5000, "patience": None}})
    one = VaeContestant(name="vae", experiment=Experiment.read(long))
    text = job(split, tmp_path, one, checkpoints=True).model_dump_json()
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_RUN, text], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as starter:
        assert "step" in json.loads(starter.stdout.readline())
        starter.kill()
        _, said = starter.communicate(timeout=60)  # until the run, which has its stderr, has ended
    assert said == ""
    folder = ComparisonFolder(tmp_path)
    assert not folder.finished(4, one)
    assert (folder.unfinished(4, one.key) / "last.safetensors").exists()


def test_an_error_keeps_its_class_and_names_the_run(split, tmp_path):
    wrong = BaselineContestant(name="svd", method="puresvd", options={"factors": 500})
    with pytest.raises(ConfigError, match="svd, seed 4: "):
        run_job(job(split, tmp_path, wrong))
    assert ComparisonFolder(tmp_path).load(4, wrong) is None
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_killed(split, tmp_path, monkeypatch):
    """As the system does when memory runs out."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(CoterieError, match="vae, seed 4 ended with signal 9"):
        run_job(job(split, tmp_path / "out"))
    assert os.environ["PYTHONPATH"]


def test_a_record_is_of_its_values(split, tmp_path):
    do(job(split, tmp_path), Messages(io.StringIO()))
    folder = ComparisonFolder(tmp_path)
    file = folder.users_file(4, VAE.key)
    pl.read_parquet(file).head(3).write_parquet(file)
    with pytest.raises(CoterieError, match="damaged"):
        folder.load(4, VAE)
    other = VaeContestant(
        name="vae", experiment=Experiment.read({**EXPERIMENT.model_dump(), "training": {}})
    )
    with pytest.raises(ConfigError, match=r"experiment\.training\.epochs is 3 there and 100 here"):
        folder.finished(4, other)
