from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.parts import HeldOut
from coterie.errors import ConfigError, DataError, DivergenceError
from coterie.evaluation.cohorts import Cohort
from coterie.evaluation.protocol import evaluate


def interactions(rows: list[list[int]], n_items: int) -> Interactions:
    return Interactions(
        np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        np.array([i for row in rows for i in sorted(row)], dtype=np.int32),
        IdMap([f"u{u}" for u in range(len(rows))]),
        IdMap([f"i{i}" for i in range(n_items)]),
    ).check()


def random_held_out(seed: int, n_users: int = 40, n_items: int = 60) -> HeldOut:
    rng = np.random.default_rng(seed)
    fold_in, held_out = [], []
    for _ in range(n_users):
        items = rng.permutation(n_items)[: rng.integers(0, 30)].tolist()
        n = int(rng.integers(0, len(items) + 1))
        fold_in.append(items[n:])
        held_out.append(items[:n])
    return HeldOut(interactions(fold_in, n_items), interactions(held_out, n_items)).check()


class FixedScores:
    """Scores by user id, so that the batch a user comes in does not matter."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = torch.from_numpy(scores.astype(np.float32))
        self.n_items = scores.shape[1]
        self.batches: list[int] = []

    def score(self, fold_in: Interactions) -> torch.Tensor:
        self.batches.append(fold_in.n_users)
        return self.scores[[int(user[1:]) for user in fold_in.user_ids.ids]]


@given(seed=st.integers(0, 10_000), batch_size=st.sampled_from([1, 7, 500]))
@settings(max_examples=25, deadline=None)
def test_evaluate_agrees_with_a_loop_over_users(seed: int, batch_size: int) -> None:
    data = random_held_out(seed)
    scores = np.random.default_rng(seed).integers(0, 9, (40, 60)) / 3.0  # with ties
    found = evaluate(FixedScores(scores), data, ks=(10, 5), batch_size=batch_size)
    users, recall, ndcg = [], [], []
    for user in range(40):
        known, wanted = set(data.fold_in.row(user)), set(data.held_out.row(user))
        if not wanted:
            continue
        ranked = sorted((-scores[user, i], i) for i in range(60) if i not in known)[:10]
        hits = [item in wanted for _, item in ranked]
        gains = sum(hit / np.log2(2 + place) for place, hit in enumerate(hits))
        ideal = sum(1 / np.log2(2 + place) for place in range(min(10, len(wanted))))
        users.append(user)
        recall.append(sum(hits[:5]) / len(wanted))
        ndcg.append(gains / ideal)
    assert found.users.tolist() == users
    assert found.user_ids.to_list() == [f"u{user}" for user in users]
    assert (found.n_users, found.n_without_held_out) == (40, 40 - len(users))
    assert found.ks == (5, 10)
    np.testing.assert_allclose(found.per_user["recall@5"], recall, atol=1e-12)
    np.testing.assert_allclose(found.per_user["ndcg@10"], ndcg, atol=1e-12)
    estimate = found.estimate("ndcg@10")
    assert found["ndcg@10"] == estimate.mean == pytest.approx(np.mean(ndcg))
    assert estimate.stderr == pytest.approx(np.std(ndcg, ddof=1) / np.sqrt(len(ndcg)))


def test_users_without_held_out_items_change_no_mean() -> None:
    fold_in, held_out = [[0], [1], [2]], [[1], [], [3]]
    scores = np.tile([[0.0, 3.0, 2.0, 1.0]], (3, 1))
    with_them = evaluate(
        FixedScores(scores), HeldOut(interactions(fold_in, 4), interactions(held_out, 4)), ks=[1]
    )
    assert with_them["recall@1"] == (1 + 0) / 2
    assert with_them.n_without_held_out == 1
    assert with_them.overall["coverage@1"] == 1 / 4


def test_the_fold_in_is_never_ranked_even_when_it_scores_best() -> None:
    data = random_held_out(3)
    scores = data.fold_in.to_scipy().toarray() * 100 + data.held_out.to_scipy().toarray()
    found = evaluate(FixedScores(scores), data, ks=(1, 20))
    assert found["recall_capped@20"] == 1
    assert found["mrr@1"] == 1


def test_cohorts_count_the_whole_history() -> None:
    fold_in = [[0], [0, 1], [0, 1, 2], [5]]
    held_out = [[3], [3], [3, 4], []]
    scores = np.tile([[0, 0, 0, 1.0, 0, 0.5]], (4, 1))
    cohorts = [Cohort(name="short", low=1, high=3), Cohort(name="long", low=4)]
    data = HeldOut(interactions(fold_in, 6), interactions(held_out, 6))
    found = evaluate(FixedScores(scores), data, ks=(1,), cohorts=cohorts)
    assert found.history_lengths.tolist() == [2, 3, 5]
    short, long = (found.estimate("recall@1", cohort) for cohort in cohorts)
    assert (short.n, short.mean, short.stderr) == (2, 1.0, 0.0)
    assert (long.n, long.mean) == (1, 0.5)
    assert np.isnan(long.stderr)


def test_batches_are_streamed_and_progress_is_reported() -> None:
    data = random_held_out(2)
    scorer = FixedScores(np.random.default_rng(0).random((40, 60)))
    seen: list[tuple[int, int]] = []
    found = evaluate(
        scorer, data, ks=(5,), batch_size=9, progress=lambda done, of: seen.append((done, of))
    )
    assert max(scorer.batches) == 9
    assert sum(scorer.batches) == found.n_evaluated
    assert seen[-1] == (found.n_evaluated, found.n_evaluated)
    assert [done for done, _ in seen] == np.cumsum(scorer.batches).tolist()


def test_wrong_arguments_are_named() -> None:
    data = random_held_out(2)
    scores = np.random.default_rng(0).random((40, 60))
    scorer = FixedScores(scores)
    with pytest.raises(ConfigError, match="ks needs one cut or more"):
        evaluate(scorer, data, ks=())
    with pytest.raises(ConfigError, match="batch_size must be 1 or more"):
        evaluate(scorer, data, batch_size=0)
    with pytest.raises(DataError, match="The model knows 59 items, the data has 60"):
        evaluate(FixedScores(scores[:, 1:]), data)
    with pytest.raises(DataError, match="item_counts must have 60 entries, got 3"):
        evaluate(scorer, data, item_counts=np.ones(3))
    nothing = HeldOut(data.fold_in, data.held_out.select(np.zeros(data.held_out.nnz, dtype=bool)))
    with pytest.raises(DataError, match="None of the 40 users has a held-out item"):
        evaluate(scorer, nothing)
    user = np.flatnonzero(data.held_out.history_lengths)[0]
    scores[user, np.setdiff1d(np.arange(60), data.fold_in.row(user))[0]] = np.nan
    with pytest.raises(DivergenceError, match=r"1 of \d+ rows of scores hold NaN"):
        evaluate(FixedScores(scores), data)


def test_scores_of_the_wrong_shape_are_refused() -> None:
    data = random_held_out(2)
    scorer = FixedScores(np.zeros((40, 60)))
    scorer.score = lambda fold_in: torch.zeros(60)  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"score\(\) must return"):
        evaluate(scorer, data)


def test_a_recommender_with_other_items_is_refused() -> None:
    """As many items in another order would give figures that look fine and are wrong."""
    data = random_held_out(0)
    scorer = FixedScores(np.random.default_rng(0).random((40, 60)))
    expected = evaluate(scorer, data, ks=(5,))["ndcg@5"]
    scorer.item_ids = IdMap(data.fold_in.item_ids.ids)  # type: ignore[attr-defined]
    assert evaluate(scorer, data, ks=(5,))["ndcg@5"] == expected
    scorer.item_ids = IdMap(data.fold_in.item_ids.ids.reverse())  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="in another order"):
        evaluate(scorer, data, ks=(5,))


def test_scores_may_be_an_expanded_view_or_an_array() -> None:
    """The obvious popularity baseline: one row for everybody, which must not be written to."""
    data = random_held_out(1)
    counts = torch.arange(60.0)

    class Popularity:
        n_items = 60

        def __init__(self, form: str) -> None:
            self.form = form

        def score(self, fold_in: Interactions) -> Any:
            rows = counts.expand(fold_in.n_users, -1)
            return {"view": rows, "copy": rows.clone(), "array": rows.clone().numpy()}[self.form]

    found = [evaluate(Popularity(form), data)["ndcg@20"] for form in ("view", "copy", "array")]
    assert found[0] == found[1] == found[2]
    assert counts.tolist() == list(range(60))
