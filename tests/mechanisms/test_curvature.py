"""Curvatures against full Hessians by autograd."""

import pytest
import torch
from torch import Tensor

from coterie.mechanisms.curvature import mean_curvature
from coterie.models.vae import VAE, ModelConfig
from coterie.objectives.multinomial import multinomial_nll
from histories import batch_of, random_histories

N_ITEMS, K = 40, 3
HISTORIES = random_histories(60, N_ITEMS, seed=0, longest=12)
SOME = [history for history in HISTORIES if history]


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed))


def hessians(model: VAE, histories: list[list[int]], z: Tensor) -> Tensor:
    """Of the negative log-likelihood in z, by plain autograd, ``[B, K, K]``."""

    def loss(code: Tensor, history: list[int]) -> Tensor:
        return multinomial_nll(model.decoder(code[None]), batch_of([history], N_ITEMS)).sum()

    return torch.stack(
        [
            torch.autograd.functional.hessian(lambda c, h=history: loss(c, h), code)  # type: ignore[no-untyped-call]
            for code, history in zip(z, histories, strict=True)
        ]
    )


@pytest.mark.parametrize("hidden_dims", [(), (5,), (6, 5)])
def test_curvature_is_that_of_the_full_hessian(hidden_dims: tuple[int, ...]) -> None:
    model = VAE(ModelConfig(hidden_dims=hidden_dims, latent_dim=K), N_ITEMS).initialized(0)
    model.decoder.table.data.mul_(3)
    histories, z, n_probes = SOME[:6], draw(6, K), 1000
    batch = batch_of(histories, N_ITEMS)
    found = mean_curvature(model, batch, z, generator=gen(), n_probes=n_probes)
    full = hessians(model, histories, z)
    expected = full.diagonal(dim1=1, dim2=2).mean(1)
    off = full - torch.diag_embed(full.diagonal(dim1=1, dim2=2))
    error = (2 * off.square().sum((1, 2)) / n_probes).sqrt() / K  # of Rademacher probes
    assert ((found - expected).abs() < 4.5 * error + 1e-5 * expected.abs()).all()
    assert (error < 0.1 * expected.abs().max()).all(), "or the test could not fail"
    assert not found.requires_grad


def test_curvature_of_one_dimension_is_exact_with_one_probe() -> None:
    model = VAE(ModelConfig(hidden_dims=(5,), latent_dim=1), N_ITEMS).initialized(0)
    z = draw(6, 1)
    found = mean_curvature(model, batch_of(SOME[:6], N_ITEMS), z, generator=gen(), n_probes=1)
    torch.testing.assert_close(found, hessians(model, SOME[:6], z).flatten(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["multi-vae", "recvae", "h-vamp-gated"])
def test_the_prior_adds_its_own_curvature(name: str) -> None:
    """Against the full Hessian of ``ℓ − w log p`` with a weight of each user's own."""
    widths = (5, 5) if name != "multi-vae" else (5,)
    prior = {"prior": {"n_pseudo_inputs": 3}} if name == "h-vamp-gated" else {}
    values = {"name": name, "hidden_dims": widths, "latent_dim": 4, **prior}
    model = VAE(ModelConfig.read(values), N_ITEMS).initialized(0)
    histories, z, n_probes = SOME[:4], draw(4, 4), 1000
    weight = torch.tensor([0.2, 1.0, 3.0, 0.0])
    batch = batch_of(histories, N_ITEMS)
    found = mean_curvature(model, batch, z, generator=gen(), n_probes=n_probes, kl_weight=weight)

    def loss(codes: Tensor) -> Tensor:
        nll = multinomial_nll(model.decoder(codes), batch)
        return (nll - weight * model.log_prior(codes, batch)).sum()

    whole = torch.autograd.functional.hessian(loss, z)  # type: ignore[no-untyped-call]
    full = torch.stack([whole[user, :, user] for user in range(4)])
    expected = full.diagonal(dim1=1, dim2=2).mean(1)
    off = full - torch.diag_embed(full.diagonal(dim1=1, dim2=2))
    error = (2 * off.square().sum((1, 2)) / n_probes).sqrt() / 4
    assert ((found - expected).abs() < 4.5 * error + 1e-4 * expected.abs()).all()
    plain = mean_curvature(model, batch, z, generator=gen(), n_probes=n_probes)
    assert ((found - plain).abs()[:3] > 4 * error[:3]).all(), "or the test could not fail"
    if name == "multi-vae":
        torch.testing.assert_close(found, plain + weight, rtol=1e-4, atol=1e-4)
