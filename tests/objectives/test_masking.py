import pytest
import torch

from coterie.objectives.masking import mask
from histories import batch_of, random_histories

N_ITEMS = 40


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_the_kept_share_is_rho_and_kept_entries_are_scaled_by_its_inverse(rho: float) -> None:
    batch = batch_of(random_histories(4000, N_ITEMS, seed=0), N_ITEMS)
    masked = mask(batch, rho, generator())
    total, kept = len(batch.indices), len(masked.indices)
    assert abs(kept - rho * total) < 4 * (total * rho * (1 - rho)) ** 0.5
    torch.testing.assert_close(masked.scale, batch.scale / rho)


def test_masking_only_ever_removes() -> None:
    histories = random_histories(50, N_ITEMS, seed=1)
    masked = mask(batch_of(histories, N_ITEMS), 0.5, generator())
    for user, history in enumerate(histories):
        kept = masked.indices[masked.indptr[user] : masked.indptr[user + 1]].tolist()
        assert set(kept) <= set(history)
        assert kept == sorted(set(kept))


def test_the_expected_masked_input_is_the_clean_input() -> None:
    rho, n_draws = 0.3, 4_000
    histories = [[0, 3], [1], [], [0, 1, 2, 3, 4]]
    batch = batch_of(histories, 5)
    draws, total = generator(), torch.zeros(4, 5, dtype=torch.float64)
    for _ in range(n_draws):
        masked = mask(batch, rho, draws)
        rows = masked.rows()
        total[rows, masked.indices] += masked.scale[rows]
    clean = torch.zeros(4, 5, dtype=torch.float64)
    for user, history in enumerate(histories):
        clean[user, history] = max(len(history), 1) ** -0.5
    error = clean * ((1 - rho) / rho / n_draws) ** 0.5
    deviation = (total / n_draws - clean)[clean > 0] / error[clean > 0]
    assert deviation.abs().max() < 4.5, "in standard errors"
    assert (total[clean == 0] == 0).all()


def test_a_keep_probability_of_one_is_clean_input_and_draws_nothing() -> None:
    batch = batch_of(random_histories(5, N_ITEMS, seed=0), N_ITEMS)
    draws = generator()
    state = draws.get_state()
    assert mask(batch, 1, draws) is batch
    assert torch.equal(draws.get_state(), state)


def test_the_generator_decides_the_mask() -> None:
    batch = batch_of(random_histories(50, N_ITEMS, seed=0), N_ITEMS)
    before = torch.random.get_rng_state()
    first, again, other = (mask(batch, 0.5, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(first.indptr, again.indptr)
    assert not torch.equal(first.indices, other.indices)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_mask_may_leave_nothing() -> None:
    masked = mask(batch_of([[2]] * 30, 4), 0.01, generator())
    assert masked.n_users == 30
    assert masked.lengths.min() == 0
