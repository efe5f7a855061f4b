import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from coterie.data.batches import UserBatch
from coterie.errors import ConfigError, DataError
from coterie.mechanisms import densities as module
from coterie.mechanisms.active_units import mean_variance, tells_users_apart
from coterie.mechanisms.densities import standard_normal
from coterie.mechanisms.information import Information, information
from coterie.mechanisms.measurement import Budget
from coterie.models.config import PriorConfig
from coterie.models.encoders import MlpEncoder
from coterie.models.posterior import Posterior
from coterie.models.priors import CompositePrior
from coterie.models.vae import VAE, ModelConfig
from histories import interactions_of
from training.small_run import run, small_split


class Known(VAE):
    """Posteriors that are known: user u has the one item u, and so the row u of each table."""

    def __init__(self, mu: Tensor, logvar: Tensor | None) -> None:
        name = "multi-dae" if logvar is None else "multi-vae"
        config = ModelConfig(name=name, hidden_dims=(3,), latent_dim=mu.shape[1])
        super().__init__(config, len(mu))
        self.mu, self.logvar = mu, logvar

    def encode(self, batch: UserBatch) -> Posterior:
        mu, logvar = (
            None if table is None else F.embedding_bag(batch.indices, table, batch.indptr[:-1])
            for table in (self.mu, self.logvar)
        )
        assert mu is not None
        return Posterior(mu, logvar)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed))


def measured(
    mu: Tensor, logvar: Tensor, *, prior: torch.nn.Module | None = None, **options: object
) -> Information:
    users = interactions_of([[user] for user in range(len(mu))], len(mu))
    options = {"generator": gen(1), "keep_probability": 1.0, **options}
    model = Known(mu, logvar)
    model.prior = prior or model.prior  # type: ignore[assignment]
    return information(model, users, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("spread", "variance"), [(2.0, 0.5), (0.3, 0.6)])
def test_both_parts_of_a_gaussian_toy_are_their_closed_forms(
    spread: float, variance: float
) -> None:
    """Means from N(0, s²), variance v: q̄ = N(0, s² + v) and I = ½ log(1 + s²/v) per dimension."""
    k, n = 2, 4000
    mu = spread**0.5 * draw(n, k)
    found = measured(mu, torch.full((n, k), math.log(variance)), n_draws=2)
    total = spread + variance
    mutual = k / 2 * math.log(1 + spread / variance)
    marginal = k / 2 * (total - 1 - math.log(total))
    assert found.mutual_information_se < 0.03, "or the test could not fail"
    assert found.mutual_information == pytest.approx(mutual, abs=4 * found.mutual_information_se)
    assert found.marginal_kl == pytest.approx(marginal, abs=4 * found.marginal_kl_se)
    assert found.kl == pytest.approx(mutual + marginal, abs=4 * found.kl_se)
    assert found.kl == pytest.approx(found.mutual_information + found.marginal_kl)
    bound = found.mutual_information_upper
    assert found.mutual_information <= bound < found.mutual_information + 0.05
    assert found.warnings() == []
    assert found.aggregated_variance == pytest.approx(np.full(k, total), rel=0.1)
    assert found.aggregated_mean == pytest.approx(np.zeros(k), abs=0.1)
    assert found.mean_variance == pytest.approx(np.full(k, spread), rel=0.1)


def test_divergences_are_those_of_torch_distributions() -> None:
    mu, logvar = 2 * draw(500, 3), draw(500, 3, seed=2)
    found = measured(mu, logvar, n_draws=20)
    posterior = Normal(mu.double(), (0.5 * logvar.double()).exp())
    each = kl_divergence(posterior, Normal(0.0, 1.0))
    np.testing.assert_allclose(found.kl_per_dimension, each.mean(0).numpy(), rtol=1e-6)
    assert found.kl == pytest.approx(each.sum(1).mean().item(), rel=1e-6)
    # log q − log p has a variance of about (3 + Σ μ²σ²) per draw
    error = (3 + (mu.square() * logvar.exp()).sum(1).mean().item()) ** 0.5 / (500 * 20) ** 0.5
    assert found.kl_sampled == pytest.approx(found.kl, abs=4 * error)
    assert error < 0.02 * found.kl, "or the test could not fail"


def test_the_mixture_density_is_that_of_torch_distributions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Far from the origin, with small variances, over several blocks: cancellation would show."""
    monkeypatch.setattr(module, "CODES_AT_ONCE", 5)
    n = 13
    mu, logvar = 30 + 1e-3 * draw(n, 4), -14 + draw(n, 4, seed=2)
    z = Posterior(mu, logvar).sample(gen(3))
    parts = Independent(Normal(mu.double(), (0.5 * logvar.double()).exp()), 1)
    own = parts.log_prob(z.double())
    found, mixed, others_only = module.log_densities(Posterior(mu, logvar), z)
    torch.testing.assert_close(found, own, rtol=0, atol=1e-5)
    mixture = MixtureSameFamily(Categorical(torch.ones(n).double()), parts)
    torch.testing.assert_close(mixed, mixture.log_prob(z.double()), rtol=0, atol=1e-5)
    prior = Normal(0.0, 1.0).log_prob(z.double()).sum(1)
    torch.testing.assert_close(standard_normal(z.double()), prior)
    for user in range(n):
        others = [other for other in range(n) if other != user]
        densities = torch.stack(
            [
                Normal(mu[o].double(), (0.5 * logvar[o].double()).exp())
                .log_prob(z[user].double())
                .sum()
                for o in others
            ]
        )
        expected = torch.logsumexp(densities, 0) - math.log(n - 1)
        assert others_only[user].item() == pytest.approx(expected.item(), abs=1e-5)
    assert others_only.max() < mixed.max(), "or leaving out oneself made no difference"


class Shifted(torch.nn.Module):
    """``N(1, 1.5²)`` in each dimension, the same for all users."""

    normal = Normal(1.0, 1.5)

    def log_density(self, z: Tensor, encoder: object, batch: UserBatch) -> Tensor:
        return self.normal.log_prob(z).sum(1)


def test_another_prior_is_measured_by_sampling() -> None:
    """Means from N(0, s²): q̄ and both parts are Gaussians, against N(1, 1.5²) too."""
    n, k, spread, variance = 3000, 3, 1.0, np.exp(-1.0)
    mu, logvar = draw(n, k), torch.full((n, k), -1.0)
    found = measured(mu, logvar, n_draws=5, prior=Shifted())
    posterior = Normal(mu.double(), (0.5 * logvar.double()).exp())
    expected = kl_divergence(posterior, Shifted.normal).sum(1).mean().item()
    assert found.kl_se < 0.02 * expected, "or the test could not fail"
    assert found.kl == pytest.approx(expected, abs=4 * found.kl_se)
    aggregated = Normal(0.0, (spread + variance) ** 0.5)
    rest = k * kl_divergence(aggregated, Shifted.normal).item()
    assert found.marginal_kl == pytest.approx(rest, abs=4 * found.marginal_kl_se + 0.02)
    assert found.kl == pytest.approx(found.mutual_information + found.marginal_kl)
    assert (found.prior_kl, found.prior_kl_se) == (found.kl, found.kl_se)
    assert found.kl == found.kl_sampled
    standard = measured(mu, logvar)
    assert abs(standard.kl - expected) > 0.3, "or the test could not fail"
    assert standard.mutual_information == pytest.approx(
        found.mutual_information, abs=4 * standard.mutual_information_se
    )


def test_a_prior_that_follows_the_history_leaves_the_split_to_the_standard_normal() -> None:
    """RecVAE's composite prior, with the posterior itself for its older encoder."""
    mu, logvar = 2 * draw(1500, 2), torch.full((1500, 2), -2.0)
    config = PriorConfig.read({"kind": "composite", "weights": (0.2, 0.7, 0.1), "wide_logvar": 3.0})
    prior = CompositePrior(config, MlpEncoder(1, (2,), 2, variational=True))
    prior.snapshot.forward = Known(mu, logvar).encode  # type: ignore[method-assign]
    found = measured(mu, logvar, prior=prior, n_draws=3)
    standard = measured(mu, logvar, n_draws=3)
    assert not found.fixed_prior
    for name in ("kl", "kl_se", "mutual_information", "marginal_kl"):
        assert getattr(found, name) == getattr(standard, name)
    assert found.kl == pytest.approx(found.mutual_information + found.marginal_kl)
    z, weights = torch.linspace(-14, 14, 8001).double(), torch.tensor([0.2, 0.7, 0.1]).double()
    expected = 0.0
    for mean in mu[:300].double().flatten():  # by quadrature, dimension by dimension
        own = Normal(mean, np.exp(-1.0))
        parts = [Normal(0.0, 1.0), own, Normal(0.0, np.exp(1.5))]
        log_p = torch.logsumexp(torch.stack([p.log_prob(z) for p in parts]).T + weights.log(), 1)
        log_q = own.log_prob(z)
        expected += float(torch.trapezoid(log_q.exp() * (log_q - log_p), z)) / 300
    assert found.prior_kl == pytest.approx(expected, abs=4 * found.prior_kl_se)
    assert found.prior_kl_se < 0.05 * found.kl
    assert found.prior_kl < 0.3 * found.kl
    assert "follows each user's history" in found.sentence()
    assert "divergence from N(0, 1)" in found.sentence()


def test_it_says_when_the_information_is_at_its_limit() -> None:
    n = 300
    found = measured(3 * draw(n, 20), torch.full((n, 20), -6.0))
    assert found.mutual_information == pytest.approx(math.log(n), abs=1e-6)
    assert found.saturated
    assert "log N = 5.704" in found.warnings()[0]
    assert "at least 5.704 of them" in found.sentence()
    assert found.mutual_information_upper == pytest.approx(found.kl), "as I ≤ E KL"


def test_a_collapsed_posterior_is_called_so() -> None:
    found = measured(torch.zeros(50, 6), torch.zeros(50, 6))
    for value in (found.kl, found.mutual_information, found.marginal_kl):
        assert value == pytest.approx(0, abs=1e-6)
    assert found.figures()["active_units"] == 0
    assert "has collapsed" in found.sentence()
    assert not found.saturated
    found.plot()


def test_active_units_are_counted_by_the_variance_of_their_means() -> None:
    scale = torch.tensor([2.0, 0.2, 0.05] + [0.0] * 37) ** 0.5
    mu = scale * draw(4000, 40)
    mu[:, 5] = 7  # far from the prior, but the same for all: it tells nothing
    found = measured(mu, torch.zeros(4000, 40), budget=Budget(0.1))
    assert found.active.tolist() == [True, True, True] + [False] * 37
    assert found.telling.tolist() == found.active.tolist(), "the variance is that of the prior"
    assert "partly collapsed: 3 of 40" in found.sentence()
    assert found.kl_per_dimension.argmax() == 5
    assert found.sample.used < 4000, "the budget is less than all of them"
    assert mean_variance(mu)[5] == 0


def test_a_small_latent_space_has_not_collapsed() -> None:
    """Means and noise both at a hundredth of the scale: the code knows as much as before."""
    mu, logvar = draw(300, 6), torch.full((300, 6), -3.0)
    large, small = measured(mu, logvar), measured(mu / 100, logvar - 2 * math.log(100))
    assert small.mutual_information == pytest.approx(large.mutual_information, abs=1e-3)
    assert large.figures()["active_units"] == large.figures()["telling_units"] == 6
    assert small.figures()["active_units"] == 0
    assert small.figures()["telling_units"] == 6
    assert "has not collapsed" in small.sentence()
    assert "the codes vary little" in small.sentence()
    point = tells_users_apart(Posterior(mu, None))
    assert point.all()


def test_on_a_trained_model_the_same_seed_gives_the_same_result() -> None:
    model, users = run().recommender.model, small_split().train
    first, again, other = (information(model, users, generator=gen(s)) for s in (0, 0, 1))
    assert first.to_dict() == again.to_dict()
    assert first.to_frame().equals(again.to_frame())
    assert first.to_dict() != other.to_dict()
    json.dumps(first.to_dict(), allow_nan=False)
    assert first.to_frame()["kl"].sum() == pytest.approx(first.kl)
    assert first.sample.used == 340
    assert len(first.plot().axes) == 3


def test_bad_input() -> None:
    users = interactions_of([[u] for u in range(20)], 20)
    mu = draw(20, 3)
    with pytest.raises(ConfigError, match="code is a point"):
        information(Known(mu, None), users, generator=gen())
    with pytest.raises(ConfigError, match=r"\(0, 1\]"):
        measured(mu, mu, keep_probability=0.0)
    with pytest.raises(ConfigError, match="n_draws"):
        measured(mu, mu, n_draws=0)
    with pytest.raises(DataError, match="at least 10"):
        measured(mu[:5], mu[:5])
    with pytest.raises(DataError, match="memory budget"):
        measured(mu, mu, budget=Budget(memory=1000.0))
