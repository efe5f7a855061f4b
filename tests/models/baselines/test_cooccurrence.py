import numpy as np
import pytest

from coterie.errors import DataError
from coterie.models.baselines import cooccurrence
from coterie.models.baselines.cooccurrence import Cooccurrence
from histories import dense_of, interactions_of, random_histories

N_ITEMS = 17
HISTORIES = random_histories(60, N_ITEMS, seed=3)
SHARED = dense_of(HISTORIES, N_ITEMS).numpy()
SHARED = SHARED.T @ SHARED


def test_blocks_of_rows_and_of_columns_are_those_of_the_dense_product() -> None:
    found = Cooccurrence(interactions_of(HISTORIES, N_ITEMS))
    for start, stop in found.blocks():
        assert found.rows(start, stop).toarray().tolist() == SHARED[start:stop].tolist()
        assert found.below(start, stop).tolist() == SHARED[start:, start:stop].tolist()
    assert found.counts.tolist() == np.diag(SHARED).tolist()


@pytest.mark.parametrize("at_once", [1, 40, 10**9])
def test_blocks_cover_all_items_once(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(cooccurrence, "ENTRIES_AT_ONCE", at_once)
    blocks = Cooccurrence(interactions_of(HISTORIES, N_ITEMS)).blocks()
    assert [item for start, stop in blocks for item in range(start, stop)] == list(range(N_ITEMS))
    assert all((stop - start) * N_ITEMS <= max(at_once, N_ITEMS) for start, stop in blocks)


def test_nothing_is_learned_from_nothing() -> None:
    with pytest.raises(DataError, match="holds no interactions"):
        Cooccurrence(interactions_of([[], []], 3))
