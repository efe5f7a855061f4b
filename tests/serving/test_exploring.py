"""Search, the map and explanations of any history: against plain loops and NumPy's SVD."""

import unicodedata

import numpy as np
import pytest
import torch
from served_models import FIRST, N_ITEMS, SCRIPT, save, small_community, small_model
from starlette.testclient import TestClient

from coterie.data.interactions import Interactions
from coterie.histories import from_pairs
from coterie.models.config import ModelConfig
from coterie.models.vae import VAE
from coterie.serving.app import create_app
from coterie.serving.fleet import Fleet
from coterie.serving.keys import Keys
from coterie.serving.landscape import LANDMARKS, Landscape
from coterie.serving.metrics import Metrics
from coterie.serving.search import TitleSearch
from coterie.serving.service import Service
from coterie.serving.settings import ServeConfig
from coterie.serving.store import Store

TITLES = ["Amélie (2001)", "The Matrix", "Matrix Reloaded, The", "Ramelia", "Straße", None,
          "Łódź & Co", "İstanbul", "ὈΔΥΣΣΕΎΣ", "Big-City Nights", "!!!"]  # fmt: skip
COUNTS = np.array([5, 1, 9, 50, 2, 3, 4, 6, 7, 8, 0])


def found(query, limit=5, titles=TITLES, counts=COUNTS):
    search = TitleSearch(list(range(100, 100 + len(titles))), titles, counts)
    return search.find(query, limit).tolist()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("amelie", [0]),
        ("AMÉL", [0, 3]),  # inside of a word comes later, however popular
        ("melia", [3]),
        ("matrix", [2, 1]),  # the more popular one first
        ("the matrix", [2, 1]),  # in any order
        ("matrix, the!", [2, 1]),
        ("matrix rel", [2]),
        ("strasse", [4]),
        ("lodz co", [6]),
        ("istan", [7]),
        ("οδυσσευς", [8]),
        ("city big", [9]),
        ("105", [5]),  # without a title, by id
        ("matrix 102", []),
        ("matrix nowhere", []),
        ("!!!", []),
        (".*", []),
        ("", [3, 2, 9, 8, 7]),
        ("  ", [3, 2, 9, 8, 7]),
    ],
)
def test_titles_by_words(query, expected):
    assert found(query) == expected


def test_search_is_what_a_loop_over_all_titles_finds():
    rng = np.random.default_rng(3)
    words = ["ab", "abba", "bab", "Cab", "É", "b", "c-a"]
    titles = [" ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(300)]
    counts = rng.integers(0, 9, 300)

    def plain(text):
        text = unicodedata.normalize("NFKD", text.lower())
        return "".join(c if c.isalnum() else " " for c in text if not unicodedata.combining(c))

    for query in ("a", "b", "ab", "ba b", "e c", "cab bab"):
        ranked = []
        for place, title in enumerate(titles):
            have = plain(title).split()
            asked = plain(query).split()
            if all(any(one in word for word in have) for one in asked):
                begins = all(any(word.startswith(one) for word in have) for one in asked)
                ranked.append((not begins, -counts[place], place))
        for limit in (1, 7, 300):
            expected = [place for _, _, place in sorted(ranked)][:limit]
            assert found(query, limit, titles, counts) == expected


def landscape(model=None, community=None):
    model = model or small_model().vae
    return Landscape.of(model, community or small_community(), np.arange(N_ITEMS, 0, -1))


def test_the_map_is_the_principal_components_of_the_posterior_means():
    found, data = landscape(), small_community()
    model = small_model()
    codes = model.encode([data.item_ids.to_ids(data.row(at)).to_list() for at in range(80)])
    codes = codes.posterior.mu.double().numpy()
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    left, scale, _ = np.linalg.svd(codes - codes.mean(0), full_matrices=False)
    expected = (left * scale)[:, :2] / (scale[0] / np.sqrt(80))
    assert np.allclose(np.abs(found.users), np.abs(expected), atol=1e-4)
    assert found.variance == pytest.approx((scale**2 / (scale**2).sum())[:2], rel=1e-4)
    assert found.users[:, 0].std() == pytest.approx(1)
    placed = found.place([data.row(at) for at in range(80)])
    assert np.allclose(placed, found.users, atol=1e-4), "a known user stands on the own dot"


def test_landmarks_stand_apart_and_the_most_popular_item_is_one():
    found = landscape()
    at = found.place(list(found.landmarks[:, None]))
    apart = np.linalg.norm(at[:, None] - at, axis=2)[np.triu_indices(len(at), 1)]
    assert (len(at), found.landmarks[0]) == (LANDMARKS, 0)
    others = found.place(list(np.arange(N_ITEMS)[:, None]))
    cover = np.linalg.norm(others[:, None] - at, axis=2).min(1)
    assert apart.min() >= cover.max(), "no other item is farther from all landmarks than they are"


def test_maps_of_little():
    narrow = VAE(ModelConfig(hidden_dims=(4,), latent_dim=1), N_ITEMS).initialized(0)
    found = landscape(narrow)
    assert np.array_equal(found.users[:, 1], np.zeros(80))
    assert found.variance == pytest.approx((1, 0))
    data = small_community()
    for rows in ([3], [3] * 5):  # no variance at all
        same = landscape(community=data.rows(np.array(rows[:1])))
        assert same.variance == (0, 0)
        assert np.isfinite(same.place([np.array([1, 2])])).all()
    assert len(rows) == 5


def nobody() -> Interactions:
    data = small_community()
    empty = np.empty(0, dtype=np.int64)
    return from_pairs(empty, empty, data.user_ids, data.item_ids)


@pytest.fixture
def api(tmp_path, request):
    community = getattr(request, "param", small_community())
    service = Service(
        ServeConfig(watch_seconds=0),
        Fleet({"default": save(tmp_path / "model")}, community=community),
        Store(f"sqlite:///{tmp_path}/store.db"),
        Metrics(),
    )
    with TestClient(create_app(service, Keys([]))) as client:
        client.service = service
        yield client


def test_what_the_server_says_of_itself(api):
    version = api.service.fleet["default"].version
    about = api.get("/v1/about").json()
    assert about.pop("coterie")
    assert about == {"model": "default", "version": version, "items": N_ITEMS, "community": 80,
                     "latent": True}  # fmt: skip


def test_search_over_http(api):
    answer = api.get("/v1/items", params={"query": "TITLE 1", "limit": 3}).json()
    assert [one["title"] for one in answer["items"]] == ["Title 1", "Title 10", "Title 11"]
    assert answer["items"][0] == {"item": FIRST + 1, "title": "Title 1", "users": 59}
    exact = api.get("/v1/items", params={"query": " 1057 "}).json()["items"]
    assert exact[0]["item"] == 1057
    assert api.get("/v1/items").json()["items"][0]["title"] == SCRIPT
    for params, expected in (
        ({"limit": 0}, "limit: "),
        ({"limit": 1001}, "limit is at most 1000 here"),
        ({"query": "x" * 201}, "query: "),
    ):
        refused = api.get("/v1/items", params=params)
        assert (refused.status_code, expected in refused.json()["detail"]) == (422, True)


def test_any_history_is_explained_as_a_users(api):
    api.service._store.import_histories(small_community())
    theirs = api.get("/v1/users/41/explain", params={"k": 3}).json()
    history = small_community().row(41) + FIRST
    ours = api.post("/v1/explain", json={"history": history.tolist(), "user": 41, "k": 3}).json()
    assert ours == theirs
    alone = api.post("/v1/explain", json={"history": history.tolist(), "k": 3}).json()
    assert alone["user"] is None
    assert alone["sample"]["available"] == 80, "an unknown visitor may be helped by everyone"
    item = ours["items"][0]["item_id"]
    one = api.post("/v1/explain", json={"history": history.tolist(), "items": [item]}).json()
    assert [found["item_id"] for found in one["items"]] == [item]
    for body, expected in (
        ({"history": []}, "no item that the model knows"),
        ({"history": ["?"]}, "no item that the model knows"),
        ({"history": [1001], "items": [1001]}, "in the history already"),
        ({"history": [1001], "k": 1001}, "k is at most 1000 here"),
        ({"history": [1001], "k": 0}, "k: "),
        ({}, "history: "),
    ):
        refused = api.post("/v1/explain", json=body)
        assert (refused.status_code, expected in refused.json()["detail"]) == (422, True)


def test_a_history_and_its_items_have_places(api):
    whole = api.get("/v1/map").json()
    assert len(whole["users"]) == whole["available"] == 80
    data = small_community()
    items = data.row(7)
    here = api.post("/v1/map", json={"history": [*(items + FIRST).tolist(), "?"]}).json()
    assert [here["x"], here["y"]] == pytest.approx(whole["users"][7], abs=2e-3)
    assert here["unknown"] == ["?"]
    alone = api.post("/v1/map", json={"history": [int(items[0]) + FIRST]}).json()
    first = {one["item"]: (one["x"], one["y"]) for one in here["items"]}[int(items[0]) + FIRST]
    assert (alone["x"], alone["y"]) == pytest.approx(first, abs=2e-3)
    refused = api.post("/v1/map", json={"history": ["?"]})
    assert (refused.status_code, "no place" in refused.json()["detail"]) == (422, True)


@pytest.mark.parametrize("api", [None], indirect=True)
def test_without_a_community(api):
    assert api.get("/v1/about").json()["community"] is None
    for answer in (
        api.get("/v1/map"),
        api.post("/v1/map", json={"history": [1001]}),
        api.post("/v1/explain", json={"history": [1001]}),
    ):
        assert answer.status_code == 404
        assert "--community" in answer.json()["detail"]


@pytest.mark.parametrize("api", [nobody()], indirect=True)
def test_a_community_without_a_known_item(api):
    refused = api.get("/v1/map")
    assert (refused.status_code, "Nobody" in refused.json()["detail"]) == (422, True)


def test_a_new_version_has_its_own_index_and_map(api, tmp_path):
    first = api.get("/v1/map").json()
    save(tmp_path / "model", 5)
    api.portal.call(api.service.reloader.reload)
    second = api.get("/v1/map").json()
    assert second["version"] == api.get("/v1/items").json()["version"] != first["version"]
    assert second["users"] != first["users"]
    assert torch.is_inference_mode_enabled() is False
