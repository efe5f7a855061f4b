import torch
from torch.distributions import Independent, Normal, kl_divergence

from coterie.models.posterior import Posterior
from coterie.objectives.divergence import kl_standard_normal


def test_kl_is_that_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mu = 3 * torch.randn(50, 7, generator=generator, dtype=torch.float64)
    logvar = 2 * torch.randn(50, 7, generator=generator, dtype=torch.float64)
    posterior = Independent(Normal(mu, (0.5 * logvar).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    found = kl_standard_normal(Posterior(mu, logvar))
    assert found.shape == (50,)
    torch.testing.assert_close(found, kl_divergence(posterior, prior), rtol=1e-12, atol=1e-12)


def test_the_prior_itself_has_no_divergence() -> None:
    prior = Posterior(torch.zeros(3, 5), torch.zeros(3, 5))
    assert kl_standard_normal(prior).tolist() == [0, 0, 0]


def test_a_point_posterior_has_no_divergence_term() -> None:
    assert kl_standard_normal(Posterior(torch.randn(3, 5), None)).tolist() == [0, 0, 0]
