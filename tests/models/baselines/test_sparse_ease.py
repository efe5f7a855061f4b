import numpy as np
import pytest

from coterie import memory
from coterie.errors import ConfigError
from coterie.models.baselines import cooccurrence, ease, sparse_ease
from coterie.models.baselines.ease import EaseConfig
from coterie.models.baselines.item_weights import SparseItemWeights
from coterie.models.baselines.sparse_ease import SparseEaseConfig, fit
from histories import batch_of, dense_of, interactions_of, random_histories

N_ITEMS = 31
HISTORIES = random_histories(120, N_ITEMS, seed=6, longest=8)


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def rows_of(model: SparseItemWeights) -> np.ndarray:
    alone: np.ndarray = model(batch_of([[item] for item in range(N_ITEMS)], N_ITEMS)).numpy()
    return alone


def by_hand(n: int, l2: float, shrinkage: float) -> np.ndarray:
    """Each column as the ridge regression on the item's n nearest others, in float64."""
    x = dense_of(HISTORIES, N_ITEMS).numpy().astype(np.float64)
    shared, counts = x.T @ x, x.sum(0)
    cosine = (shared / (np.sqrt(np.outer(counts, counts)) + shrinkage)).astype(np.float32)
    matrix = np.zeros((N_ITEMS, N_ITEMS))
    for target in range(N_ITEMS):
        others = [i for i in range(N_ITEMS) if i != target and shared[i, target]]
        near = sorted(others, key=lambda i, of=target: (-cosine[i, of], i))[:n]
        system = x[:, near].T @ x[:, near] + l2 * np.eye(len(near))
        matrix[near, target] = np.linalg.solve(system, x[:, near].T @ x[:, target])
    return matrix


@pytest.mark.parametrize("n", [1, 5, 12])
@pytest.mark.parametrize("at_once", [200, 1 << 24])
def test_weights_solve_the_restricted_regressions(
    monkeypatch: pytest.MonkeyPatch, n: int, at_once: int
) -> None:
    monkeypatch.setattr(cooccurrence, "ENTRIES_AT_ONCE", at_once)
    monkeypatch.setattr(sparse_ease, "SYSTEMS_AT_ONCE", at_once)
    config = SparseEaseConfig(neighbours=n, l2=4.0, shrinkage=3.0)
    model = fit(interactions_of(HISTORIES, N_ITEMS), config, silent)
    np.testing.assert_allclose(rows_of(model), by_hand(n, 4.0, 3.0), atol=1e-5)
    assert np.count_nonzero(rows_of(model), axis=0).max() == n


def test_with_all_items_as_neighbours_it_is_ease() -> None:
    """Every two of these items share a user, so that each is a neighbour of each."""
    histories = [*HISTORIES, list(range(N_ITEMS))]
    data = interactions_of(histories, N_ITEMS)
    whole = fit(data, SparseEaseConfig(neighbours=10**6, l2=2.0), silent)
    dense = ease.fit(data, EaseConfig(l2=2.0), silent).weights
    np.testing.assert_allclose(rows_of(whole), dense, atol=1e-5)


def test_items_of_nobody_and_of_loners_have_no_weights() -> None:
    data = interactions_of([[0, 1], [0, 1], [2]], 4)
    model = fit(data, SparseEaseConfig(l2=1.0), silent)
    scores = model(batch_of([[0], [1], [2], [3]], 4)).numpy()
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2 / 3
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_pairs_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match=r"sparse-ease on 31 items.*item-knn"):
        fit(interactions_of(HISTORIES, N_ITEMS), SparseEaseConfig(), silent)


def test_a_penalty_too_small_for_float32_is_refused() -> None:
    data = interactions_of([[0, 1, 2]] * 3000, 3)
    with pytest.raises(ConfigError, match=r"sparse-ease\.l2=1e-06 is too small"):
        fit(data, SparseEaseConfig(l2=1e-6), silent)
