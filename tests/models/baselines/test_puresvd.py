import numpy as np
import pytest

from coterie.errors import ConfigError
from coterie.models.baselines.puresvd import PureSvdConfig, fit
from histories import batch_of, dense_of, interactions_of, random_histories

N_ITEMS = 25
HISTORIES = random_histories(70, N_ITEMS, seed=7, longest=10)


def silent(done: int, total: int) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("rank", [1, 6, 24])
def test_scores_are_the_projection_on_the_leading_singular_vectors(rank: int) -> None:
    model = fit(interactions_of(HISTORIES, N_ITEMS), PureSvdConfig(factors=rank), silent)
    x = dense_of(HISTORIES, N_ITEMS).numpy().astype(np.float64)
    right = np.linalg.svd(x, full_matrices=False)[2][:rank]
    asked = random_histories(15, N_ITEMS, seed=3)
    expected = dense_of(asked, N_ITEMS).numpy() @ right.T @ right
    np.testing.assert_allclose(model(batch_of(asked, N_ITEMS)), expected, atol=1e-5)
    assert np.allclose(abs((right * model.factors.numpy().T).sum(1)), 1, atol=1e-5)  # in order


def test_another_seed_begins_elsewhere_and_ends_there_too() -> None:
    data = interactions_of(HISTORIES, N_ITEMS)
    first, second = (fit(data, PureSvdConfig(factors=4, seed=s), silent).factors for s in (0, 1))
    np.testing.assert_allclose(first @ first.T, second @ second.T, atol=1e-5)


@pytest.mark.parametrize("rank", [25, 26])
def test_the_rank_must_be_below_the_sizes(rank: int) -> None:
    with pytest.raises(ConfigError, match=rf"below the 70 users and the 25 items, got {rank}"):
        fit(interactions_of(HISTORIES, N_ITEMS), PureSvdConfig(factors=rank), silent)
