from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from coterie.data.batches import UserBatch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.models.vae import VAE, ModelConfig
from coterie.objectives.elbo import Objective, ObjectiveConfig
from coterie.objectives.masking import (
    MaskConfig,
    draw_mask,
    mask,
    mask_at_random_rate,
    mask_by_item,
    mask_time_blocks,
    popularity_keep,
)
from histories import batch_of, interactions_of, random_histories

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
        rows = masked.rows
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


# ---- the other kinds

LONG = [list(range(n)) for n in (40, 1, 17, 8, 9, 3)]


def timed(histories: list[list[int]], n_items: int, seed: int = 0) -> UserBatch:
    """With times in an order of their own; some entries share a moment."""
    batch = batch_of(histories, n_items)
    rng = np.random.default_rng(seed)
    times = torch.from_numpy(rng.integers(0, 10**9, len(batch.indices)))
    return replace(batch, timestamps=times // 10**7 * 10**7)


def masked_by(batch: UserBatch, kind: str, rho: float, draws: torch.Generator) -> UserBatch:
    counts = torch.bincount(batch.indices, minlength=batch.n_items).numpy()
    keep = torch.from_numpy(popularity_keep(counts, rho, 0.5)).float()
    width = 2 * min(rho, 1 - rho) * 0.9
    config = MaskConfig.read({"kind": kind, **({"width": width} if kind == "random-rate" else {})})
    return draw_mask(batch, config, rho, draws, keep)


def kept_flags(batch: UserBatch, masked: UserBatch) -> torch.Tensor:
    """Which entries were kept, bool ``[nnz]``; entries are known by user and item."""
    whole, part = (b.rows * b.n_items + b.indices for b in (batch, masked))
    assert torch.isin(part, whole).all()
    return torch.isin(whole, part)


OTHERS = ("popularity", "random-rate", "time-block")


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
def test_the_mean_share_kept_is_rho(kind: str, rho: float) -> None:
    batch = timed(random_histories(60, N_ITEMS, seed=0), N_ITEMS)
    draws, n_draws = generator(), 600
    shares = torch.tensor(
        [
            len(masked_by(batch, kind, rho, draws).indices) / len(batch.indices)
            for _ in range(n_draws)
        ]
    )
    error = shares.std().item() / n_draws**0.5
    assert abs(shares.mean().item() - rho) < 4.5 * error
    assert error < 0.01, "or the test could not fail"


@pytest.mark.parametrize("kind", ["random-rate", "time-block"])
def test_each_entry_is_kept_with_probability_rho_and_the_input_is_unbiased(kind: str) -> None:
    rho, n_draws = 0.4, 4000
    batch, draws = timed(LONG, 40), generator(3)
    kept = torch.zeros(len(batch.indices), dtype=torch.float64)
    inputs = torch.zeros(len(batch.indices), dtype=torch.float64)
    squares = torch.zeros(len(batch.indices), dtype=torch.float64)
    for _ in range(n_draws):
        masked = masked_by(batch, kind, rho, draws)
        flags = kept_flags(batch, masked)
        values = flags * masked.scale[batch.rows].double()
        kept, inputs, squares = kept + flags, inputs + values, squares + values**2
    deviation = (kept / n_draws - rho) / (rho * (1 - rho) / n_draws) ** 0.5
    assert deviation.abs().max() < 4.5, "in standard errors"
    mean = inputs / n_draws
    error = ((squares / n_draws - mean**2) / n_draws).sqrt()
    clean = batch.scale[batch.rows].double()
    assert ((mean - clean) / error).abs().max() < 4.5


@pytest.mark.parametrize("kind", OTHERS)
def test_the_generator_decides_the_other_masks_too(kind: str) -> None:
    batch = timed(random_histories(50, N_ITEMS, seed=0), N_ITEMS)
    before = torch.random.get_rng_state()
    first, again, other = (masked_by(batch, kind, 0.5, generator(s)) for s in (1, 1, 2))
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(first.indptr, again.indptr)
    assert torch.equal(first.scale, again.scale)
    assert not torch.equal(first.indices, other.indices)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert kept_flags(batch, first).sum() == len(first.indices), "masking only ever removes"
    assert first.timestamps is not None
    assert torch.equal(first.timestamps, batch.timestamps[kept_flags(batch, first)])


# popularity


@pytest.mark.parametrize("rho", [0.05, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("exponent", [0.1, 0.5, 1.0, 3.0])
def test_popularity_keeps_rho_of_all_interactions_and_less_of_popular_items(
    rho: float, exponent: float
) -> None:
    counts = np.random.default_rng(0).zipf(1.4, 300).clip(0, 5000)
    counts[::20] = 0
    keep = popularity_keep(counts, rho, exponent)
    used = counts > 0
    assert (counts * keep).sum() / counts.sum() == pytest.approx(rho, rel=1e-12)
    assert (keep > 0).all()
    assert (keep <= 1).all()
    assert (keep[~used] == 1).all()
    below = used & (keep < 1)
    assert below.any()
    factors = keep[below] * counts[below] ** float(exponent)
    np.testing.assert_allclose(factors, factors[0], rtol=1e-12)
    at_one = used & (keep == 1)  # with the same factor they would exceed 1
    assert (factors[0] * counts[at_one] ** -float(exponent) >= 1 - 1e-12).all()
    order = np.argsort(counts[used])
    assert (np.diff(keep[used][order]) <= 1e-15).all()


def test_items_of_equal_popularity_are_kept_alike() -> None:
    np.testing.assert_allclose(
        popularity_keep(np.array([7, 7, 0, 7]), 0.3, 2.0), [0.3, 0.3, 1, 0.3]
    )


def test_each_item_has_its_own_keep_probability_and_each_user_a_scale() -> None:
    histories = [[0, 1, 2], [2], [], [0, 2, 3]]
    keep, n_draws = torch.tensor([0.1, 0.5, 0.9, 0.3]), 4000
    batch, draws = batch_of(histories, 4), generator()
    kept = torch.zeros(len(batch.indices), dtype=torch.float64)
    for _ in range(n_draws):
        masked = mask_by_item(batch, keep, draws)
        kept += kept_flags(batch, masked)
    expected = keep[batch.indices].double()
    deviation = (kept / n_draws - expected) / (expected * (1 - expected) / n_draws).sqrt()
    assert deviation.abs().max() < 4.5, "in standard errors"
    shares = torch.tensor([0.5, 0.9, 1.0, 1.3 / 3])
    torch.testing.assert_close(masked.scale, batch.scale / shares)


# rates


def test_rates_are_uniform_and_shared_by_a_users_entries() -> None:
    n_users, n = 4000, 30
    batch = batch_of([list(range(n))] * n_users, n)
    masked = mask_at_random_rate(batch, 0.5, 0.8, generator())
    rates = batch.scale / masked.scale
    assert rates.min() >= 0.1
    assert rates.max() <= 0.9
    assert rates.std().item() == pytest.approx(0.8 / 12**0.5, rel=0.05)
    assert rates.mean().item() == pytest.approx(0.5, abs=4.5 * 0.8 / (12 * n_users) ** 0.5)
    # Given its rate a user's number of kept entries is binomial: its distribution function at a
    # random point within each step is uniform.
    kept = masked.lengths.numpy()
    u = np.random.default_rng(0).random(n_users)
    known = rates.numpy().astype(float)
    values = binom.cdf(kept - 1, n, known) + u * binom.pmf(kept, n, known)
    assert np.abs(np.sort(values) - (np.arange(n_users) + 0.5) / n_users).max() < 0.03


# blocks


def test_whole_runs_of_the_history_are_hidden_in_the_order_of_time() -> None:
    batch, draws, blocks = timed(LONG, 40, seed=5), generator(1), 4
    assert batch.timestamps is not None
    for _ in range(200):
        flags = kept_flags(batch, mask_time_blocks(batch, 0.5, blocks, draws))
        for user, history in enumerate(LONG):
            mine = slice(int(batch.indptr[user]), int(batch.indptr[user + 1]))
            moments = list(zip(batch.timestamps[mine].tolist(), history, strict=True))
            in_time = [flag for _, flag in sorted(zip(moments, flags[mine].tolist(), strict=True))]
            length = -(-len(history) // blocks)
            fits = [
                all(
                    len(set(run)) <= 1
                    for run in [in_time[: length - o]]
                    + [in_time[s : s + length] for s in range(length - o, len(history), length)]
                )
                for o in range(length)
            ]
            assert any(fits), "an offset at which no run is torn"


def test_the_runs_begin_at_every_offset() -> None:
    history, n_draws = list(range(12)), 3000
    batch = replace(batch_of([history], 12), timestamps=torch.arange(12) * 100)
    together = torch.zeros(11)
    draws = generator()
    for _ in range(n_draws):
        flags = kept_flags(batch, mask_time_blocks(batch, 0.5, 4, draws))  # runs of three
        together += flags[1:] == flags[:-1]
    # Neighbours are in one run at two of three offsets, and else agree half of the time.
    expected = 2 / 3 + 1 / 6
    error = (expected * (1 - expected) / n_draws) ** 0.5
    assert ((together / n_draws - expected) / error).abs().max() < 4.5


def test_as_many_blocks_as_entries_are_a_plain_mask() -> None:
    batch, draws, n_draws = timed([list(range(10))] * 4, 10), generator(), 3000
    counts = torch.zeros(11)
    for _ in range(n_draws):
        for kept in mask_time_blocks(batch, 0.3, 10, draws).lengths.tolist():
            counts[kept] += 1
    expected = torch.from_numpy(binom.pmf(np.arange(11), 10, 0.3))
    error = (expected * (1 - expected) / (4 * n_draws)).sqrt()
    assert ((counts / (4 * n_draws) - expected) / error)[:8].abs().max() < 4.5


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exponent": 1.0}, "exponent=1.0 does nothing: only kind='popularity'"),
        ({"kind": "popularity", "width": 0.5}, "width=0.5 does nothing: only kind='random-rate'"),
        ({"kind": "random-rate", "blocks": 3}, "blocks=3 does nothing: only kind='time-block'"),
        ({"kind": "time-block", "blocks": 0}, "blocks"),
        ({"kind": "popularity", "exponent": 0}, "exponent"),
        ({"kind": "random-rate", "width": 1}, "width"),
        ({"kind": "learned"}, "kind"),
    ],
)
def test_settings_that_do_nothing_or_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MaskConfig.read(settings)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_mask_of_nothing_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="needs keep_probability < 1"):
        ObjectiveConfig.read({"keep_probability": 1, "mask": {"kind": kind}})
    assert ObjectiveConfig.read({"keep_probability": 1}).mask == MaskConfig()


@pytest.mark.parametrize(
    ("rho", "width", "fine"),
    [(0.5, 0.9, True), (0.7, 0.6, True), (0.7, 0.7, False), (0.2, 0.4, False)],
)
def test_rates_outside_of_0_and_1_are_refused(rho: float, width: float, fine: bool) -> None:
    values = {"keep_probability": rho, "mask": {"kind": "random-rate", "width": width}}
    if fine:
        assert ObjectiveConfig.read(values).mask.width == width
    else:
        with pytest.raises(ConfigError, match=r"outside \(0, 1\]; make mask\.width smaller"):
            ObjectiveConfig.read(values)


def test_masks_by_time_need_timestamps() -> None:
    config = ObjectiveConfig.read({"mask": {"kind": "time-block"}})
    assert config.extras == ("timestamps",)
    data = interactions_of([[0, 1], [1]], 2)
    with pytest.raises(DataError, match="no timestamps"):
        config.check(data)
    config.check(
        Interactions(
            data.indptr, data.indices, data.user_ids, data.item_ids, timestamps=np.arange(3)
        )
    )


def test_an_objective_learns_from_the_training_users_what_is_popular() -> None:
    data = interactions_of([[0, 1], [0], [0, 2]], 3)
    config = ObjectiveConfig.read({"keep_probability": 0.6, "mask": {"kind": "popularity"}})
    model = VAE(ModelConfig(hidden_dims=(3,), latent_dim=2), 3)
    objective = Objective(config, model).prepared(data, torch.device("cpu"))
    assert objective._item_keep is not None
    np.testing.assert_allclose(
        objective._item_keep, popularity_keep(np.array([3, 1, 1]), 0.6, 0.5), rtol=1e-6
    )
