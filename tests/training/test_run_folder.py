import json
import time
from pathlib import Path

import pytest
import torch
from small_run import context, experiment, small_split

from coterie.errors import StorageError
from coterie.training.run_folder import LAST, RunFolder
from coterie.training.state import TrainingState

BELONGS_TO = {"experiment": {}, "data": [1]}


def new_state(seed: int = 0) -> TrainingState:
    return TrainingState.create(experiment(seed=seed), small_split().train.n_items, context())


@pytest.mark.parametrize("in_folder", [False, True])
def test_the_best_weights_are_kept_and_put_back(tmp_path: Path, in_folder: bool) -> None:
    state, folder = new_state(), RunFolder(tmp_path if in_folder else None, BELONGS_TO)
    for value in (1.0, 2.0):
        with torch.no_grad():
            for parameter in state.parameters:
                parameter.fill_(value)
        state.progress.best_epoch = int(value)
        folder.save_best(state)
    with torch.no_grad():
        for parameter in state.parameters:
            parameter.fill_(3.0)
    folder.restore_best(state)
    assert all((parameter == 2).all() for parameter in state.parameters)


def test_without_a_best_epoch_the_weights_stay(tmp_path: Path) -> None:
    state = new_state()
    before = state.model.encoder.table.detach().clone()
    RunFolder(tmp_path, BELONGS_TO).restore_best(state)
    assert torch.equal(state.model.encoder.table, before)


def test_a_checkpoint_is_due_after_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    folder, state = RunFolder(tmp_path, BELONGS_TO), new_state()
    assert not folder.is_due(), "nobody asked for any yet"
    folder.checkpoint_every(10)
    clock[0] += 599
    assert not folder.is_due()
    clock[0] += 1
    assert folder.is_due()
    folder.save_last(state)
    assert not folder.is_due()
    clock[0] += 600
    assert folder.is_due()
    nowhere = RunFolder(None, BELONGS_TO)
    nowhere.checkpoint_every(1e-9)
    clock[0] += 600
    assert not nowhere.is_due()


def test_metrics_are_one_line_of_json_per_epoch(tmp_path: Path) -> None:
    folder, state = RunFolder(tmp_path, BELONGS_TO), new_state()
    state.progress.history = [{"epoch": 1, "nll": 0.1}, {"epoch": 2, "nll": 1 / 3}]
    folder.save_last(state)
    folder.save_last(state)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == state.progress.history


def test_a_path_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file", BELONGS_TO)
    with pytest.raises(StorageError, match="cannot be created"):
        folder.start()
    with pytest.raises(StorageError, match="cannot be created"):
        folder.resume(new_state())


def test_what_a_killed_run_was_writing_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / f".{LAST}.4711.part"
    left.write_bytes(b"half")
    other = tmp_path / ".notes.part"
    other.touch()
    RunFolder(tmp_path, {}).start()
    assert not left.exists()
    assert other.exists()
