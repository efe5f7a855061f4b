"""A model that is served without PyTorch gives what the library gives by it."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file, save_file
from served_models import FIRST, N_ITEMS, save, small_community, small_model
from test_scoring import ask, random_requests
from test_shortlist import ARCHITECTURES

from coterie.data.ids import NO_ITEM, IdMap
from coterie.errors import ArtifactError, DivergenceError
from coterie.files import MANIFEST, sha256
from coterie.models.baselines.ease import EaseConfig
from coterie.models.config import ModelConfig
from coterie.models.vae import VAE
from coterie.recommender import Recommender
from coterie.serving import served, shortlist, vae_lists
from coterie.serving.scoring import answer
from coterie.serving.similar_items import SimilarItems
from coterie.similarity import nearest
from coterie.stored import read_stored

WITHOUT_PYTORCH = """
import asyncio, gc, sys
from pathlib import Path

import coterie.cli.serve, coterie.serving.process
from coterie.devices import may_have_accelerator
from coterie.serving.fleet import Fleet
from coterie.serving.metrics import Metrics
from coterie.serving.reloader import Reloader
from coterie.serving.scoring import Ask, answer

folder = Path(sys.argv[1])
fleet = Fleet({"default": folder}, threads=3)
model = fleet["default"]
known, _ = model.find([1003, 1005])
(found,) = answer([Ask(model, known, 3, known)])
assert len(found.index) == 3 and len(model.similar.of(5, 4)[0]) == 4
if not may_have_accelerator():
    assert "torch" not in sys.modules, "imported after all"

reloader = Reloader(fleet, Metrics(), 0)
Path(sys.argv[2]).rename(folder.rename(folder.with_name("old")) and folder)
asyncio.run(reloader.reload())
import torch
(found,) = answer([Ask(fleet["default"], known, 3, known)])
assert fleet["default"].lists is None and len(found.index) == 3
assert torch.get_num_threads() == 3
assert gc.get_freeze_count() > 10_000 or may_have_accelerator()
folder.rename(folder.with_name("baseline"))
folder.with_name("old").rename(folder)
asyncio.run(reloader.reload())
assert fleet["default"].version == model.version and fleet["default"].recommender is None
"""


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(served, "may_have_accelerator", lambda: False)


def read(folder, community=None):
    return served.load(folder, name="m", filters={}, community=community, threads=1)


def made(architecture, *, anchors=False):
    ids = IdMap(range(FIRST, FIRST + N_ITEMS))
    vae = VAE(ModelConfig(**ARCHITECTURES[architecture]), N_ITEMS).initialized(1)
    table = torch.randn(N_ITEMS, 8, generator=torch.Generator().manual_seed(2))
    return Recommender(vae, ids, np.arange(N_ITEMS, 0, -1), anchors=table if anchors else None)


def test_pytorch_is_imported_for_a_baseline_only(tmp_path):
    folder = save(tmp_path / "model")
    baseline = Recommender.fit(EaseConfig(l2=1.0), small_community()).save(tmp_path / "ease")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYTORCH, str(folder), str(baseline)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_pytorch_holds_the_model_where_it_is_needed(model, tmp_path, monkeypatch):
    assert read(model).recommender is None
    assert read(model, small_community()).recommender is not None
    baseline = Recommender.fit(EaseConfig(l2=1.0), small_community()).save(tmp_path / "ease")
    assert read(baseline).lists is None
    assert read(baseline).recommender is not None
    monkeypatch.setattr(served, "may_have_accelerator", lambda: True)
    assert read(model).recommender is not None


def test_layers_too_large_for_a_graph_are_pytorchs(model, monkeypatch):
    monkeypatch.setattr(vae_lists, "MOST_BYTES", 100)
    ours = read(model)
    assert ours.lists is None
    (found,) = answer([ask(ours, [FIRST, FIRST + 3], 7)])
    expected = ours.recommender.recommend([FIRST, FIRST + 3], k=7)
    assert found.index == expected.item_index[0].tolist()


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lists_are_the_librarys(architecture, short, tmp_path, monkeypatch):
    if short:
        monkeypatch.setattr(shortlist, "LEAST_WORK", 0)
        monkeypatch.setattr(shortlist, "EXTRA", 1)  # so that few items leave some out
    recommender = made(architecture)
    ours = read(recommender.save(tmp_path / "model"))
    assert ours.recommender is None
    assert (ours.lists.short is not None) == short
    requests = list(random_requests(np.random.default_rng(6), 80))
    keys = ("k", "deny", "allow", "exclude_seen")
    asks = [ask(ours, one["histories"][0], **{key: one[key] for key in keys}) for one in requests]
    for one, best in zip(requests, answer(asks), strict=True):
        expected = recommender.recommend(**one)
        there = expected.item_index[0] != NO_ITEM
        assert best.index == expected.item_index[0][there].tolist()
        assert best.scores == pytest.approx(expected.scores[0][there].tolist(), rel=1e-4, abs=1e-5)
        assert best.fallback == expected.fallback[0]


@pytest.mark.parametrize("anchors", [False, True])
@pytest.mark.parametrize("k", [1, 7, N_ITEMS, 200])
def test_similar_items_are_the_librarys(anchors, k, tmp_path):
    recommender = made("multi-vae", anchors=anchors)
    ours = read(recommender.save(tmp_path / "model")).similar
    expected = recommender.similar_items(list(range(FIRST, FIRST + N_ITEMS)), k=k)
    assert ours.source == expected.source == ("anchors" if anchors else "decoder")
    for item in range(N_ITEMS):
        index, cosines = ours.of(item, k)
        there = expected.item_index[item] != NO_ITEM
        assert index.tolist() == expected.item_index[item][there].tolist()
        np.testing.assert_allclose(cosines, expected.scores[item][there], atol=1e-6)


def test_similar_items_with_equal_ones_and_vectors_of_zeros():
    draw = torch.Generator().manual_seed(0)
    table = torch.randint(-1, 2, (300, 3), generator=draw).float()
    ours = SimilarItems(table.numpy(), "decoder")
    for item in range(300):
        expected = nearest(table, np.array([item]), 20)
        np.testing.assert_allclose(ours.of(item, 20)[1], expected.scores[0], atol=1e-6)
    zeros = SimilarItems(np.zeros((9, 2), dtype=np.float32), "decoder")
    assert zeros.of(2, 4)[0].tolist() == [0, 1, 3, 4]
    assert zeros.of(2, 4)[1].tolist() == [0.0] * 4
    assert SimilarItems(np.ones((1, 2), dtype=np.float32), "decoder").of(0, 3)[0].tolist() == []
    table[7, 1] = torch.nan
    with pytest.raises(DivergenceError):
        SimilarItems(table.numpy(), "decoder").of(3, 5)


def edited(folder, name, change):
    """What somebody does who changes a tensor knowingly: the manifest says so as well."""
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights)
    manifest = json.loads((folder / MANIFEST).read_text())
    if name in tensors:
        kinds = {"float32": "F32", "float16": "F16", "float64": "F64", "uint8": "U8"}
        kind = str(tensors[name].dtype)
        dtype = kinds.get(kind, kind.replace("int", "I"))
        manifest["tensors"][name] = {"dtype": dtype, "shape": list(tensors[name].shape)}
    else:
        del manifest["tensors"][name]
    manifest["files"][weights.name] = {"bytes": weights.stat().st_size, "sha256": sha256(weights)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tensor_that_does_not_fit_is_refused(architecture, tmp_path):
    recommender = made(architecture)
    names = [name for name in recommender.model.state_dict() if not name.startswith("prior.")]
    for name in ["item_counts", *(f"model.{name}" for name in names)]:
        for change in (
            lambda tensors, name=name: tensors.pop(name),
            lambda tensors, name=name: tensors.update({name: np.repeat(tensors[name], 2, axis=0)}),
            lambda tensors, name=name: tensors.update({name: np.repeat(tensors[name], 2, axis=-1)}),
            lambda tensors, name=name: tensors.update({name: tensors[name].astype(np.int32)}),
        ):
            folder = recommender.save(tmp_path / "model", overwrite=True)
            edited(folder, name, change)
            with pytest.raises(ArtifactError, match=r"model\.safetensors"):
                read(folder)


@pytest.mark.parametrize(
    "anchors",
    [
        np.ones(N_ITEMS, dtype=np.float32),
        np.ones((N_ITEMS, 7), dtype=np.float32),
        np.ones((N_ITEMS, 8, 1), dtype=np.float32),
        np.ones((N_ITEMS, 8), dtype=np.float16),
        np.ones((N_ITEMS, 8), dtype=np.int32),
    ],
)
def test_anchors_that_do_not_fit_are_refused(anchors, tmp_path):
    folder = made("multi-vae", anchors=True).save(tmp_path / "model")
    edited(folder, "anchors", lambda tensors: tensors.update(anchors=anchors))
    with pytest.raises(ArtifactError, match=r"model\.safetensors.*'anchors'"):
        read(folder)


@pytest.mark.parametrize("spec", [5, None, {}, {"shape": [60]}, {"dtype": "F64", "shape": [60]}])
def test_a_manifest_that_describes_no_tensors_is_refused(spec, tmp_path):
    folder = save(tmp_path / "model")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["tensors"]["item_counts"] = spec
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"'tensors' does not describe model\.safetensors"):
        read(folder)


@pytest.mark.parametrize("type_", [np.float64, np.float16, np.uint8])
def test_a_type_that_no_model_has_is_refused(type_, tmp_path):
    folder = save(tmp_path / "model")
    name = "model.decoder.table"
    edited(folder, name, lambda tensors: tensors.update({name: tensors[name].astype(type_)}))
    with pytest.raises(ArtifactError, match=r"'model\.decoder\.table' has the type .*F32, I32"):
        read(folder)


def test_the_priors_tensors_are_not_read(tmp_path):
    stored = read_stored(made("recvae").save(tmp_path / "model"))
    assert any(name.startswith("model.prior.") for name in stored.specs)
    assert not [name for name in stored.read_tensors().model if name.startswith("prior.")]


def test_items_whose_weights_are_not_finite_may_be_closed(tmp_path):
    recommender = small_model()
    with torch.no_grad():
        recommender.model.decoder.table[3] = torch.nan
    ours = read(recommender.save(tmp_path / "model"))
    with pytest.raises(DivergenceError):
        answer([ask(ours, [FIRST], 5)])
    allow = list(range(FIRST + 4, FIRST + N_ITEMS))
    (found,) = answer([ask(ours, [FIRST], 5, allow=allow)])
    expected = recommender.recommend([FIRST], k=5, allow=allow)
    assert found.index == expected.item_index[0].tolist()


def test_counts_beyond_float32_rank_as_the_librarys(tmp_path):
    recommender = small_model()
    recommender.item_counts[:4] = (1 << 24) + np.arange(4)
    ours = read(recommender.save(tmp_path / "model"))
    (found,) = answer([ask(ours, [], 6)])
    assert found.index == recommender.recommend([], k=6).item_index[0].tolist()


def test_settings_that_do_not_fit_are_refused(tmp_path):
    folder = save(tmp_path / "model")
    manifest = json.loads((folder / MANIFEST).read_text())
    for change in ({"latent_dim": 5}, {"hidden_dims": [16, 16]}, {"latent_dim": 0}):
        model = {**manifest["model"], **change}
        (folder / MANIFEST).write_text(json.dumps({**manifest, "model": model}))
        with pytest.raises(ArtifactError, match=r"model\.safetensors|'model' is not valid"):
            read(folder)


def test_titles_come_from_the_item_table(tmp_path):
    recommender = small_model()
    recommender.items = pl.DataFrame({"item_id": [FIRST + 2], "title": ["Two"]})
    titles = read(recommender.save(tmp_path / "model")).titles
    assert titles[:4] == [None, None, "Two", None]
