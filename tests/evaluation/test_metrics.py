import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.evaluation.metrics import (
    PER_USER,
    catalogue_metrics,
    exposure,
    find_hits,
    gini,
    user_metrics,
)
from coterie.ranking import top_k


def one_user(top: list[int], wanted: set[int], k: int) -> dict[str, float]:
    """The definitions, spelled out for one user."""
    ranks = [rank for rank, item in enumerate(top[:k], start=1) if item in wanted]
    h, n = len(ranks), len(wanted)
    ideal = sum(1 / math.log2(1 + rank) for rank in range(1, min(k, n) + 1))
    return {
        "recall": h / n,
        "recall_capped": h / min(k, n),
        "precision": h / k,
        "hit_rate": float(h > 0),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum((i + 1) / rank for i, rank in enumerate(ranks)) / n,
        "ndcg": sum(1 / math.log2(1 + rank) for rank in ranks) / ideal,
    }


def csr(wanted: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.concatenate([[0], np.cumsum([len(items) for items in wanted])])
    return indptr, np.array([i for items in wanted for i in sorted(items)], dtype=np.int32)


def measure(top: np.ndarray, wanted: list[set[int]], ks: tuple[int, ...]) -> dict[str, np.ndarray]:
    indptr, indices = csr(wanted)
    return user_metrics(find_hits(top, indptr, indices), np.diff(indptr), ks)


@given(seed=st.integers(0, 10_000), n_items=st.integers(3, 60), longest=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_every_metric_is_its_definition(seed: int, n_items: int, longest: int) -> None:
    rng = np.random.default_rng(seed)
    users = 6
    top = np.array([rng.permutation(max(n_items, longest))[:longest] for _ in range(users)])
    top[top >= n_items] = -1
    top[0, longest // 2 :] = -1  # a list that ends early
    wanted = [
        set(rng.choice(n_items, rng.integers(1, n_items + 1), replace=False).tolist())
        for _ in range(users)
    ]
    ks = tuple(sorted({1, (longest + 1) // 2, longest}))
    found = measure(top, wanted, ks)
    assert list(found) == [f"{name}@{k}" for name in PER_USER for k in ks]
    for k in ks:
        for user in range(users):
            for name, value in one_user(top[user].tolist(), wanted[user], k).items():
                assert found[f"{name}@{k}"][user] == pytest.approx(value, abs=1e-12), (name, k)


def test_the_two_recalls_differ_where_more_is_held_out_than_fits() -> None:
    top = np.array([[7, 1, 2, 9]])
    found = measure(top, [{1, 2, 3, 4, 5}], (2, 4))
    assert found["recall@2"][0] == 1 / 5
    assert found["recall_capped@2"][0] == 1 / 2
    assert found["recall@4"][0] == 2 / 5
    assert found["recall_capped@4"][0] == 2 / 4
    assert found["precision@4"][0] == 2 / 4
    assert found["mrr@4"][0] == 1 / 2
    assert found["map@4"][0] == (1 / 2 + 2 / 3) / 5
    assert found["ndcg@4"][0] == pytest.approx(
        (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5))
    )


def test_an_empty_batch_and_empty_rows_do_no_harm() -> None:
    none = find_hits(np.array([[0, 1]]), np.array([0, 0]), np.array([], dtype=np.int32))
    assert none.tolist() == [[False, False]]
    hits = find_hits(np.array([[0, 3], [-1, -1], [3, 0]]), np.array([0, 0, 1, 2]), np.array([3, 3]))
    assert hits.tolist() == [[False, False], [False, False], [True, False]]


def test_ranx_agrees_on_random_data_with_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists are our top-k's; the library gets the scores, their ties broken by item."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # its Python runs at once; compiling takes 40 s
    from ranx import Qrels, Run
    from ranx import evaluate as ranx_evaluate

    rng = np.random.default_rng(0)
    users, n_items, ks = 80, 40, (1, 5, 10, 20)
    scores = torch.from_numpy(rng.integers(0, 6, (users, n_items)) / 2.0).float()  # many ties
    top = top_k(scores, max(ks)).indices.numpy()
    wanted = [
        set(rng.choice(n_items, rng.integers(1, 30), replace=False).tolist()) for _ in range(users)
    ]
    untied = {
        f"u{user}": {f"i{item}": score - item / 1000 for item, score in enumerate(row)}
        for user, row in enumerate(scores.tolist())
    }
    relevant = {f"u{user}": {f"i{item}": 1 for item in items} for user, items in enumerate(wanted)}
    theirs = {
        "hit_rate": "hit_rate",
        "precision": "precision",
        "recall": "recall",
        "map": "map",
        "mrr": "mrr",
        "ndcg": "ndcg",
    }
    names = [f"{name}@{k}" for name in theirs.values() for k in ks]
    expected = ranx_evaluate(
        Qrels(relevant), Run(untied), names, return_mean=False, make_comparable=True
    )
    found = measure(top, wanted, ks)
    order = np.argsort([f"u{user}" for user in range(users)])  # theirs come sorted by user
    for ours, name in theirs.items():
        for k in ks:
            ours_at_k = found[f"{ours}@{k}"][order]
            np.testing.assert_allclose(
                ours_at_k, expected[f"{name}@{k}"], rtol=0, atol=1e-9, err_msg=f"{name}@{k}"
            )


def test_exposure_counts_each_list_once_and_skips_missing_items() -> None:
    top = np.array([[2, 0, -1], [2, 1, 0]])
    assert exposure(top, 4, (1, 3)).tolist() == [[0, 0, 2, 0], [2, 1, 2, 0]]


def test_catalogue_metrics_by_hand() -> None:
    exposed = np.array([[0, 0, 2, 0], [2, 1, 2, 0]])
    found = catalogue_metrics(exposed, (1, 3), np.array([8, 4, 4, 0]))
    assert found["coverage@1"] == 1 / 4
    assert found["coverage@3"] == 3 / 4
    assert found["gini@1"] == 3 / 4  # one of four items has all: 1 - 1/n
    # shares 8/16, 4/16, 4/16 carry 1, 2 and 2 bits; item 0 twice, 1 once, 2 twice in five places
    assert found["novelty@1"] == 2.0
    assert found["novelty@3"] == (2 * 1 + 1 * 2 + 2 * 2) / 5
    assert list(catalogue_metrics(exposed, (1, 3))) == [
        "coverage@1",
        "coverage@3",
        "gini@1",
        "gini@3",
    ]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    n, total = len(counts), sum(counts)
    pairs = sum(abs(a - b) for a in counts for b in counts)
    expected = pairs / (2 * n * total) if total else 0.0
    assert gini(np.array(counts)) == pytest.approx(expected, abs=1e-12)
