import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from uuid import UUID

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.data.batches import user_batch
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError, NotFittedError, StorageError
from coterie.models.vae import VAE, ModelConfig
from coterie.recommender import Recommender
from full_disk import no_file_larger_than

N_ITEMS = 40
NAMES = [f"item-{number}" for number in range(N_ITEMS)]


def interactions(n_users: int, item_ids: IdMap, seed: int = 0, most: int = 9) -> Interactions:
    rng = np.random.default_rng(seed)
    rows = [
        np.sort(rng.choice(len(item_ids), rng.integers(1, most), replace=False))
        for _ in range(n_users)
    ]
    indptr = np.cumsum([0, *map(len, rows)])
    return Interactions(
        indptr, np.concatenate(rows).astype(np.int32), IdMap(range(100, 100 + n_users)), item_ids
    ).check()


@pytest.fixture(scope="module")
def train() -> Interactions:
    titles = pl.DataFrame({"item_id": NAMES[::-1], "title": [f"Title {n}" for n in NAMES[::-1]]})
    return replace(interactions(60, IdMap(NAMES)), items=titles)


def recommender_of(data: Interactions, *, anchors: bool = False) -> Recommender:
    model = VAE(ModelConfig(hidden_dims=(16,), latent_dim=6), data.n_items).initialized(3)
    kept = torch.randn(data.n_items, 6, generator=torch.Generator().manual_seed(1))
    return Recommender(
        model,
        data.item_ids,
        data.item_counts(),
        items=data.items,
        anchors=kept if anchors else None,
        metadata={"seed": 3},
    )


@pytest.fixture(scope="module")
def recommender(train: Interactions) -> Recommender:
    return recommender_of(train)


def dense_scores(recommender: Recommender, history: set[str]) -> np.ndarray:
    """The network written out in NumPy on a dense row: an oracle without any of our batching."""
    weights = {name: w.detach().numpy() for name, w in recommender.model.named_parameters()}
    x = np.array([float(name in history) for name in recommender.item_ids.ids])
    x = x / max(np.sqrt(x.sum()), 1)
    hidden = np.tanh(x @ weights["encoder.table"] + weights["encoder.bias"])
    mu = hidden @ weights["encoder.layers.0.weight"].T + weights["encoder.layers.0.bias"]
    hidden = np.tanh(
        mu[:6] @ weights["decoder.layers.0.weight"].T + weights["decoder.layers.0.bias"]
    )
    return hidden @ weights["decoder.table"].T + weights["decoder.bias"]


def best_of(scores: np.ndarray, k: int, without: set[str] = frozenset()) -> list[str]:
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    return [NAMES[item] for item in order if NAMES[item] not in without][:k]


def test_scores_are_the_networks_output_for_each_history(recommender, train):
    scores = recommender.score(train)
    assert scores.dtype == torch.float32
    for user in (0, 7, 59):
        history = set(train.item_ids.to_ids(train.row(user)))
        np.testing.assert_allclose(scores[user], dense_scores(recommender, history), atol=1e-5)


def test_a_training_users_row_scores_as_in_training(recommender, train):
    in_training = recommender.model(user_batch(train, np.arange(train.n_users))).detach()
    assert recommender.score(train).equal(in_training)


def test_scores_may_be_overwritten_by_the_caller(recommender, train):
    recommender.score(train)[0, 0] = -torch.inf
    assert recommender.score(train).isfinite().all()


def test_scores_align_histories_over_other_items(recommender, train):
    shuffled = IdMap([*NAMES[::-1], "never seen"])
    torch.testing.assert_close(
        recommender.score(train.select_items(shuffled)), recommender.score(train)
    )


def test_recommends_the_best_unseen_items_to_a_user_never_trained_on(recommender):
    history = ["item-3", "item-30", "item-4"]
    found = recommender.recommend(history, k=7)
    scores = dense_scores(recommender, set(history))
    assert found.to_lists() == [best_of(scores, 7, set(history))]
    assert found.user_ids.to_list() == [0]
    assert not found.fallback.any()
    np.testing.assert_allclose(found.scores[0], scores[found.item_index[0]], atol=1e-5)
    assert (np.diff(found.scores[0]) <= 0).all()


def test_seen_items_are_included_on_request(recommender):
    history = [f"item-{n}" for n in range(20)]
    every = recommender.recommend(history, k=N_ITEMS, exclude_seen=False).to_lists()[0]
    assert every == best_of(dense_scores(recommender, set(history)), N_ITEMS)
    assert not set(recommender.recommend(history, k=N_ITEMS).to_lists()[0]) & set(history)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sets(st.sampled_from(NAMES), max_size=8), min_size=1, max_size=6), st.data())
def test_a_batch_gives_what_each_user_alone_gets(histories, data):
    recommender = recommender_of(interactions(60, IdMap(NAMES)))
    size = data.draw(st.integers(1, 4))
    batch = recommender.recommend([list(h) for h in histories], k=6, batch_size=size)
    for user, history in enumerate(histories):
        alone = recommender.recommend(list(history), k=6)
        assert alone.to_lists() == [batch.to_lists()[user]]
        np.testing.assert_allclose(alone.scores[0], batch.scores[user], atol=1e-5)
        assert alone.fallback[0] == batch.fallback[user] == (not history)


def test_every_form_of_histories_gives_the_same(recommender, train):
    lists = [train.item_ids.to_ids(train.row(user)).to_list() for user in range(5)]
    expected = recommender.recommend(train.rows(np.arange(5)))
    forms = [
        lists,
        tuple(lists),
        dict(zip(range(100, 105), lists, strict=True)),
        [np.array(history) for history in lists],
        [pl.Series(history) for history in lists],
        [set(history) for history in lists],
        pl.Series(lists),
        (history for history in lists),
    ]
    for form in forms:
        found = recommender.recommend(form)
        assert found.to_lists() == expected.to_lists()
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert recommender.recommend(forms[2]).user_ids.to_list() == expected.user_ids.to_list()
    assert recommender.recommend(pl.Series(lists[0])).to_lists() == expected.to_lists()[:1]
    assert recommender.recommend(np.array(lists[0])).to_lists() == expected.to_lists()[:1]


def test_users_keep_their_order_and_ids(recommender):
    users = {"zoe": ["item-1"], "adam": [], "mia": ["item-2"]}
    found = recommender.recommend(users)
    assert found.user_ids.to_list() == ["zoe", "adam", "mia"]
    assert found.fallback.tolist() == [False, True, False]


def test_duplicates_in_a_history_count_once(recommender):
    once = recommender.recommend(["item-1", "item-2"])
    often = recommender.recommend(["item-2", "item-1", "item-2", "item-1"])
    assert once.to_lists() == often.to_lists()
    np.testing.assert_array_equal(once.scores, often.scores)


def test_an_empty_history_gets_the_most_popular_items_flagged(recommender, train):
    found = recommender.recommend([[], ["item-1"], ["unheard of"]], k=5)
    counts = train.item_counts()
    assert found.fallback.tolist() == [True, False, True]
    assert found.to_lists()[0] == found.to_lists()[2] == best_of(counts, 5)
    assert found.scores[0].tolist() == sorted(counts, reverse=True)[:5]
    assert recommender.recommend([], k=5).to_lists() == [best_of(counts, 5)]


def test_the_fallback_obeys_deny(recommender, train):
    best = best_of(train.item_counts(), 4)
    assert recommender.recommend([], k=3, deny=best[:1]).to_lists() == [best[1:]]


def test_no_users_is_no_rows(recommender):
    found = recommender.recommend({}, k=3)
    assert found.n_users == 0
    assert found.item_index.shape == found.scores.shape == (0, 3)
    assert found.to_lists() == []
    assert found.to_frame().is_empty()


def test_allow_and_deny(recommender):
    history = ["item-0"]
    scores = dense_scores(recommender, set(history))
    some = {"item-0", "item-5", "item-9", "item-11"}
    assert recommender.recommend(history, allow=some).to_lists() == [
        best_of(scores, 9, set(NAMES) - some | {"item-0"})
    ]
    assert recommender.recommend(history, k=N_ITEMS, deny=some).to_lists() == [
        best_of(scores, N_ITEMS, some)
    ]
    both = recommender.recommend(history, allow=some, deny=["item-5"], exclude_seen=False)
    assert set(both.to_lists()[0]) == some - {"item-5"}
    assert recommender.recommend(history, allow=[]).to_lists() == [[]]


def test_fewer_items_than_k_are_filled_up_with_nothing(recommender):
    found = recommender.recommend(["item-0"], k=5, allow=["item-1", "item-2"])
    assert sorted(found.item_index[0].tolist()) == [-1, -1, -1, 1, 2]
    assert found.item_index[0, 2:].tolist() == [-1, -1, -1]
    assert found.scores[0, 2:].tolist() == [-np.inf] * 3
    assert found.item_ids.to_list()[0][2:] == [None] * 3
    assert len(found.to_lists()[0]) == 2
    assert found.to_frame()["rank"].to_list() == [1, 2]


def test_k_above_the_catalogue(recommender):
    found = recommender.recommend(["item-0"], k=100)
    assert found.item_index.shape == (1, N_ITEMS)
    assert sorted(found.to_lists()[0]) == sorted(set(NAMES) - {"item-0"})


def test_unknown_items_are_reported_and_counted_once_per_user(recommender):
    histories = [["item-1", "x", "x"], ["x", "y"], ["item-2"]]
    found = recommender.recommend(histories, allow=["item-3", "z"], deny=["w"])
    assert found.unknown.sort("item_id").rows() == [
        ("w", "deny", 1),
        ("x", "histories", 2),
        ("y", "histories", 1),
        ("z", "allow", 1),
    ]
    known = recommender.recommend([["item-1"], [], ["item-2"]], allow=["item-3"])
    assert found.to_lists() == known.to_lists()


def test_unknown_items_of_interactions_are_reported_if_anybody_has_them(recommender, train):
    other = IdMap([*NAMES[:5], "x", "y", "nobody has it"])
    data = Interactions(
        np.array([0, 3, 4]), np.array([0, 5, 6, 5], dtype=np.int32), IdMap(["a", "b"]), other
    )
    found = recommender.recommend(data)
    assert sorted(found.unknown.rows()) == [("x", "histories", 2), ("y", "histories", 1)]
    assert found.fallback.tolist() == [False, True]
    assert found.to_lists() == recommender.recommend([["item-0"], []]).to_lists()


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, ids, path: model.recommend(ids, on_unknown="raise"),
        lambda model, ids, path: model.recommend([], allow=ids, on_unknown="raise"),
        lambda model, ids, path: model.recommend([], deny=ids, on_unknown="raise"),
        lambda model, ids, path: model.recommend_to_parquet(ids, path / "f", on_unknown="raise"),
        lambda model, ids, path: model.similar_items(ids, on_unknown="raise"),
        lambda model, ids, path: model.encode(ids, on_unknown="raise"),
    ],
)
def test_unknown_items_are_an_error_if_asked(recommender, tmp_path, ask):
    with pytest.raises(DataError, match=r"does not know 1 item ids: x\."):
        ask(recommender, ["item-1", "x"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_integer_ids_match_the_text_that_spells_them():
    recommender = recommender_of(interactions(30, IdMap(range(1000, 1000 + N_ITEMS))))
    as_integers = recommender.recommend([[1001, 1002], [1003]])
    as_text = recommender.recommend([["1001", "1002"], ["1003"]])
    assert as_text.to_lists() == as_integers.to_lists()
    assert as_integers.item_ids.dtype.inner == pl.Int64
    assert recommender.recommend(["one"]).unknown["item_id"].to_list() == ["one"]


def test_text_ids_match_integers_and_uuids():
    uuids = [UUID(int=number) for number in range(5)]
    names = [str(number) for number in range(5)] + [str(uuid) for uuid in uuids]
    recommender = recommender_of(interactions(30, IdMap(names)))
    assert recommender.recommend([3]).to_lists() == recommender.recommend(["3"]).to_lists()
    assert recommender.recommend([uuids[2]]).unknown.is_empty()


def test_two_spellings_of_one_integer_count_once():
    recommender = recommender_of(interactions(30, IdMap(range(5)), most=5))
    twice = Interactions(
        np.array([0, 2]), np.array([0, 1], dtype=np.int32), IdMap(["u"]), IdMap(["1", "01"])
    )
    assert recommender.recommend(twice).to_lists() == recommender.recommend([1]).to_lists()


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        (None, "sequence of item ids"),
        ("item-1", "wrap a single id in a list"),
        (7, "sequence of item ids"),
        ([None], "None stands among"),
        (["item-1", None], "None stands among"),
        ([["item-1"], None], "mixture"),
        ([["item-1", None]], "None stands among"),
        ([["item-1"], "item-2"], "mixture"),
        ({"u": None}, "sequence of item ids"),
        ({"u": "item-1"}, "wrap a single id"),
        ({None: ["item-1"]}, "None stands among"),
        (["item-1", 2], "mixture"),
        ([1.5], "Float64"),
        ([10**30], "64-bit integers"),
        (["\ud800"], "valid text"),
        (np.array(5), "sequence of item ids"),
        ([{"item-1": 5}], "type Struct"),
        ([[["item-1"]]], "type List"),
        (pl.DataFrame({"user_id": [1], "item_id": ["item-1"]}), "read_interactions"),
    ],
)
def test_histories_of_a_wrong_form_are_refused(recommender, histories, message):
    with pytest.raises(DataError, match=message):
        recommender.recommend(histories)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.sampled_from(NAMES)
    | st.uuids()
    | st.dates()
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars, inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(anything)
def test_whatever_comes_is_answered_or_refused(histories):
    data = interactions(60, IdMap(NAMES))
    recommender = recommender_of(data)
    try:
        found = recommender.recommend(histories, k=2)
    except DataError:
        return
    assert found.item_index.shape == (found.n_users, 2)
    assert (found.item_index >= 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be 1 or more"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"on_unknown": "warn"}, "on_unknown must be"),
        ({"allow": "item-1"}, "wrap a single id"),
        ({"deny": [None]}, "None stands among the ids of deny"),
    ],
)
def test_settings_out_of_range_are_refused(recommender, settings, message):
    with pytest.raises((ConfigError, DataError), match=message):
        recommender.recommend(["item-1"], **settings)


def test_sizes_that_do_not_fit_are_refused(recommender):
    counts = recommender.item_counts
    with pytest.raises(DataError, match="40 items, but there are 39 item ids"):
        Recommender(recommender.model, IdMap(NAMES[:-1]), counts)
    with pytest.raises(DataError, match="3 item counts"):
        Recommender(recommender.model, IdMap(NAMES), counts[:3])
    with pytest.raises(DataError, match="anchors"):
        Recommender(recommender.model, IdMap(NAMES), counts, anchors=torch.zeros(2, 6))
    with pytest.raises(DataError, match=r"column 'item_id'; it has \['id'\]"):
        Recommender(recommender.model, IdMap(NAMES), counts, items=pl.DataFrame({"id": NAMES}))


def test_the_table_has_a_row_per_recommendation(recommender):
    found = recommender.recommend({"a": ["item-1"], "b": []}, k=3)
    frame = found.to_frame()
    assert frame.columns == ["user_id", "item_id", "title", "score", "rank", "fallback"]
    assert frame["user_id"].to_list() == ["a"] * 3 + ["b"] * 3
    assert frame["item_id"].to_list() == list(chain.from_iterable(found.to_lists()))
    assert frame["title"].to_list() == [f"Title {name}" for name in frame["item_id"]]
    assert frame["rank"].to_list() == [1, 2, 3] * 2
    assert frame["fallback"].to_list() == [False] * 3 + [True] * 3
    np.testing.assert_array_equal(frame["score"].to_numpy(), found.scores.ravel())
    assert frame.schema["score"] == pl.Float32


def test_titles_may_be_missing_or_partial(train):
    without = recommender_of(replace(train, items=None)).recommend([], k=2).to_frame()
    assert "title" not in without.columns
    some = pl.DataFrame(
        {"item_id": ["item-1", "item-1", "other", None], "title": ["One", "Uno", "?", "-"]}
    )
    partly = recommender_of(replace(train, items=some)).recommend([], k=N_ITEMS).to_frame()
    titles = dict(zip(partly["item_id"], partly["title"], strict=True))
    assert titles.pop("item-1") == "One"
    assert set(titles.values()) == {None}


def test_a_file_holds_what_memory_holds(recommender, train, tmp_path):
    seen = []
    export = recommender.recommend_to_parquet(
        train,
        tmp_path / "found.parquet",
        k=4,
        deny=["item-3"],
        batch_size=7,
        progress=lambda done, total: seen.append((done, total)),
    )
    expected = recommender.recommend(train, k=4, deny=["item-3"]).to_frame()
    written = pl.read_parquet(export.path)
    assert written.drop("score").equals(expected.drop("score"))
    np.testing.assert_allclose(written["score"], expected["score"], atol=1e-5)
    assert pq.ParquetFile(export.path).num_row_groups == 9
    assert seen[:2] == [(7, 60), (14, 60)]
    assert seen[-1] == (60, 60)
    assert (export.n_users, export.n_fallback) == (60, 0)


def test_a_file_reports_unknown_items_and_fallbacks(recommender, tmp_path):
    export = recommender.recommend_to_parquet([["x"], ["item-1"]], tmp_path / "deep" / "f.parquet")
    assert export.n_fallback == 1
    assert export.unknown.rows() == [("x", "histories", 1)]


def test_a_file_of_no_users_has_the_columns(recommender, tmp_path):
    export = recommender.recommend_to_parquet({}, tmp_path / "none.parquet")
    written = pl.read_parquet(export.path)
    assert written.is_empty()
    assert written.columns == recommender.recommend([]).to_frame().columns


def test_an_existing_file_is_kept_unless_asked(recommender, train, tmp_path):
    path = tmp_path / "f.parquet"
    path.write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        recommender.recommend_to_parquet(train, path)
    assert path.read_text() == "mine"
    recommender.recommend_to_parquet(train, path, overwrite=True)
    assert len(pl.read_parquet(path)) == 600


def test_an_interrupted_file_leaves_nothing(recommender, train, tmp_path):
    def stop(done: int, total: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommender.recommend_to_parquet(train, tmp_path / "f.parquet", batch_size=5, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [2, 2000, 20_000])  # while opening, early and late
def test_a_full_disk_leaves_the_file_before(recommender, tmp_path, limit):
    path = tmp_path / "f.parquet"
    recommender.recommend_to_parquet([["item-1"]], path)
    before = path.read_bytes()
    many = interactions(3000, IdMap(NAMES))
    with no_file_larger_than(limit), pytest.raises(StorageError, match=r"disk is full: .*f\.parq"):
        recommender.recommend_to_parquet(many, path, batch_size=100, overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["f.parquet"]


WRITTEN = ["model.safetensors", "item_table.parquet", "manifest.json"]  # in this order


@pytest.mark.parametrize("full_at", WRITTEN)
def test_a_full_disk_leaves_the_model_before(train, tmp_path, full_at):
    path = recommender_of(train).save(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    titles = [np.random.default_rng(number).bytes(500).hex() for number in range(N_ITEMS)]
    items = pl.DataFrame({"item_id": NAMES, "title": titles})
    longer = recommender_of(replace(train, items=items))
    longer.metadata = {"notes": "x" * 50_000}
    sizes = {file.name: file.stat().st_size for file in longer.save(tmp_path / "it").iterdir()}
    assert sorted(WRITTEN, key=sizes.__getitem__) == WRITTEN, "what comes before it has room"
    with (
        no_file_larger_than(sizes[full_at] - 1),
        pytest.raises(StorageError, match=r"disk is full: .*model"),
    ):
        longer.save(path, overwrite=True)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert {file.name for file in tmp_path.iterdir()} == {"model", "it"}


def test_many_users_are_streamed_from_a_memory_map(tmp_path, monkeypatch):
    data = interactions(20_000, IdMap(range(50)))
    recommender = recommender_of(data)
    opened = Interactions.open(data.save(tmp_path / "data"))
    largest, score = [], recommender.score

    def counting(rows: Interactions) -> torch.Tensor:
        largest.append(rows.n_users)
        return score(rows)

    monkeypatch.setattr(recommender, "score", counting)
    export = recommender.recommend_to_parquet(opened, tmp_path / "f.parquet", k=3)
    assert max(largest) <= 1024
    assert export.n_users == sum(largest) == 20_000
    some = pl.read_parquet(export.path).filter(pl.col("user_id") < 200)
    expected = recommender.recommend(data.rows(np.arange(100)), k=3).to_frame()
    assert some["item_id"].equals(expected["item_id"])


@pytest.mark.parametrize("source", ["anchors", "decoder"])
def test_similar_items_are_the_nearest_by_cosine(train, source):
    recommender = recommender_of(train, anchors=True)
    table = recommender.anchors if source == "anchors" else recommender.model.decoder.table.detach()
    vectors = table.numpy().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = ["item-7", "item-0"]
    found = recommender.similar_items(asked, k=5, source=source)
    assert (found.source, found.item_ids.to_list()) == (source, asked)
    for row, name in enumerate(asked):
        cosines = vectors @ vectors[NAMES.index(name)]
        expected = best_of(cosines, 5, {name})
        assert [NAMES[item] for item in found.item_index[row]] == expected
        np.testing.assert_allclose(
            found.scores[row], [cosines[NAMES.index(other)] for other in expected], atol=1e-6
        )
    frame = found.to_frame()
    assert frame.columns == ["item_id", "similar_item_id", "title", "score", "rank"]
    assert frame["item_id"].to_list() == ["item-7"] * 5 + ["item-0"] * 5


def test_an_item_is_never_similar_to_itself(recommender):
    frame = recommender.similar_items(NAMES, k=N_ITEMS).to_frame()
    assert len(frame) == N_ITEMS * (N_ITEMS - 1)
    assert frame.filter(pl.col("item_id") == pl.col("similar_item_id")).is_empty()


def test_similar_items_use_the_anchors_if_kept(recommender, train):
    assert recommender_of(train, anchors=True).similar_items(["item-1"]).source == "anchors"
    assert recommender.similar_items(["item-1"]).source == "decoder"
    with pytest.raises(NotFittedError, match="keeps no anchors"):
        recommender.similar_items(["item-1"], source="anchors")
    with pytest.raises(ConfigError, match="source must be"):
        recommender.similar_items(["item-1"], source="encoder")


def test_unknown_items_have_no_similar_ones(recommender):
    found = recommender.similar_items(["x", "item-1"], k=2)
    assert found.item_ids.to_list() == ["item-1"]
    assert found.unknown["item_id"].to_list() == ["x"]
    assert recommender.similar_items(["x"], k=2).to_frame().is_empty()


def test_an_anchor_of_zeros_is_like_nothing(train):
    recommender = recommender_of(train, anchors=True)
    recommender.anchors[4] = 0
    assert recommender.similar_items(["item-4"], k=3).scores.tolist() == [[0, 0, 0]]


def test_encoding_gives_the_posterior_of_each_history(recommender, train):
    found = recommender.encode(train, batch_size=7)
    expected = recommender.model.encode(user_batch(train, np.arange(60)))
    torch.testing.assert_close(found.posterior.mu, expected.mu.detach())
    torch.testing.assert_close(found.posterior.logvar, expected.logvar.detach())
    assert found.user_ids.equals(train.user_ids.ids)
    assert not found.empty.any()


def test_encoding_reports_who_has_no_known_history(recommender):
    found = recommender.encode({"a": ["x"], "b": ["item-1"]})
    assert found.empty.tolist() == [True, False]
    assert found.posterior.mu.shape == (2, 6)
    assert found.unknown["count"].to_list() == [1]
    assert recommender.encode({}).posterior.mu.shape == (0, 6)


def test_a_point_posterior_has_no_variance(train):
    model = VAE(ModelConfig(name="multi-dae", hidden_dims=(), latent_dim=4), N_ITEMS).initialized(0)
    recommender = Recommender(model, train.item_ids, train.item_counts())
    assert recommender.encode(train).posterior.logvar is None


def test_info_is_what_json_holds(recommender):
    info = recommender.info()
    assert info["n_items"] == N_ITEMS
    assert info["n_parameters"] == 40 * 16 + 16 + 16 * 12 + 12 + 6 * 16 + 16 + 40 * 16 + 40
    assert info["model"]["latent_dim"] == 6
    assert info["metadata"] == {"seed": 3}
    assert info["item_id_type"] == "string"
    assert info["keeps_titles"]
    assert not info["keeps_anchors"]
    assert json.loads(json.dumps(info)) == info


def test_no_square_matrix_and_no_dense_input_is_made(tmp_path: Path):
    """Similar items of one and a history of one never touch items × items or users × items."""
    items = IdMap(range(300_000))
    model = VAE(ModelConfig(hidden_dims=(2,), latent_dim=2), 300_000).initialized(0)
    recommender = Recommender(model, items, np.zeros(300_000, dtype=np.int64))
    assert recommender.similar_items(range(200), k=1).item_index.shape == (200, 1)
    assert recommender.recommend([[n] for n in range(120)], k=1).item_index.shape == (120, 1)
