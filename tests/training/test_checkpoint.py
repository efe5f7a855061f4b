import json
import resource
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import context, experiment, run, small_split

from coterie.data.batches import UserBatches
from coterie.data.ids import IdMap
from coterie.errors import ArtifactError, ConfigError, StorageError
from coterie.training.checkpoint import Progress, fingerprint, load_checkpoint, save_checkpoint
from coterie.training.config import Experiment
from coterie.training.loop import train
from coterie.training.state import TrainingState, training_step
from full_disk import no_file_larger_than

BELONGS_TO = {
    "experiment": {"training": {"seed": 0}},
    "data": [1, 2, 3, 4],
    "precision": "fp32",
    "device": "cpu",
}


def trained_state(steps: int = 3, seed: int = 0) -> TrainingState:
    data = small_split().train
    state = TrainingState.create(experiment(seed=seed), data.n_items, context())
    for batch in [*UserBatches(data, 20, seed).epoch(0)][:steps]:
        training_step(state, batch, experiment(seed=seed), 17)
        state.progress.step += 1
    return state


def save(path: Path, state: TrainingState) -> Path:
    save_checkpoint(path, state.modules, state.optimizer, state.progress, BELONGS_TO)
    return path


def load(path: Path, state: TrainingState) -> Progress:
    return load_checkpoint(path, state.modules, state.optimizer, BELONGS_TO)


def test_weights_moments_and_progress_come_back(tmp_path: Path) -> None:
    state, fresh = trained_state(), trained_state(0, seed=1)
    state.progress.sums = {"nll": 0.1 + 0.2, "users": 3.0}
    state.progress.history = [{"epoch": 1, "nll": 1 / 3}]
    state.progress.best_value = 2**-0.5
    assert load(save(tmp_path / "c", state), fresh) == state.progress
    for one, other in zip(state.parameters, fresh.parameters, strict=True):
        assert torch.equal(one, other)
    assert state.optimizer.state["model.decoder.table.steps"] == 3
    assert state.optimizer.state["model.decoder.table.exp_avg_sq"].any()
    assert {*state.optimizer.state} == {*fresh.optimizer.state}
    for key, value in state.optimizer.state.items():
        assert torch.equal(value, fresh.optimizer.state[key]), key


def test_the_step_after_loading_is_the_step_that_would_have_been(tmp_path: Path) -> None:
    state, fresh = trained_state(), trained_state(2, seed=1)  # not even a fresh one
    fresh.progress = load(save(tmp_path / "c", state), fresh)
    batch = UserBatches(small_split().train, 20, 0).batch(0, 3)
    for each in (state, fresh):
        training_step(each, batch, experiment(), 17)
    for one, other in zip(state.parameters, fresh.parameters, strict=True):
        assert torch.equal(one, other)


def test_nothing_in_it_is_pickled_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = save(tmp_path / "c", trained_state())
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert header["__metadata__"]["format"] == "coterie-checkpoint"
    assert header["model.encoder.table"]["dtype"] == "F32"
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


# ---- damaged


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_by_one(content: bytes) -> bytes:
    return content[:-1]


def flip_a_bit_of_a_weight(content: bytes) -> bytes:
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


def edit_the_step(content: bytes) -> bytes:
    assert b'\\"step\\": 3,' in content
    return content.replace(b'\\"step\\": 3,', b'\\"step\\": 4,')


def edit_what_it_belongs_to(content: bytes) -> bytes:
    assert b'\\"seed\\": 0' in content
    return content.replace(b'\\"seed\\": 0', b'\\"seed\\": 7')


def break_the_json(content: bytes) -> bytes:
    return content.replace(b'\\"step\\": 3,', b'\\"step\\": 3;')


def empty(content: bytes) -> bytes:
    return b""


def garbage(content: bytes) -> bytes:
    return b"not a checkpoint at all"


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        cut_by_one,
        flip_a_bit_of_a_weight,
        edit_the_step,
        edit_what_it_belongs_to,
        break_the_json,
        empty,
        garbage,
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Any) -> None:
    path = save(tmp_path / "last.safetensors", trained_state())
    path.write_bytes(damage(path.read_bytes()))
    fresh = trained_state(0, seed=1)
    before = [parameter.detach().clone() for parameter in fresh.parameters]
    with pytest.raises(ArtifactError, match=r"last\.safetensors"):
        load(path, fresh)
    for old, new in zip(before, fresh.parameters, strict=True):
        assert torch.equal(old, new), "nothing of it was taken over"


def test_a_checkpoint_of_another_version_is_told_from_damage(tmp_path: Path) -> None:
    path = save(tmp_path / "last.safetensors", trained_state())
    content = path.read_bytes()
    assert b'"version":"3"' in content
    path.write_bytes(content.replace(b'"version":"3"', b'"version":"2"'))
    with pytest.raises(ArtifactError, match=r"of version 2, and version 3 is read.* \(--overwrite"):
        load(path, trained_state(0))


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"model.encoder.table": torch.zeros(3, 2)}, tmp_path / "x")
    with pytest.raises(ArtifactError, match="no checkpoint of coterie"):
        load(tmp_path / "x", trained_state(0))


def test_a_missing_or_ill_shaped_tensor_is_named(tmp_path: Path) -> None:
    state = trained_state()
    path = save(tmp_path / "c", state)
    modules = {"model": state.model, "other": state.objective}
    with pytest.raises(ArtifactError, match=r"lacks the tensor 'other\.anchors\.table'"):
        load_checkpoint(path, modules, None, BELONGS_TO)
    wider = TrainingState.create(experiment(model={"hidden_dims": [25]}), 160, context())
    with pytest.raises(ArtifactError, match=r"has shape \[\d+, 24\], expected \[\d+, 25\]"):
        load_checkpoint(path, wider.modules, None, BELONGS_TO)


def test_a_damaged_checkpoint_stops_a_resumed_run(tmp_path: Path) -> None:
    run(experiment(epochs=1), folder=tmp_path)
    path = tmp_path / "last.safetensors"
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ArtifactError, match="not a readable checkpoint"):
        run(experiment(epochs=1), folder=tmp_path, resume=True)


# ---- of something else


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (experiment(epochs=1, seed=1), r"training\.seed is 0 there and 1 here"),
        (experiment(epochs=1, learning_rate=0.1), r"training\.learning_rate is 0\.005 there"),
        (experiment(epochs=1, pia=0.5), r"objective\.alignment is .*'end': 1\.0.*'end': 0\.5"),
        (
            experiment(epochs=1, model={"latent_dim": 9}, seed=1),
            r"model\.latent_dim is 8 there and 9 here",
        ),
    ],
)
def test_a_checkpoint_of_another_experiment(
    tmp_path: Path, other: Experiment, message: str
) -> None:
    run(experiment(epochs=1), folder=tmp_path)
    with pytest.raises(ConfigError, match=message):
        run(other, folder=tmp_path, resume=True)


def test_a_checkpoint_of_other_data(tmp_path: Path) -> None:
    run(experiment(epochs=1), folder=tmp_path)
    data = small_split().train
    fewer = data.select(np.arange(data.nnz) != 5)
    with pytest.raises(ConfigError, match=r"trained on other data.*Use another run folder"):
        train(fewer, None, experiment(epochs=1), context=context(), folder=tmp_path, resume=True)


def test_the_fingerprint_tells_data_apart() -> None:
    data = small_split().train
    swapped = replace(data, indices=(data.n_items - 1 - data.indices[::-1]).copy())
    reordered = data.rows(np.arange(data.n_users)[::-1])  # the same item counts
    prints = [
        fingerprint(experiment(), each, None, context()) for each in (data, swapped, reordered)
    ]
    assert prints[0] != prints[1]
    assert prints[0] != prints[2]
    assert prints[0] == fingerprint(experiment(), data, None, context())
    assert json.loads(json.dumps(prints[0])) == prints[0], "it survives the file's header"


def test_other_validation_users_are_other_data() -> None:
    split = small_split()
    prints = [
        fingerprint(experiment(), split.train, each, context())
        for each in (None, split.validation, split.test)
    ]
    assert prints[0] != prints[1]
    assert prints[1] != prints[2]


def test_other_item_ids_are_other_data(tmp_path: Path) -> None:
    data = small_split().train
    renamed = replace(data, item_ids=IdMap(range(data.n_items)))
    run(experiment(epochs=1), folder=tmp_path, validation=None)
    with pytest.raises(ConfigError, match=r"trained on other data"):
        train(renamed, None, experiment(epochs=1), context=context(), folder=tmp_path, resume=True)


def test_the_checksum_of_ids_tells_them_apart_and_stays() -> None:
    data = small_split().train
    ids: list[Any] = [
        range(160),
        np.arange(160, dtype=np.uint64),
        np.arange(160)[::-1],
        [str(n) for n in range(160)],
        ["ab", "c", *map(str, range(158))],
        ["a", "bc", *map(str, range(158))],
    ]
    sums = [
        fingerprint(experiment(), replace(data, item_ids=IdMap(each)), None, context())["data"][3]
        for each in (*ids, range(160))
    ]
    assert len(set(sums)) == len(ids)
    assert sums[0] == sums[-1]


def test_another_precision_is_refused_and_another_device_is_not(tmp_path: Path) -> None:
    run(experiment(epochs=1), folder=tmp_path)
    with pytest.raises(ConfigError, match=r"with precision fp32, here it is bf16.*--precision"):
        run(experiment(epochs=2), folder=tmp_path, resume=True, within=context(precision="bf16"))
    state = trained_state()
    elsewhere = {**BELONGS_TO, "device": "cuda"}
    load_checkpoint(save(tmp_path / "c", state), state.modules, state.optimizer, elsewhere)


def test_a_finished_run_can_be_extended(tmp_path: Path) -> None:
    run(experiment(epochs=1), folder=tmp_path)
    longer = run(experiment(epochs=2), folder=tmp_path, resume=True)
    assert [record["epoch"] for record in longer.history] == [1, 2]
    whole = run(experiment(epochs=2))
    for one, other in zip(
        longer.recommender.model.parameters(), whole.recommender.model.parameters(), strict=True
    ):
        assert torch.equal(one, other)


# ---- a full disk


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = save(tmp_path / "c", trained_state())
    before = path.read_bytes()
    with no_file_larger_than(20_000), pytest.raises(StorageError, match="disk is full"):
        save(path, trained_state(4))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c"], "nothing half-written"
    assert load(path, trained_state(0)).step == 3


def test_a_disk_that_fills_up_in_training_leaves_a_run_that_can_go_on(tmp_path: Path) -> None:
    run(experiment(epochs=1), folder=tmp_path / "sizes")
    fits = (tmp_path / "sizes" / "last.safetensors").stat().st_size

    class FillUp:
        def step(self, report: Any) -> None:
            if report.epoch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (fits // 2, limits[1]))

        def epoch(self, record: dict[str, Any]) -> None:
            pass

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(StorageError, match="disk is full"):
            run(folder=tmp_path / "run", observer=FillUp())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*(tmp_path / "run").glob("*.part")]
    resumed, whole = run(folder=tmp_path / "run", resume=True), run()
    for name, value in whole.recommender.model.state_dict().items():
        assert torch.equal(resumed.recommender.model.state_dict()[name], value), name
