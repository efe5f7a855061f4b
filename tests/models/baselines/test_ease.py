import tracemalloc

import numpy as np
import pytest

from coterie import memory
from coterie.errors import ConfigError
from coterie.models.baselines import cooccurrence, ease
from coterie.models.baselines.ease import EaseConfig, fit, weights_
from histories import batch_of, dense_of, interactions_of, random_histories

N_ITEMS = 45


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def closed_form(histories: list[list[int]], n_items: int, l2: float) -> np.ndarray:
    """Each column as the ridge regression of an item on all others, in float64."""
    x = dense_of(histories, n_items).numpy().astype(np.float64)
    matrix = np.zeros((n_items, n_items))
    for target in range(n_items):
        others = [item for item in range(n_items) if item != target]
        system = x[:, others].T @ x[:, others] + l2 * np.eye(n_items - 1)
        matrix[others, target] = np.linalg.solve(system, x[:, others].T @ x[:, target])
    return matrix


@pytest.mark.parametrize("l2", [0.5, 30.0])
@pytest.mark.parametrize("at_once", [100, 1 << 24])
def test_weights_solve_every_items_regression(
    monkeypatch: pytest.MonkeyPatch, l2: float, at_once: int
) -> None:
    monkeypatch.setattr(cooccurrence, "ENTRIES_AT_ONCE", at_once)
    monkeypatch.setattr(ease, "MIRRORED_AT_ONCE", 7)
    histories = random_histories(150, N_ITEMS, seed=4, longest=12)
    model = fit(interactions_of(histories, N_ITEMS), EaseConfig(l2=l2), silent)
    np.testing.assert_allclose(model.weights, closed_form(histories, N_ITEMS, l2), atol=2e-5)
    asked = random_histories(20, N_ITEMS, seed=8)
    expected = dense_of(asked, N_ITEMS).numpy() @ closed_form(histories, N_ITEMS, l2)
    np.testing.assert_allclose(model(batch_of(asked, N_ITEMS)), expected, atol=2e-4)


def test_an_item_of_nobody_has_no_weights() -> None:
    model = fit(interactions_of([[0, 1], [0, 1], [1]], 3), EaseConfig(l2=1), silent)
    assert model.weights[2].tolist() == model.weights[:, 2].tolist() == [0, 0, 0]
    assert model.weights[0, 1] == pytest.approx(2 / 3)  # c_01 / (c_00 + l2)


def test_one_item_is_enough() -> None:
    assert fit(interactions_of([[0], [0]], 1), EaseConfig(), silent).weights.tolist() == [[0]]


def test_one_matrix_is_all_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooccurrence, "ENTRIES_AT_ONCE", 1 << 16)
    monkeypatch.setattr(ease, "MIRRORED_AT_ONCE", 100)
    data = interactions_of(random_histories(300, 1500, seed=1, longest=20), 1500)
    tracemalloc.start()
    fit(data, EaseConfig(), silent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * 4 * 1500**2


def test_a_matrix_that_does_not_fit_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 20 << 30)
    data = interactions_of([[0, 99_999]], 100_000)
    with pytest.raises(ConfigError, match=r"100,000 × 100,000 takes 37\.4 GiB, and 20\.0 GiB") as e:
        fit(data, EaseConfig(), silent)
    assert "sparse-ease" in str(e.value)


def test_a_penalty_too_small_for_float32_is_refused() -> None:
    data = interactions_of([[0, 1, 2]] * 3000, 3)
    with pytest.raises(ConfigError, match=r"ease\.l2=1e-06 is too small"):
        fit(data, EaseConfig(l2=1e-6), silent)


def test_only_the_lower_triangle_counts() -> None:
    whole = np.array([[3, 1, 2], [1, 4, 0], [2, 0, 5]], dtype=np.float32)
    lower = np.tril(whole) + np.triu(np.full((3, 3), np.nan, dtype=np.float32), 1)
    weights_(whole, 2.0)
    weights_(lower, 2.0)
    np.testing.assert_array_equal(lower, whole)
