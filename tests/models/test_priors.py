"""Log-densities of the priors against torch.distributions, numerical integration and limits."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import dense_networks
from coterie.models.priors import CompositePrior, VampPrior, mixture_log_density
from coterie.models.vae import VAE, ModelConfig
from histories import batch_of, dense_of, random_histories

N_ITEMS, K = 43, 6
HISTORIES = random_histories(9, N_ITEMS, seed=0)
BATCH, DENSE = batch_of(HISTORIES, N_ITEMS), F.normalize(dense_of(HISTORIES, N_ITEMS))
MODELS: dict[str, dict[str, Any]] = {
    "standard normal": {"hidden_dims": [8]},
    "composite": {"name": "recvae", "hidden_dims": [8] * 3},
    "composite, other weights": {
        "name": "recvae",
        "hidden_dims": [8] * 2,
        "prior": {"weights": [0.5, 0.25, 0.25], "wide_logvar": 3.0},
    },
    "composite of an mlp": {"hidden_dims": [8, 5], "prior": {"kind": "composite"}},
    "vamp": {"hidden_dims": [8], "prior": {"kind": "vamp", "n_pseudo_inputs": 5}},
    "vamp without hidden layers": {"hidden_dims": [], "prior": {"kind": "vamp"}},
    "vamp of recvae": {"name": "recvae", "hidden_dims": [8] * 2, "prior": {"kind": "vamp"}},
    "hierarchical": {"name": "h-vamp-gated", "hidden_dims": [8, 7]},
}


def model_of(name: str, **changes: Any) -> VAE:
    values = {"latent_dim": K, **MODELS[name], **changes}
    return VAE(ModelConfig.read(values), N_ITEMS).initialized(3)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_log_densities_are_those_of_torch_distributions(name: str, spread: float) -> None:
    model = model_of(name)
    z = (spread * normal(9, K, seed=1)).requires_grad_()
    found, expected = model.log_prior(z, BATCH), dense_networks.log_prior(model, z, DENSE)
    assert found.shape == (9,)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (
        torch.autograd.grad(value.sum(), [z, *parameters], allow_unused=True)
        for value in (found, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            atol = 1e-5 * max(1.0, other.abs().max().item())
            torch.testing.assert_close(one, other, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("name", ["composite", "vamp"])
def test_densities_integrate_to_one(name: str) -> None:
    model = model_of(name, latent_dim=1)
    grid = torch.linspace(-600, 600, 1_200_001)[:, None]
    batch = batch_of([HISTORIES[3]], N_ITEMS)
    with torch.no_grad():
        density = model.log_prior(grid, batch).exp().double()
    assert density.sum().item() * 1e-3 == pytest.approx(1, abs=1e-4)


def test_the_composite_prior_takes_the_mixture_in_each_dimension_by_itself() -> None:
    model, wide = model_of("composite"), model_of("composite", latent_dim=1)
    assert isinstance(model.prior, CompositePrior)
    z = normal(9, K, seed=1)
    whole = model.log_prior(z, BATCH)
    older = model.prior.snapshot(BATCH)
    by_dimension = torch.zeros(9)
    for k in range(K):
        assert isinstance(wide.prior, CompositePrior)
        parts = [(0.15, 0.0, 1.0), (0.75, older.mu[:, k], (older.logvar[:, k] / 2).exp())]
        parts.append((0.1, 0.0, float(np.exp(5))))
        density = sum(w * Normal(mu, std).log_prob(z[:, k]).exp() for w, mu, std in parts)
        by_dimension += density.log()
    torch.testing.assert_close(whole, by_dimension)


def test_the_snapshot_is_another_encoder_until_it_is_refreshed() -> None:
    model = model_of("composite")
    assert isinstance(model.prior, CompositePrior)
    snapshot = model.prior.snapshot
    assert not any(parameter.requires_grad for parameter in snapshot.parameters())
    assert not torch.equal(snapshot.table, model.encoder.table)
    model.refresh_snapshot()
    posterior, older = model.encode(BATCH), snapshot(BATCH)
    assert torch.equal(posterior.mu, older.mu)
    assert posterior.logvar is not None
    assert torch.equal(posterior.logvar, older.logvar)
    with torch.no_grad():
        model.encoder.table.add_(1)
    assert torch.equal(snapshot(BATCH).mu, older.mu), "a copy, not a reference"


def test_refreshing_is_for_the_composite_prior_alone() -> None:
    for name in ("standard normal", "vamp", "hierarchical"):
        model = model_of(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model.refresh_snapshot()
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_real_input_reaches_every_pseudo_input() -> None:
    """Why a VampPrior may be learned as sums: with more items than columns any sum is reached."""
    for name in ("vamp", "hierarchical"):
        model = model_of(name)
        key = "pseudo_inputs" if name == "vamp" else "vamp.pseudo_inputs"
        sums = dense_networks.weights(model.prior, key).detach()
        table = model.encoder.table.detach()[:, : sums.shape[1]]
        inputs = torch.linalg.lstsq(table.T.double(), sums.T.double()).solution.T
        torch.testing.assert_close((inputs @ table.double()).float(), sums, rtol=1e-4, atol=1e-5)
        error = 4 / (2 * sums.numel()) ** 0.5
        assert sums.std().item() == pytest.approx(N_ITEMS**-0.5, rel=error)


def test_a_vamp_prior_at_a_history_is_that_users_posterior() -> None:
    model = model_of("vamp", prior={"kind": "vamp", "n_pseudo_inputs": 9})
    assert isinstance(model.prior, VampPrior)
    with torch.no_grad():
        model.prior.pseudo_inputs.copy_(DENSE @ model.encoder.table)
    posterior, z = model.encode(BATCH), normal(9, K, seed=2)
    assert posterior.logvar is not None
    each = Independent(Normal(posterior.mu, (posterior.logvar / 2).exp()), 1)
    aggregated = torch.stack([each.log_prob(code) for code in z]).exp().mean(1).log()
    torch.testing.assert_close(model.log_prior(z, BATCH), aggregated, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("logvar", [-6.0, 0.0, 3.0])
def test_mixtures_are_accurate_with_many_dimensions(logvar: float) -> None:
    mu, logvars = normal(500, 200, seed=0), logvar + 0.5 * normal(500, 200, seed=1)
    z = mu[:7] + (logvar / 2 * torch.ones(1)).exp() * normal(7, 200, seed=2)
    parts = Independent(Normal(mu.double(), (logvars.double() / 2).exp()), 1)
    exact = MixtureSameFamily(Categorical(torch.ones(500, dtype=torch.float64)), parts)
    found = mixture_log_density(z, mu, logvars)
    size = ((z[:, None].square() + mu.square()) * (-logvars).exp()).sum(2).min(1).values
    error = (found - exact.log_prob(z.double())).abs()
    assert (error < 3e-7 * size + 1e-5 * found.abs()).all()


def test_no_tensor_of_users_times_components_times_dimensions() -> None:
    z, mu = torch.zeros(300, 100, requires_grad=True), torch.zeros(400, 100, requires_grad=True)
    logvar = torch.zeros(400, 100, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, id):
        sizes: list[int] = []
        mixture_log_density(z, mu, logvar).sum()
    assert sizes
    assert max(sizes) <= 300 * 400


def test_a_denoising_autoencoder_has_no_prior() -> None:
    model = VAE(ModelConfig(name="multi-dae", hidden_dims=(4,), latent_dim=2), N_ITEMS)
    assert model.prior is None
    with pytest.raises(TypeError, match="no prior"):
        model.log_prior(torch.zeros(9, 2), BATCH)
