"""Divergences against torch.distributions, and estimates against what they estimate."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as torch_kl

import dense_networks
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE, ModelConfig
from coterie.objectives.divergence import kl_divergence, kl_normals, kl_standard_normal
from histories import batch_of, dense_of, random_histories

N_ITEMS, K = 37, 4
HISTORIES = random_histories(6, N_ITEMS, seed=0)[1:]
BATCH, DENSE = batch_of(HISTORIES, N_ITEMS), F.normalize(dense_of(HISTORIES, N_ITEMS))
PRIORS: dict[str, dict[str, Any]] = {
    "composite": {"name": "recvae", "hidden_dims": [8] * 2},
    "vamp": {"hidden_dims": [8], "prior": {"kind": "vamp", "n_pseudo_inputs": 5}},
    "hierarchical": {"name": "h-vamp-gated", "hidden_dims": [8, 7]},
}


def gaussian(seed: int) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    mu, logvar = (torch.randn(6, K, generator=generator) for _ in range(2))
    return Posterior(mu, logvar)


def as_distribution(posterior: Posterior) -> Independent:
    assert posterior.logvar is not None
    return Independent(Normal(posterior.mu, (posterior.logvar / 2).exp()), 1)


def model_of(name: str) -> VAE:
    values = {"latent_dim": K, **PRIORS[name]}
    return VAE(ModelConfig.read(values), N_ITEMS).initialized(1)


def test_kl_is_that_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mu = 3 * torch.randn(50, 7, generator=generator, dtype=torch.float64)
    logvar = 2 * torch.randn(50, 7, generator=generator, dtype=torch.float64)
    posterior = Independent(Normal(mu, (0.5 * logvar).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    found = kl_standard_normal(Posterior(mu, logvar))
    assert found.shape == (50,)
    torch.testing.assert_close(found, torch_kl(posterior, prior), rtol=1e-12, atol=1e-12)


def test_of_two_gaussians() -> None:
    one, other = gaussian(0), gaussian(1)
    expected = torch_kl(as_distribution(one), as_distribution(other))
    torch.testing.assert_close(kl_normals(one, other), expected)
    assert kl_normals(one, one).tolist() == [0] * 6
    standard = Posterior(torch.zeros(6, K), torch.zeros(6, K))
    torch.testing.assert_close(kl_standard_normal(one), kl_normals(one, standard))


def test_of_points() -> None:
    point = Posterior(torch.ones(6, K), None)
    assert kl_standard_normal(point).tolist() == [0] * 6
    model = VAE(ModelConfig(name="multi-dae", hidden_dims=(5,), latent_dim=K), N_ITEMS)
    model.initialized(0)
    posterior = model.encode(BATCH)
    assert kl_divergence(model, posterior, posterior.mu, BATCH).tolist() == [0] * 5


@pytest.mark.parametrize("name", PRIORS)
def test_at_a_drawn_code_it_is_the_dense_formula(name: str) -> None:
    model, generator = model_of(name), torch.Generator().manual_seed(5)
    posterior = model.encoder(BATCH, generator=generator)
    z = posterior.sample(generator)
    expected = dense_networks.kl(model, posterior.mu, posterior.logvar, z, DENSE)
    found = kl_divergence(model, posterior, z, BATCH)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_estimates_have_the_mean_of_the_plain_ratio(name: str) -> None:
    """``E_q [log q(z) − log p(z)]``; closed forms within it change the spread, not the mean."""
    model, generator = model_of(name), torch.Generator().manual_seed(5)
    ours, plain = [], []
    with torch.no_grad():
        for parameter in model.parameters():  # calm enough for variances to be estimated
            parameter.mul_(0.5)
        for _ in range(2000):
            posterior = model.encoder(BATCH, generator=generator)
            z = posterior.sample(generator)
            ours.append(kl_divergence(model, posterior, z, BATCH))
            plain.append(posterior.log_density(z) - model.log_prior(z, BATCH))
    found, expected = torch.stack(ours).double(), torch.stack(plain).double()
    error = ((found.var(0) + expected.var(0)) / len(found)).sqrt()
    assert ((found.mean(0) - expected.mean(0)) / error).abs().max() < 4, "in standard errors"
    assert (found.mean(0) > -4 * error).all(), "a divergence is not negative"
    if name == "hierarchical":
        assert (found.var(0) < expected.var(0)).all(), "the closed form takes variance away"


def test_the_composite_prior_sees_the_clean_history() -> None:
    model = model_of("composite")
    masked = batch_of([history[:1] for history in HISTORIES], N_ITEMS)
    posterior = model.encode(masked)
    z = posterior.mu + 0.1
    at_clean = kl_divergence(model, posterior, z, BATCH)
    expected = as_distribution(posterior).log_prob(z) - dense_networks.log_prior(model, z, DENSE)
    torch.testing.assert_close(at_clean, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(at_clean, kl_divergence(model, posterior, z, masked))
