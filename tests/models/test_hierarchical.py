"""H+Vamp's encoder against the same network on dense matrices."""

import pytest
import torch
import torch.nn.functional as F

import dense_networks
from coterie.models.hierarchical import GaussianHead, HierarchicalEncoder
from coterie.models.vae import VAE, ModelConfig
from histories import batch_of, dense_of, random_histories

N_ITEMS, K = 31, 8
HISTORIES = random_histories(12, N_ITEMS, seed=0)
BATCH, DENSE = batch_of(HISTORIES, N_ITEMS), F.normalize(dense_of(HISTORIES, N_ITEMS))


def model_of(hidden: tuple[int, ...] = (9, 7)) -> VAE:
    values = {
        "name": "h-vamp-gated",
        "hidden_dims": hidden,
        "latent_dim": K,
        "prior": {"n_pseudo_inputs": 6},
    }
    return VAE(ModelConfig.read(values), N_ITEMS).initialized(2)


@pytest.mark.parametrize("hidden", [(9, 9), (9, 7), (5, 6, 7)])
@pytest.mark.parametrize("seed", [None, 4])
def test_it_is_the_dense_network(hidden: tuple[int, ...], seed: int | None) -> None:
    model = model_of(hidden)
    first, second = (None if seed is None else torch.Generator().manual_seed(seed) for _ in "ab")
    posterior = model.encoder(BATCH, generator=first)
    mu, logvar, z = dense_networks.encode(model, DENSE, second)
    torch.testing.assert_close(posterior.mu, mu)
    torch.testing.assert_close(posterior.logvar, logvar)
    if seed is None:
        assert posterior.drawn is None
    else:
        torch.testing.assert_close(posterior.drawn, z[:, K // 2 :])
        torch.testing.assert_close(posterior.sample(first), z)


def test_gradients_are_the_dense_networks() -> None:
    model = model_of()
    named = dict(model.encoder.named_parameters())
    losses = []
    for generator in (torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)):
        if not losses:
            posterior = model.encoder(BATCH, generator=generator)
            mu, logvar, z = posterior.mu, posterior.logvar, posterior.sample(generator)
        else:
            mu, logvar, z = dense_networks.encode(model, DENSE, generator)
        losses.append((mu.sin() + logvar.exp() + z.cos()).sum())
    found, expected = (torch.autograd.grad(loss, list(named.values())) for loss in losses)
    for name, one, other in zip(named, found, expected, strict=True):
        assert other.abs().max() > 0, name
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_inference_takes_the_mean_of_z2_and_is_deterministic() -> None:
    model = model_of()
    posterior = model.encode(BATCH)
    assert posterior.drawn is None
    upper = model.encoder.upper(DENSE @ model.encoder.table[:, :18])
    torch.testing.assert_close(posterior.mu[:, K // 2 :], upper.mu)
    lower = model.encoder.lower(DENSE @ model.encoder.table[:, 18:], upper.mu)
    torch.testing.assert_close(posterior.mu[:, : K // 2], lower.mu)
    torch.testing.assert_close(model(BATCH), dense_networks.decode(model, posterior.mu))
    assert torch.equal(model(BATCH), model(BATCH))


def test_z1_depends_on_the_drawn_z2() -> None:
    encoder = model_of().encoder
    means = [
        encoder(BATCH, generator=torch.Generator().manual_seed(seed)).mu[:, : K // 2]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(means[0], means[1])
    assert not torch.allclose(means[0], means[2], atol=1e-3)


def test_log_variances_are_kept_within_bounds() -> None:
    head = GaussianHead(2, 3)
    torch.nn.init.constant_(head.linear.weight, 0.0)
    values = torch.tensor([1.0, 2.0, 3.0, -50.0, 0.5, 50.0])
    head.linear.bias.data = values
    mu, logvar = head(torch.zeros(1, 2))
    assert mu.tolist() == [[1, 2, 3]]
    assert logvar.tolist() == [[-12, 0.5, 4]]


def test_weights_begin_with_hes_spread_and_leave_global_randomness_alone() -> None:
    before = torch.random.get_rng_state()
    encoder = HierarchicalEncoder(2000, (50, 40), 20)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert encoder.table.shape == (2000, 200)
    assert encoder.table.std().item() == pytest.approx((2 / 2000) ** 0.5, rel=0.02)
    joint = encoder.joint_layers[0].gate.weight
    assert joint.shape == (40, 100)
    assert joint.std().item() == pytest.approx((2 / 100) ** 0.5, rel=0.1)
