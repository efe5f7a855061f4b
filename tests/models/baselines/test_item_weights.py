import numpy as np
import pytest
import torch

from coterie.errors import DataError
from coterie.models.baselines import item_weights
from coterie.models.baselines.item_knn import ItemKnnConfig
from coterie.models.baselines.item_weights import SparseItemWeights
from histories import batch_of, dense_of, random_histories

N_ITEMS = 30


def random_model(seed: int) -> tuple[SparseItemWeights, np.ndarray]:
    """A model, and its W as a dense matrix; some columns have fewer weights, one has none."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(N_ITEMS)[:6] for _ in range(N_ITEMS)])
    items[rng.random(items.shape) < 0.3] = -1
    items[4] = -1
    weights = rng.standard_normal(items.shape).astype(np.float32)
    dense = np.zeros((N_ITEMS, N_ITEMS), dtype=np.float32)
    for column in range(N_ITEMS):
        for item, weight in zip(items[column], weights[column], strict=True):
            if item >= 0:
                dense[item, column] = weight
    return SparseItemWeights.of_columns(ItemKnnConfig(), items, weights), dense


@pytest.mark.parametrize("at_once", [1, 7, 50, 1 << 22])
def test_scores_are_the_product_with_the_matrix(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(item_weights, "TERMS_AT_ONCE", at_once)
    model, dense = random_model(0)
    histories = random_histories(25, N_ITEMS, seed=2)
    expected = dense_of(histories, N_ITEMS) @ torch.from_numpy(dense)
    torch.testing.assert_close(model(batch_of(histories, N_ITEMS)), expected)


def test_users_without_a_history_score_nothing() -> None:
    model, _ = random_model(1)
    assert model(batch_of([[], []], N_ITEMS)).tolist() == [[0.0] * N_ITEMS] * 2


def test_entries_stand_row_by_row_in_order() -> None:
    model, dense = random_model(2)
    rows, columns = np.nonzero(dense)
    assert model.indices.tolist() == columns.tolist()
    assert model.indptr.diff().tolist() == np.bincount(rows, minlength=N_ITEMS).tolist()
    assert model.nnz == len(rows)


def test_a_matrix_without_entries_is_one() -> None:
    none = np.full((3, 2), -1)
    model = SparseItemWeights.of_columns(ItemKnnConfig(), none, np.ones((3, 2), dtype=np.float32))
    model.check()
    assert model(batch_of([[0, 2]], 3)).tolist() == [[0, 0, 0]]


def test_what_is_no_matrix_is_refused() -> None:
    for name, place, value in (("indptr", 2, -1), ("indptr", 0, 1), ("indices", 1, N_ITEMS)):
        model, _ = random_model(3)
        model.check()
        getattr(model, name)[place] = value
        with pytest.raises(DataError, match=name):
            model.check()
