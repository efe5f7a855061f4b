import numpy as np
import pytest

from coterie.models.baselines import cooccurrence
from coterie.models.baselines.item_knn import ItemKnnConfig, fit
from histories import batch_of, interactions_of, random_histories

N_ITEMS = 19


def by_hand(histories: list[list[int]], n: int, shrinkage: float) -> np.ndarray:
    """W in float64, one pair of items after the other."""
    users = [{u for u, history in enumerate(histories) if i in history} for i in range(N_ITEMS)]
    matrix = np.zeros((N_ITEMS, N_ITEMS))
    for target in range(N_ITEMS):
        near = []
        for item in range(N_ITEMS):
            shared = len(users[item] & users[target])
            if shared and item != target:
                norm = (len(users[item]) * len(users[target])) ** 0.5 + shrinkage
                near.append((-np.float32(shared / norm), item, shared / norm))
        for _, item, cosine in sorted(near)[:n]:
            matrix[item, target] = cosine
    return matrix


@pytest.mark.parametrize("shrinkage", [0.0, 7.5])
@pytest.mark.parametrize("n", [1, 4, 500])
@pytest.mark.parametrize("at_once", [50, 1 << 24])
def test_weights_are_those_of_a_loop(
    monkeypatch: pytest.MonkeyPatch, n: int, shrinkage: float, at_once: int
) -> None:
    monkeypatch.setattr(cooccurrence, "ENTRIES_AT_ONCE", at_once)
    histories = random_histories(40, N_ITEMS, seed=5, longest=6)
    config = ItemKnnConfig(neighbours=n, shrinkage=shrinkage)
    model = fit(interactions_of(histories, N_ITEMS), config, lambda done, total: None)
    alone = model(batch_of([[item] for item in range(N_ITEMS)], N_ITEMS))  # the rows of W
    np.testing.assert_allclose(alone, by_hand(histories, n, shrinkage), atol=1e-6)


def test_items_of_nobody_and_of_loners_have_no_neighbours() -> None:
    model = fit(
        interactions_of([[0, 1], [0, 1], [2]], 4),
        ItemKnnConfig(shrinkage=0),
        lambda done, total: None,
    )
    np.testing.assert_allclose(model(batch_of([[0, 2, 3]], 4)), [[0, 1, 0, 0]], atol=1e-6)
