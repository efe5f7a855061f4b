import sys
from functools import cache

import numpy as np
import ot
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cityblock
from scipy.stats import norm, spearmanr, wasserstein_distance
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.errors import ConfigError, DataError, MissingExtraError
from coterie.mechanisms import wasserstein as module
from coterie.mechanisms.measurement import Budget
from coterie.mechanisms.wasserstein import (
    Wasserstein,
    deviations,
    mean_error,
    nearest_users,
    rank_correlation,
    shared_items,
    w1_bracket,
    w1_transport,
    w2,
    wasserstein,
)
from coterie.models.posterior import Posterior
from histories import dense_of, interactions_of, random_histories
from training.small_run import experiment, run, small_split


def gaussians(n: int, k: int, seed: int, *, spread: float = 0.5) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(n, k, generator=generator)
    return Posterior(mu, spread * torch.randn(n, k, generator=generator) - 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def trained(name: str = "multi-vae") -> torch.nn.Module:
    settings = experiment(model={"name": name}, pia=1.0 if name == "multi-vae" else 0.0)
    return run(settings).recommender.model


@cache
def measured() -> Wasserstein:
    return wasserstein(trained(), small_split().train, generator=generator())


# Distances


def test_w2_is_the_bures_distance_of_pot() -> None:
    a, b = gaussians(6, 5, 1), gaussians(6, 5, 2)
    expected = [
        ot.gaussian.bures_wasserstein_distance(
            a.mu[i].double().numpy(),
            b.mu[i].double().numpy(),
            np.diag(a.logvar[i].double().exp().numpy()),
            np.diag(b.logvar[i].double().exp().numpy()),
        )
        for i in range(6)
    ]
    np.testing.assert_allclose(w2(a, b).numpy(), expected, rtol=1e-5)


def test_of_points_all_distances_are_those_of_the_codes() -> None:
    a, b = Posterior(torch.tensor([[3.0, 0.0]]), None), Posterior(torch.tensor([[0.0, 4.0]]), None)
    bracket = w1_bracket(a, b)
    assert bracket.lower.item() == bracket.upper.item() == pytest.approx(5)
    spread = Posterior(b.mu, torch.log(torch.tensor([[4.0, 9.0]])) + torch.log(torch.tensor(4.0)))
    assert w2(a, spread).item() == pytest.approx((25 + 16 + 36) ** 0.5)


def test_rows_must_match() -> None:
    with pytest.raises(DataError, match=r"\[2, 3\] and \[1, 3\]"):
        w2(gaussians(2, 3, 0), gaussians(1, 3, 0))


values = st.lists(st.floats(-5, 5, width=32), min_size=12, max_size=12)


@given(values)
@settings(max_examples=60, deadline=None)
def test_distances_are_a_metric_and_the_bracket_is_ordered(flat: list[float]) -> None:
    mu, logvar = torch.tensor(flat, dtype=torch.float64).view(2, 3, 2)
    a, b, c = (Posterior(mu[i : i + 1], logvar[i : i + 1]) for i in range(3))
    assert w2(a, b) == w2(b, a)
    assert w2(a, a) == 0
    bracket = w1_bracket(a, b)
    assert bracket.lower <= bracket.upper
    assert w2(a, c) <= (w2(a, b) + w2(b, c)) * (1 + 1e-12)


# Optimal transport


def in_one_dimension(posterior: Posterior, n: int = 20_001) -> tuple[float, float, float]:
    """W1 of rows 0 and 1 by SciPy from quantiles, and the bracket."""
    levels = (np.arange(n) + 0.5) / n
    a, b = (
        norm.ppf(levels, posterior.mu[i].item(), deviations(posterior)[i].item()) for i in (0, 1)
    )
    bracket = w1_bracket(
        module.pick(posterior, np.array([0])), module.pick(posterior, np.array([1]))
    )
    return wasserstein_distance(a, b), bracket.lower.item(), bracket.upper.item()


def test_with_equal_variances_transport_is_exact() -> None:
    posterior = Posterior(torch.tensor([[0.0], [1.5]]), torch.zeros(2, 1))
    truth, lower, upper = in_one_dimension(posterior)
    assert truth == pytest.approx(1.5, rel=1e-6)
    assert lower == upper == 1.5
    found = w1_transport(posterior, np.array([[0, 1]]), 8, generator())
    assert found.item() == pytest.approx(1.5, rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 0.5, 3.0])
def test_in_one_dimension_transport_estimates_scipys_w1(offset: float) -> None:
    posterior = Posterior(
        torch.tensor([[0.0], [offset]]), torch.tensor([[0.0], [2 * np.log(3)]]).float()
    )
    truth, lower, upper = in_one_dimension(posterior)
    assert lower < truth < upper or offset == 3.0
    found = w1_transport(posterior, np.array([[0, 1]] * 400), 32, generator())
    error = found.std().item() / 20
    assert abs(found.mean().item() - truth) < 4 * error + 1e-3
    assert error < 0.03


def test_in_many_dimensions_the_bias_stays_within_the_bracket() -> None:
    """Independent draws would give about ``σ sqrt(2 K)`` for equal posteriors."""
    k = 60
    posterior = Posterior(torch.zeros(3, k), torch.zeros(3, k))
    posterior.mu[1, 0] = 2
    posterior.logvar[2] = 2 * np.log(1.5)
    pairs = np.array([[0, 0], [0, 1]] + [[0, 2]] * 30)
    found = w1_transport(posterior, pairs, 16, generator())
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found[1] == pytest.approx(2, rel=1e-9)
    upper = 0.5 * k**0.5
    truth = (2**0.5 * 0.5) * np.exp(  # of isotropic Gaussians: E‖Δσ ε‖ (radial, so optimal)
        float(torch.lgamma(torch.tensor((k + 1) / 2)) - torch.lgamma(torch.tensor(k / 2)))
    )
    assert truth < upper
    assert found[2:].mean().item() == pytest.approx(truth, rel=0.02)


def test_transport_agrees_with_pot_on_given_draws() -> None:
    posterior, n = gaussians(2, 3, 5), 10
    half = torch.randn(n // 2, 3, generator=generator(7), dtype=torch.float64)
    noise = torch.cat([half, -half])
    u, v = (posterior.mu[i].double() + deviations(posterior)[i].double() * noise for i in (0, 1))
    costs = ot.dist(u.numpy(), v.numpy(), metric="euclidean")
    expected = ot.emd2(np.full(n, 1 / n), np.full(n, 1 / n), costs)
    found = w1_transport(posterior, np.array([[0, 1]]), n, generator(7))
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n_draws", [0, 1, 7])
def test_transport_needs_an_even_number_of_draws(n_draws: int) -> None:
    with pytest.raises(ConfigError, match="even"):
        w1_transport(gaussians(2, 3, 0), np.array([[0, 1]]), n_draws, generator())


def test_without_pot_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtraError, match=r"coterie\[mechanisms\]"):
        w1_transport(gaussians(2, 3, 0), np.array([[0, 1]]), 4, generator())


# Nearest users


def brute_force(posterior: Posterior, k: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.concatenate([posterior.mu.numpy(), deviations(posterior).numpy()], 1).astype(float)
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)


@pytest.mark.parametrize(("n", "dims"), [(70, 3), (150, 40)])
@pytest.mark.parametrize("k", [1, 7, 69])
@pytest.mark.parametrize("block", [1, 16, 1000])
def test_nearest_users_are_those_of_brute_force(
    n: int, dims: int, k: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COLUMNS_AT_ONCE", 32)
    posterior = gaussians(n, dims, seed=n)
    found = nearest_users(posterior, k, block=block)
    order, distances = brute_force(posterior, k)
    assert found.indices.dtype == torch.int64
    np.testing.assert_array_equal(found.indices.numpy(), order)
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-12)


@pytest.mark.parametrize("dims", [2, 40])
def test_ties_go_to_the_lower_index_even_among_many(
    dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COLUMNS_AT_ONCE", 32)
    few = gaussians(3, dims, seed=0)
    posterior = module.pick(few, np.arange(120) % 3)  # 40 equal users each: more than spare ones
    found = nearest_users(posterior, 5, block=50)
    for user in range(120):
        equal = [other for other in range(user % 3, 120, 3) if other != user]
        assert found.indices[user].tolist() == equal[:5]
    assert not found.distances.any()


def test_a_common_offset_does_not_hide_small_differences() -> None:
    """In float32, products of points near 1000 would round the distances away."""
    posterior = gaussians(300, 40, seed=1)
    shifted = Posterior((posterior.mu * 2**-7 + 1000), posterior.logvar - 12)
    found = nearest_users(shifted, 6)
    np.testing.assert_array_equal(found.indices.numpy(), brute_force(shifted, 6)[0])


class _Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return out


def test_no_tensor_is_larger_than_the_points_or_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLUMNS_AT_ONCE", 2048)
    n, dims, block = 3000, 4, 16
    with _Largest() as largest:
        found = nearest_users(gaussians(n, dims, seed=2), 3, block=block)
    assert found.indices.shape == (n, 3)
    assert largest.numel <= max(block * 2048, n * 2 * dims)
    assert largest.numel < n * n / 250


def test_what_nearest_users_refuses() -> None:
    posterior = gaussians(5, 2, 0)
    for k in (0, 5):
        with pytest.raises(ConfigError, match=r"k must be 1 … 4 for 5 users"):
            nearest_users(posterior, k)
    with pytest.raises(ConfigError, match="block"):
        nearest_users(posterior, 2, block=0)
    posterior.mu[3, 1] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        nearest_users(posterior, 2)


# Statistics over pairs


def test_shared_items_are_those_of_the_dense_matrix() -> None:
    histories = random_histories(40, 25, seed=3)
    pairs = np.stack(np.triu_indices(40, 1), 1)
    x = dense_of(histories, 25).numpy()
    expected = (x[pairs[:, 0]] * x[pairs[:, 1]]).sum(1)
    pairs = np.concatenate([pairs, pairs])  # more than one chunk
    found = shared_items(interactions_of(histories, 25), pairs)
    np.testing.assert_array_equal(found, np.tile(expected, 2))


def test_the_error_of_a_mean_allows_for_common_users() -> None:
    """Values made of the two users' own effects: the truth by drawing users anew."""
    rng, n = np.random.default_rng(0), 30
    pairs = np.stack(np.triu_indices(n, 1), 1)
    means, errors = [], []
    for _ in range(400):
        effects = rng.normal(size=n)
        drawn = effects[pairs].sum(1) + rng.normal(size=len(pairs))
        means.append(drawn.mean())
        errors.append(mean_error(drawn, pairs))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.12)
    naive = drawn.std() / len(pairs) ** 0.5
    assert np.mean(errors) > 3 * naive, "or the test could not tell"
    apart = np.arange(2000).reshape(-1, 2)
    drawn = rng.normal(size=1000)
    assert mean_error(drawn, apart) == pytest.approx(drawn.std() / 1000**0.5)


def test_rank_correlation_is_spearmans_with_ties() -> None:
    rng, pairs = np.random.default_rng(1), np.arange(400).reshape(-1, 2)
    x = rng.integers(0, 15, 200)
    y = x + rng.normal(size=200) * 6
    found = rank_correlation(x, y, pairs)
    assert found.estimate == pytest.approx(spearmanr(x, y).statistic)
    assert found.low < found.estimate < found.high
    perfect = rank_correlation(x, x, pairs)
    assert (perfect.low, perfect.high) == (perfect.estimate, perfect.estimate)
    assert perfect.estimate == pytest.approx(1)
    assert np.isnan(rank_correlation(np.ones(200), y, pairs).estimate)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_the_interval_covers_the_truth_as_often_as_it_says(slope: float) -> None:
    rng, n = np.random.default_rng(2), 150
    pairs = np.arange(2 * n).reshape(-1, 2)
    rho = slope / (1 + slope**2) ** 0.5
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's correlation of a bivariate normal
    covered, found = [], []
    for _ in range(400):
        x = rng.normal(size=n)
        one = rank_correlation(x, slope * x + rng.normal(size=n), pairs)
        covered.append(one.low <= truth <= one.high)
        found.append(one)
    assert 0.91 <= np.mean(covered) <= 0.98
    width = np.mean([one.high - one.low for one in found])
    assert width == pytest.approx(2 * 1.96 * np.std([one.estimate for one in found]), rel=0.12)


# The measure


def test_the_measure_on_a_trained_model() -> None:
    found, train = measured(), small_split().train
    frame = found.to_frame()
    assert set(frame["kind"]) == {"random", "nearest"}
    x = train.to_scipy()
    for row in frame.sample(20, seed=0).iter_rows(named=True):
        a, b = (x[[row[name]]].toarray().ravel() for name in ("user", "other"))
        assert row["l1"] == cityblock(a, b)
        assert row["shared"] == (a * b).sum()
        assert row["ratio"] == pytest.approx(row["w1_lower"] / row["l1"])
    assert (frame["w1_lower"] <= frame["w2"] * (1 + 1e-6)).all()
    assert (frame["user"] < frame["other"]).all()
    transported = frame.drop_nulls("w1_transport")
    assert len(transported) == module.MOST_TRANSPORTS
    assert (transported["w1_transport"] >= transported["w1_lower"] * (1 - 1e-5)).all()
    assert transported["w1_transport"].mean() <= 1.02 * transported["w2"].mean()
    assert found.warnings() == []


def test_nearest_pairs_are_nearest_and_figures_are_the_frames() -> None:
    found = measured()
    at, frame = found.figures(), found.to_frame()
    assert at["w2_nearest"] < 0.7 * at["w2_random"]
    random = frame.filter(pl.col("kind") == "random")
    assert at["rank_correlation"] == pytest.approx(spearmanr(random["l1"], random["w2"]).statistic)
    assert at["rank_correlation_low"] < at["rank_correlation"] < at["rank_correlation_high"]
    assert at["ratio_max"] == frame["ratio"].max()
    assert at["ratio_median"] <= at["ratio_95"] <= at["ratio_max"]
    assert 0.8 < at["w1_lower_share_random"] <= 1
    for number in (at["w2_random"], at["rank_correlation"]):
        assert f"{number:.2f}" in found.sentence()


def test_same_seed_same_result_another_seed_another() -> None:
    again = wasserstein(trained(), small_split().train, generator=generator())
    assert again.to_frame().equals(measured().to_frame())
    budget = Budget(seconds=1e-3)
    small, other = (
        wasserstein(trained(), small_split().train, generator=generator(s), budget=budget)
        for s in (0, 1)
    )
    assert not small.to_frame().equals(other.to_frame())
    assert small.sample.used < measured().sample.used


def test_a_small_sample_is_announced() -> None:
    few = wasserstein(
        trained(), small_split().train, generator=generator(), budget=Budget(seconds=1e-4)
    )
    assert few.n_users < 340
    assert f"among {few.n_users} of 340 users" in few.warnings()[0]
    assert few.sample.used < few.sample.available == 340 * 339 // 2


def test_point_posteriors_have_distances_too() -> None:
    found = wasserstein(trained("multi-dae"), small_split().train, generator=generator())
    frame = found.to_frame()
    np.testing.assert_array_equal(frame["w1_lower"], frame["w2"])
    transported = frame.drop_nulls("w1_transport")
    np.testing.assert_allclose(transported["w1_transport"], transported["w2"], rtol=1e-5)


def test_equal_histories_have_no_ratio() -> None:
    train = small_split().train
    doubled = interactions_of([train.row(user // 2).tolist() for user in range(10)], train.n_items)
    found = wasserstein(trained(), doubled, generator=generator())
    equal = found.to_frame().filter(pl.col("l1") == 0)
    assert len(equal) == 10, "five among the random pairs, which are all, and five nearest"
    assert equal["ratio"].null_count() == 10
    assert equal["w2"].max() == 0
    assert any("equal histories" in warning for warning in found.warnings())


def test_too_few_users() -> None:
    with pytest.raises(DataError, match="at least 4 users"):
        wasserstein(trained(), small_split().train.rows(np.arange(3)), generator=generator())


def test_the_plot_has_labels_with_units() -> None:
    (axes,) = measured().plot().axes
    assert "latent units" in axes.get_ylabel()
    assert "L1" in axes.get_xlabel()
    assert len(axes.lines) == 2
