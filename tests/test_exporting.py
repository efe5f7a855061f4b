"""A model as an ONNX graph gives, in ONNX Runtime, what the library gives."""

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from coterie import exporting, files
from coterie.data.ids import IdMap
from coterie.errors import (
    ArtifactError,
    ConfigError,
    MissingExtraError,
    NotFittedError,
    StorageError,
)
from coterie.exporting import export_onnx
from coterie.histories import from_pairs
from coterie.models.baselines import METHODS
from coterie.models.config import ModelConfig
from coterie.models.vae import VAE
from coterie.recommender import Recommender
from coterie.stored import version_of
from full_disk import no_file_larger_than

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow  # PyTorch's exporter takes seconds for any model
N_ITEMS = 70
ARCHITECTURES = {
    "multi-vae": {"hidden_dims": (16,)},
    "multi-dae": {"name": "multi-dae"},
    "recvae": {"name": "recvae", "hidden_dims": (16, 16)},
    "h-vamp-gated": {"name": "h-vamp-gated", "hidden_dims": (16, 16)},
}


def recommender(name="multi-vae"):
    ids = IdMap([f"i{place}" for place in range(N_ITEMS)])
    titles = pl.DataFrame({"item_id": ids.ids, "title": [f"Title {at}" for at in range(N_ITEMS)]})
    if name in ARCHITECTURES:
        config = ModelConfig(latent_dim=8, **ARCHITECTURES[name])
        counts = np.arange(N_ITEMS, 0, -1)
        return Recommender(VAE(config, N_ITEMS).initialized(3), ids, counts, items=titles)
    rng = np.random.default_rng(0)
    users, items = np.divmod(np.unique(rng.integers(0, 90 * N_ITEMS, 900)), N_ITEMS)
    data = from_pairs(users, items, IdMap(range(90)), ids)
    settings = {"factors": 5} if name in ("puresvd", "ials") else {}
    return Recommender.fit(METHODS[name].config(**settings), data)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A Multi-VAE's folder, and what was made of it."""
    folder = tmp_path_factory.mktemp("exported")
    recommender().save(folder / "model")
    return folder, export_onnx(folder / "model", folder / "m.onnx")


def scores(path, histories):
    longest = max(1, *map(len, histories))
    padded = np.array([[*history, *[-1] * (longest - len(history))] for history in histories])
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"items": padded.astype(np.int64)})[0]


@pytest.mark.parametrize("name", [*ARCHITECTURES, "ease", "puresvd"])
def test_scores_are_those_of_the_library(name, tmp_path):
    model = recommender(name)
    done = export_onnx(model, tmp_path / "m.onnx")
    assert done.largest_difference < 1e-5
    assert done.overlap > 0.999
    histories = [[3, 1, 69], [5], [], [7] * 9, list(range(40)), [2, 2, 9, 2]]
    expected = model.recommend(
        [[f"i{item}" for item in history] for history in histories], k=N_ITEMS, exclude_seen=False
    )
    found = scores(done.out, histories)
    assert found.shape == (6, N_ITEMS)
    for row, one in enumerate(found):
        by_item = np.empty(N_ITEMS)
        by_item[expected.item_index[row]] = expected.scores[row]
        np.testing.assert_allclose(one, by_item, rtol=1e-4, atol=1e-5 * abs(by_item).max())


def test_any_shape_and_any_place_of_the_padding(exported):
    path = exported[1].out
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    one = scores(path, [[4, 11]])
    for items in ([[-1, 4, -1, 11]], [[11, 4]], [[11, -5, 4, 4, 11, -1, -1]]):
        again = session.run(None, {"items": np.array(items, dtype=np.int64)})[0]
        np.testing.assert_allclose(again, one, rtol=1e-5, atol=1e-6)
    assert scores(path, [[1]] * 200).shape == (200, N_ITEMS)
    assert scores(path, [[0] * 3000]).shape == (1, N_ITEMS)


def test_what_is_beside_and_inside(exported):
    folder, done = exported
    beside = json.loads(done.items_file.read_text())
    assert done.items_file == folder / "m.items.json"
    assert beside["item_ids"] == [f"i{place}" for place in range(N_ITEMS)]
    assert beside["titles"][5] == "Title 5"
    assert beside["model_version"] == done.version == version_of(folder / "model")
    session = ort.InferenceSession(done.out, providers=["CPUExecutionProvider"])
    inside = session.get_modelmeta().custom_metadata_map
    assert inside["model_version"] == done.version
    assert inside["n_items"] == str(N_ITEMS)
    assert inside["items_file"] == "m.items.json"
    assert inside["coterie_version"]
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, len(given.shape)) == ("items", "tensor(int64)", 2)
    assert (got.name, got.type, got.shape[1]) == ("scores", "tensor(float)", N_ITEMS)
    assert not isinstance(given.shape[0], int)
    assert not isinstance(given.shape[1], int)


@pytest.mark.parametrize("name", ["popularity", "item-knn", "sparse-ease", "ials"])
def test_what_cannot_be_exported_is_named(name, tmp_path):
    with pytest.raises(NotFittedError, match=name):
        export_onnx(recommender(name), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_unasked(tmp_path):
    for taken in ("m.onnx", "m.items.json"):
        (tmp_path / taken).write_text("mine")
        with pytest.raises(StorageError, match="exists already"):
            export_onnx(recommender(), tmp_path / "m.onnx")
        assert (tmp_path / taken).read_text() == "mine"
        (tmp_path / taken).unlink()
    with pytest.raises(ConfigError, match=r"end in \.onnx"):
        export_onnx(recommender(), tmp_path / "m.bin")


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    right = exporting._Graph._scores
    monkeypatch.setattr(
        exporting._Graph, "_scores", lambda self, sums, lengths: right(self, sums, lengths + 1)
    )
    with pytest.raises(ArtifactError, match="does not give the model's scores"):
        export_onnx(recommender(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_too_large_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="holds 2 GiB"):
        export_onnx(recommender(), tmp_path / "m.onnx")


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"onnxscript.*coterie\[export\]"):
        export_onnx(recommender(), tmp_path / "m.onnx")


def test_a_full_disk_leaves_what_was_there(tmp_path):
    out: Path = tmp_path / "m.onnx"
    out.write_text("before")
    with no_file_larger_than(2000), pytest.raises(StorageError, match="disk is full"):
        export_onnx(recommender(), out, overwrite=True)
    assert out.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_a_graph_that_cannot_be_flushed_leaves_the_old_pair(tmp_path, monkeypatch):
    """The ids of one model beside the graph of another would name the wrong items."""
    pair = [tmp_path / "m.onnx", tmp_path / "m.items.json"]
    for path in pair:
        path.write_text("before")
    flush = os.fsync

    def fails(number):
        if ".onnx" in os.readlink(f"/proc/self/fd/{number}"):
            raise OSError(errno.ENOSPC, "no space")
        flush(number)

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(StorageError, match=r"disk is full: .*m\.onnx"):
        export_onnx(recommender(), pair[0], overwrite=True)
    assert [path.read_text() for path in pair] == ["before"] * 2
    assert sorted(tmp_path.iterdir()) == sorted(pair)


def test_a_folder_in_the_place_of_a_file_is_said_before_the_work(tmp_path):
    (tmp_path / "m.items.json").mkdir()
    with pytest.raises(StorageError, match=r"m\.items\.json is a folder"):
        export_onnx(recommender(), tmp_path / "m.onnx", overwrite=True)
    assert not (tmp_path / "m.onnx").exists()


def test_a_saved_model_is_loaded_onto_the_processor(exported, tmp_path, monkeypatch):
    devices = []
    load = Recommender.load
    monkeypatch.setattr(
        Recommender,
        "load",
        lambda path, **given: devices.append(given["device"]) or load(path, **given),
    )
    export_onnx(exported[0] / "model", tmp_path / "m.onnx")
    assert devices == ["cpu"]


class Elsewhere(Recommender):
    @property
    def device(self):
        return torch.device("cuda")


@pytest.mark.parametrize("name", ["multi-vae", "ease"])
def test_a_recommender_from_elsewhere_is_copied(name, tmp_path):
    one = recommender(name)
    there = Elsewhere(one.model, one.item_ids, one.item_counts, items=one.items)
    here = exporting._on_cpu(there)
    assert here.model is not there.model
    assert here.device.type == "cpu"
    assert exporting._on_cpu(one) is one
    assert export_onnx(there, tmp_path / "m.onnx").largest_difference < 1e-5
    beside = json.loads((tmp_path / "m.items.json").read_text())
    assert ("titles" in beside) == (one.items is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["multi-vae", "ease", "puresvd"])
def test_a_recommender_on_an_accelerator_is_exported_and_stays_there(name, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    recommender(name).save(tmp_path / "model")
    there = Recommender.load(tmp_path / "model", device="cuda")
    of_folder = export_onnx(tmp_path / "model", tmp_path / "folder.onnx")
    done = export_onnx(there, tmp_path / "m.onnx")
    assert there.device.type == "cuda"
    assert max(done.largest_difference, of_folder.largest_difference) < 1e-5
    histories = [[3, 1, 69], [5], [], [7] * 9]
    np.testing.assert_array_equal(scores(done.out, histories), scores(of_folder.out, histories))
