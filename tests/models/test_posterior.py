import pytest
import torch
from torch.distributions import Independent, Normal

from coterie.models.posterior import Posterior

N_DRAWS = 200_000


def test_draws_have_the_mean_and_the_variance_they_should() -> None:
    mu = torch.tensor([-1.0, 0.0, 2.5])
    logvar = torch.tensor([-2.0, 0.0, 1.2])
    posterior = Posterior(mu.expand(N_DRAWS, 3), logvar.expand(N_DRAWS, 3))
    z = posterior.sample(torch.Generator().manual_seed(0)).double()
    variance = logvar.double().exp()
    mean_error = (z.mean(0) - mu).abs() / (variance / N_DRAWS).sqrt()
    variance_error = (z.var(0) - variance).abs() / (variance * (2 / N_DRAWS) ** 0.5)
    assert mean_error.max() < 4, "in standard errors"
    assert variance_error.max() < 4, "in standard errors"
    correlation = torch.corrcoef(z.T) - torch.eye(3)
    assert correlation.abs().max() < 4 / N_DRAWS**0.5


def test_gradients_flow_through_the_draw() -> None:
    mu, logvar = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    z = Posterior(mu, logvar).sample(torch.Generator().manual_seed(0))
    z.sum().backward()
    assert mu.grad is not None
    assert logvar.grad is not None
    torch.testing.assert_close(mu.grad, torch.ones(4, 3))
    torch.testing.assert_close(logvar.grad, (0.5 * (z - mu)).detach())  # dz/dlogvar = ε σ / 2


def test_the_same_generator_state_gives_the_same_draw() -> None:
    posterior = Posterior(torch.zeros(5, 4), torch.zeros(5, 4))
    generator = torch.Generator()
    draws = [posterior.sample(generator.manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    before = torch.random.get_rng_state()
    posterior.sample(generator)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_point_posterior_is_its_own_draw_and_takes_no_randomness() -> None:
    mu = torch.randn(3, 2)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert torch.equal(Posterior(mu, None).sample(generator), mu)
    assert torch.equal(generator.get_state(), state)


def test_the_density_is_that_of_torch_distributions() -> None:
    mu, logvar, z = (torch.randn(5, 4) for _ in range(3))
    expected = Independent(Normal(mu, (logvar / 2).exp()), 1).log_prob(z)
    torch.testing.assert_close(Posterior(mu, logvar).log_density(z), expected)
    with pytest.raises(TypeError, match="no density"):
        Posterior(mu, None).log_density(z)


def test_a_drawn_z2_stays_and_z1_is_drawn() -> None:
    mu, logvar = torch.randn(N_DRAWS // 100, 6), torch.zeros(N_DRAWS // 100, 6)
    drawn = torch.randn(len(mu), 3)
    generator = torch.Generator().manual_seed(0)
    one, other = (Posterior(mu, logvar, drawn).sample(generator) for _ in range(2))
    assert torch.equal(one[:, 3:], drawn)
    assert torch.equal(other[:, 3:], drawn)
    noise = (one - mu)[:, :3]
    assert not torch.equal(one[:, :3], other[:, :3])
    assert noise.std().item() == pytest.approx(1, abs=0.05)
