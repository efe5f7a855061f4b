"""What every model must do behind a recommender, be it a VAE or a baseline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from coterie.data.batches import user_batch
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import ArtifactError, DivergenceError, NotFittedError
from coterie.models.baselines import METHODS
from coterie.models.config import ARCHITECTURES, ModelConfig
from coterie.models.model import BaselineConfig
from coterie.models.vae import VAE
from coterie.recommender import Recommender
from histories import interactions_of, random_histories

N_USERS, N_ITEMS = 50, 23
SMALL: dict[str, dict[str, Any]] = {
    "multi-vae": {"hidden_dims": [7], "latent_dim": 4},
    "multi-dae": {"hidden_dims": [7], "latent_dim": 4},
    "recvae": {"hidden_dims": [6, 6], "latent_dim": 4},
    "h-vamp-gated": {"hidden_dims": [6, 6], "latent_dim": 4, "prior": {"n_pseudo_inputs": 5}},
    "item-knn": {"neighbours": 6, "shrinkage": 2.0},
    "ease": {"l2": 3.0},
    "sparse-ease": {"neighbours": 6, "l2": 3.0},
    "puresvd": {"factors": 5},
    "ials": {"factors": 5, "iterations": 3, "l2": 1.0},
}
NAMES = [*ARCHITECTURES, *METHODS]
WITHOUT_SIMILARITY = {"popularity"}


def train() -> Interactions:
    data = interactions_of(random_histories(N_USERS, N_ITEMS, seed=1, longest=9), N_ITEMS)
    return Interactions(
        data.indptr,
        data.indices,
        data.user_ids,
        IdMap([f"i{number}" for number in range(N_ITEMS)]),
        items=pl.DataFrame({"item_id": ["i0"], "title": ["The first"]}),
    )


def made(name: str) -> Recommender:
    data, settings = train(), SMALL.get(name, {})
    if name in METHODS:
        return Recommender.fit(METHODS[name].config.read(settings), data)
    config = ModelConfig.read({"name": name, **settings})
    model = VAE(config, N_ITEMS).initialized(2)
    return Recommender(model, data.item_ids, data.item_counts(), items=data.items)


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    given: str = request.param
    return given


@pytest.fixture(scope="module")
def model(name: str) -> Recommender:
    return made(name)


@pytest.fixture(scope="module")
def unseen() -> Interactions:
    """Users that nobody was trained on; the first has no history, the second all items."""
    histories = random_histories(40, N_ITEMS, seed=9)
    histories[1] = list(range(N_ITEMS))
    data = interactions_of(histories, N_ITEMS)
    return Interactions(data.indptr, data.indices, data.user_ids, train().item_ids)


def test_scores_are_finite_floats_in_memory_of_their_own(model, unseen):
    scores = model.score(unseen)
    assert (scores.dtype, scores.shape) == (torch.float32, (40, N_ITEMS))
    assert scores.isfinite().all()
    kept = scores.clone()
    scores.fill_(-torch.inf)
    assert model.score(unseen).equal(kept)


def test_a_batch_scores_as_each_user_alone(model, unseen):
    together = model.score(unseen)
    for user in range(unseen.n_users):
        alone = model.score(unseen.rows(np.array([user])))[0]
        torch.testing.assert_close(alone, together[user], rtol=1e-4, atol=1e-5)


def test_no_users_are_no_rows(model, unseen):
    assert model.score(unseen.rows(np.array([], dtype=np.int64))).shape == (0, N_ITEMS)


def test_the_order_of_a_history_does_not_matter(model):
    history = ["i3", "i17", "i8", "i11", "i0"]
    given = model.recommend(history, k=N_ITEMS)
    for other in (history[::-1], sorted(history), history + history[:2]):
        found = model.recommend(other, k=N_ITEMS)
        assert found.to_lists() == given.to_lists()
        assert np.array_equal(found.scores, given.scores)


def test_the_order_within_a_batch_does_not_matter(model, unseen):
    """Not even below the recommender, which sorts."""
    batch = user_batch(unseen, np.arange(unseen.n_users))
    turned = batch.indices.clone()
    for start, stop in zip(batch.indptr[:-1].tolist(), batch.indptr[1:].tolist(), strict=True):
        turned[start:stop] = batch.indices[start:stop].flip(0)
    other = type(batch)(batch.indptr, turned, batch.scale, batch.n_items)
    with torch.no_grad():
        torch.testing.assert_close(model.model(other), model.model(batch), rtol=1e-4, atol=1e-5)


def test_users_that_were_never_seen_get_unseen_items_by_score(model, unseen):
    found, scores = model.recommend(unseen, k=N_ITEMS), model.score(unseen)
    assert found.fallback.tolist() == [True] + [False] * 39
    for user in range(2, 40):
        left = [item for item in range(N_ITEMS) if item not in unseen.row(user)]
        ranked = sorted(left, key=lambda item: (-scores[user, item].item(), item))
        listed = found.item_index[user]
        assert listed[listed >= 0].tolist() == ranked
    assert found.to_lists()[1] == []


def test_without_a_known_history_the_most_popular_items_are_given(model):
    counts = train().item_counts()
    popular = sorted(range(N_ITEMS), key=lambda item: (-counts[item], item))[:4]
    found = model.recommend([[], ["nobody knows it"]], k=4)
    assert found.fallback.all()
    assert found.item_index.tolist() == [popular, popular]
    assert found.unknown["item_id"].to_list() == ["nobody knows it"]


def test_unknown_items_change_nothing(model):
    known, more = ["i1", "i5"], ["i1", "a stranger", "i5"]
    assert model.recommend(more).to_lists() == model.recommend(known).to_lists()


def test_more_items_than_there_are(model):
    found = model.recommend(["i4"], k=10 * N_ITEMS)
    assert found.item_index.shape == (1, N_ITEMS)
    assert sorted(found.to_lists()[0]) == sorted(f"i{n}" for n in range(N_ITEMS) if n != 4)


def test_what_is_loaded_is_what_was_saved_bit_for_bit(model, unseen, tmp_path):
    loaded = Recommender.load(model.save(tmp_path / "model"), device="cpu")
    assert loaded.score(unseen).equal(model.score(unseen))
    weights = loaded.model.state_dict()
    assert set(weights) == set(model.model.state_dict())
    assert all(weights[name].equal(tensor) for name, tensor in model.model.state_dict().items())
    assert loaded.info() == model.info()
    assert loaded.model.config == model.model.config
    again = Recommender.load(loaded.save(tmp_path / "again"), device="cpu")
    assert again.score(unseen).equal(model.score(unseen))


def test_the_same_twice(name, model, unseen):
    assert made(name).score(unseen).equal(model.score(unseen))


def test_facts_are_what_json_holds(name, model):
    info = model.info()
    assert json.loads(json.dumps(info)) == info
    assert info["model"]["name"] == name
    assert info["n_parameters"] >= N_ITEMS
    assert repr(model) == f"Recommender({name}, {N_ITEMS} items, cpu)"


def test_similar_items_are_given_or_refused(name, model):
    if name in WITHOUT_SIMILARITY:
        with pytest.raises(NotFittedError, match=f"{name} has no notion of similar items"):
            model.similar_items(["i1"])
        return
    found = model.similar_items(["i1", "who?", "i2"], k=N_ITEMS)
    assert found.source == model.model.similarity
    assert found.unknown["item_id"].to_list() == ["who?"]
    assert found.item_ids.to_list() == ["i1", "i2"]
    for row, item in enumerate((1, 2)):
        listed = found.item_index[row][found.item_index[row] >= 0]
        assert item not in listed
        assert len(set(listed)) == len(listed) > 0
        assert (np.diff(found.scores[row][: len(listed)]) <= 0).all()
    others = {"decoder", "factors", "weights", "anchors"} - {found.source}
    for other in others:
        with pytest.raises(NotFittedError, match=other):
            model.similar_items(["i1"], source=other)


def test_only_vaes_encode(name, model, unseen):
    if name in ARCHITECTURES:
        assert model.encode(unseen).posterior.mu.shape == (40, 4)
        assert model.vae is model.model
        return
    with pytest.raises(NotFittedError, match=f"{name} is no autoencoder"):
        model.encode(unseen)
    with pytest.raises(NotFittedError, match=f"{name} is no autoencoder"):
        _ = model.vae


def test_every_tensor_is_needed(name, model, tmp_path):
    """A saved model that lacks one, or has one of another shape, is refused by name."""
    from safetensors.torch import load_file, save_file

    folder = model.save(tmp_path / "model")
    file = folder / "model.safetensors"
    whole = load_file(file)
    for tensor in whole:
        rest = {key: value for key, value in whole.items() if key != tensor}
        save_file(rest, file)
        with pytest.raises(ArtifactError, match="truncated or edited"):
            Recommender.load(folder, device="cpu")
        resize(folder)
        with pytest.raises(ArtifactError, match=f"lacks the tensor '{tensor}'"):
            Recommender.load(folder, device="cpu", verify=False)
        save_file({**rest, tensor: torch.cat([whole[tensor]] * 2)}, file)
        resize(folder)
        with pytest.raises(ArtifactError, match=f"'{tensor}' should be"):
            Recommender.load(folder, device="cpu", verify=False)


def resize(folder: Path) -> None:
    """Write down the size of the edited file, as somebody would who edits knowingly."""
    manifest = json.loads((folder / "manifest.json").read_text())
    size = (folder / "model.safetensors").stat().st_size
    manifest["files"]["model.safetensors"]["bytes"] = size
    (folder / "manifest.json").write_text(json.dumps(manifest))


SPARSE = ("item-knn", "sparse-ease")


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize(
    ("tensor", "place", "value", "message"),
    [
        ("indices", 0, N_ITEMS, "indices must lie in 0 … 22"),
        ("indices", -1, -1, "indices must lie in 0 … 22"),
        ("indices", 3, 2**31 - 1, "indices must lie in 0 … 22"),
        ("indptr", 0, 1, "indptr must rise from 0"),
        ("indptr", -1, 10**9, "indptr must rise from 0"),
        ("indptr", 5, 10**9, "indptr must rise from 0"),
        ("indptr", 5, -1, "indptr must rise from 0"),
    ],
)
def test_an_edited_matrix_cannot_read_out_of_bounds(tmp_path, name, tensor, place, value, message):
    broken = made(name)
    getattr(broken.model, tensor)[place] = value
    folder = broken.save(tmp_path / "model")
    for verify in (True, False):
        with pytest.raises(ArtifactError, match=f"model.safetensors is damaged: {message}"):
            Recommender.load(folder, device="cpu", verify=verify)


@pytest.mark.parametrize(
    "sizes", [None, {}, [], {"nnz": -1}, {"nnz": "7"}, {"nnz": True}, {"nnz": 7, "more": 1}]
)
def test_sizes_that_are_none_are_refused(tmp_path, sizes):
    folder = made("item-knn").save(tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sizes"] = sizes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="'sizes' must be counts of nnz"):
        Recommender.load(folder, device="cpu")


@pytest.mark.parametrize(
    ("nnz", "message"), [(7, "should be"), (10**12, "should be"), (10**30, "sizes too large")]
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, nnz, message):
    folder = made("sparse-ease").save(tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sizes"] = {"nnz": nnz}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=message):
        Recommender.load(folder, device="cpu")


def test_settings_of_a_saved_baseline_are_checked(tmp_path):
    folder = made("ease").save(tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["l22"] = 3
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"'model' is not valid.*did you mean 'l2'"):
        Recommender.load(folder, device="cpu")


@pytest.mark.parametrize("tensor", ["factors", "gram"])
def test_factors_that_are_not_finite_end_in_an_error(tmp_path, tensor):
    broken = made("ials")
    getattr(broken.model, tensor)[0, 0] = torch.nan
    loaded = Recommender.load(broken.save(tmp_path / "model"), device="cpu")
    with pytest.raises(DivergenceError):
        loaded.recommend(["i0", "i1"])


@pytest.mark.parametrize("name", METHODS)
def test_progress_ends_where_it_should(name):
    seen: list[tuple[int, int]] = []
    config = METHODS[name].config.read(SMALL.get(name, {}))
    Recommender.fit(config, train(), progress=lambda done, total: seen.append((done, total)))
    done, totals = [step for step, _ in seen], {total for _, total in seen}
    assert len(totals) == 1
    assert sorted(set(done)) == done
    assert done[-1] == totals.pop()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_searched_are_settings(name):
    config: type[BaselineConfig] = METHODS[name].config
    assert set(config.search) <= set(config.model_fields)
