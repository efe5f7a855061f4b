"""Real processes, killed and interrupted from outside at a known place."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import small_run
import torch
from safetensors import safe_open
from small_run import ALWAYS, NEVER, preset, run

from coterie.training.config import Experiment
from coterie.training.loop import TrainingResult

PATIENCE_S = 300  # for a busy machine


@contextmanager
def waiting(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The small run as a process, from when it has reached the place where it waits."""
    process = subprocess.Popen(
        [sys.executable, small_run.__file__, str(folder), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        until = time.monotonic() + PATIENCE_S
        while not (folder / "reached").exists():
            assert process.poll() is None, "the process ended before it got there"
            assert time.monotonic() < until, "the process did not get there"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "last.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def steps_done(folder: Path) -> int:
    with safe_open(folder / "last.safetensors", framework="pt") as file:
        return int(json.loads(file.metadata()["progress"])["step"])


PRESETS = ("recvae+pia", "h-vamp-gated+pia")


@pytest.fixture(scope="module")
def uninterrupted_presets(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Path, TrainingResult]]:
    folders = {name: tmp_path_factory.mktemp(name) for name in PRESETS}
    return {name: (folder, run(preset(name), folder=folder)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder=folder)


def assert_same(
    folder: Path, uninterrupted: tuple[Path, TrainingResult], settings: Experiment | None = None
) -> None:
    resumed, (whole_folder, whole) = run(settings, folder=folder, resume=True), uninterrupted
    assert resumed.history == whole.history
    ours, theirs = tensors_of(folder), tensors_of(whole_folder)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("optimizer.") for name in ours)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    for name, value in resumed.recommender.model.state_dict().items():
        assert torch.equal(value, whole.recommender.model.state_dict()[name]), name
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == whole.history


@pytest.mark.parametrize(
    ("epoch", "step", "minutes", "where", "kept"),
    [
        (2, 10, NEVER, "step", 17),  # in mid-epoch, from the end of the epoch before
        (3, 17, ALWAYS, "step", 2 * 17 + 10),  # in mid-epoch, from mid-epoch
        (2, 10, ALWAYS, "write", 17),  # while a checkpoint is half-written
    ],
)
def test_killed_and_resumed_is_uninterrupted(
    tmp_path: Path,
    uninterrupted: tuple[Path, TrainingResult],
    epoch: int,
    step: int,
    minutes: float,
    where: str,
    kept: int,
) -> None:
    with waiting(tmp_path, epoch, step, minutes, where) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert steps_done(tmp_path / "run") == kept
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    ("epoch", "minutes"),
    [(4, ALWAYS), (5, NEVER)],  # of RecVAE: within the decoder's epoch, and after its set
)
def test_presets_killed_and_resumed_are_uninterrupted(
    tmp_path: Path,
    uninterrupted_presets: dict[str, tuple[Path, TrainingResult]],
    name: str,
    epoch: int,
    minutes: float,
) -> None:
    with waiting(tmp_path, epoch, 17, minutes, "step", name) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    begins = (epoch - 1) * 17 + (10 if minutes == ALWAYS else 0)
    assert steps_done(tmp_path / "run") == begins
    assert_same(tmp_path / "run", uninterrupted_presets[name], preset(name))


def test_ctrl_c_in_another_process_stops_cleanly_and_resumes_equal(
    tmp_path: Path, uninterrupted: tuple[Path, TrainingResult]
) -> None:
    with waiting(tmp_path, 2, 10, NEVER, "step") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        (tmp_path / "go").touch()
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    assert json.loads(output) == {"interrupted": True, "epochs": 1}
    # The step after the request is finished, then there is a checkpoint.
    assert 17 + 10 <= steps_done(tmp_path / "run") <= 17 + 11
    assert_same(tmp_path / "run", uninterrupted)
