import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dense_networks
from coterie.models.encoders import DenselyConnectedEncoder, MlpEncoder
from histories import batch_of, dense_of, random_histories

N_ITEMS = 31
HIDDEN = [(), (8,), (9, 7, 5)]


def encoder_of(hidden: tuple[int, ...], latent: int, *, variational: bool) -> MlpEncoder:
    encoder = MlpEncoder(N_ITEMS, hidden, latent, variational=variational)
    encoder.reset_parameters(torch.Generator().manual_seed(5))
    return encoder


def dense_network(encoder: MlpEncoder, x: Tensor) -> Tensor:
    """Liang et al.'s q-network on dense input: normalise, then linear layers with tanh between."""
    weights = [(encoder.table.T, encoder.bias)]
    weights += [(layer.weight, layer.bias) for layer in encoder.layers]
    h = F.normalize(x)
    for depth, (weight, bias) in enumerate(weights):
        h = F.linear(h, weight, bias)
        if depth < len(weights) - 1:
            h = torch.tanh(h)
    return h


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_variational_encoder_is_the_dense_network(hidden: tuple[int, ...]) -> None:
    histories = random_histories(12, N_ITEMS, seed=0)
    encoder = encoder_of(hidden, 4, variational=True)
    posterior = encoder(batch_of(histories, N_ITEMS))
    expected = dense_network(encoder, dense_of(histories, N_ITEMS))
    assert posterior.mu.shape == posterior.logvar.shape == (12, 4)
    torch.testing.assert_close(posterior.mu, expected[:, :4])
    torch.testing.assert_close(posterior.logvar, expected[:, 4:])


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_denoising_encoder_ends_in_tanh(hidden: tuple[int, ...]) -> None:
    histories = random_histories(12, N_ITEMS, seed=0)
    encoder = encoder_of(hidden, 4, variational=False)
    posterior = encoder(batch_of(histories, N_ITEMS))
    expected = torch.tanh(dense_network(encoder, dense_of(histories, N_ITEMS)))
    assert posterior.logvar is None
    assert posterior.mu.shape == (12, 4)
    torch.testing.assert_close(posterior.mu, expected)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_gradients_are_the_dense_networks(hidden: tuple[int, ...]) -> None:
    histories = random_histories(12, N_ITEMS, seed=1)
    encoder = encoder_of(hidden, 4, variational=True)
    parameters = dict(encoder.named_parameters())
    posterior = encoder(batch_of(histories, N_ITEMS))
    assert posterior.logvar is not None
    found = torch.autograd.grad(
        (posterior.mu.sin() + posterior.logvar.exp()).sum(), list(parameters.values())
    )
    out = dense_network(encoder, dense_of(histories, N_ITEMS))
    loss = (out[:, :4].sin() + out[:, 4:].exp()).sum()
    expected = torch.autograd.grad(loss, list(parameters.values()))
    for name, one, other in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_initial_weights_have_the_spread_of_liang_et_al() -> None:
    encoder = MlpEncoder(2000, (300,), 100, variational=True)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    layer = encoder.layers[0]
    expected = {"table": (2 / 2300) ** 0.5, "weight": (2 / 500) ** 0.5, "bias": 0.001}
    found = {"table": encoder.table, "weight": layer.weight, "bias": encoder.bias}
    for name, std in expected.items():
        values = found[name].detach()
        assert values.std().item() == pytest.approx(std, rel=5 / values.numel() ** 0.5), name
        assert abs(values.mean().item()) < 5 * std / values.numel() ** 0.5, name
    assert layer.bias.std().item() == pytest.approx(0.001, rel=0.2)


def test_building_and_drawing_leave_global_randomness_alone() -> None:
    before = torch.random.get_rng_state()
    encoder_of((9, 7, 5), 4, variational=True)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- RecVAE's


def dense_recvae(encoder: DenselyConnectedEncoder, histories: list[list[int]]) -> Tensor:
    x = F.normalize(dense_of(histories, N_ITEMS))
    return dense_networks.recvae(encoder, x @ encoder.table)


def densely_connected(depth: int, *, variational: bool = True) -> DenselyConnectedEncoder:
    encoder = DenselyConnectedEncoder(N_ITEMS, (8,) * depth, 4, variational=variational)
    encoder.reset_parameters(torch.Generator().manual_seed(5))
    for norm in encoder.norms:  # no longer the identity, as after some training
        torch.nn.init.normal_(norm.weight, 1, 0.3, generator=torch.Generator().manual_seed(6))
        torch.nn.init.normal_(norm.bias, 0, 0.3, generator=torch.Generator().manual_seed(7))
    return encoder


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_densely_connected_encoder_is_recvaes(depth: int) -> None:
    histories = random_histories(12, N_ITEMS, seed=0)
    encoder = densely_connected(depth)
    posterior = encoder(batch_of(histories, N_ITEMS))
    expected = dense_recvae(encoder, histories)
    torch.testing.assert_close(posterior.mu, expected[:, :4])
    torch.testing.assert_close(posterior.logvar, expected[:, 4:])
    point = densely_connected(depth, variational=False)
    code = point(batch_of(histories, N_ITEMS))
    assert code.logvar is None
    torch.testing.assert_close(code.mu, torch.tanh(dense_recvae(point, histories)))


def test_gradients_of_the_densely_connected_encoder_are_the_dense_networks() -> None:
    histories = random_histories(12, N_ITEMS, seed=1)
    encoder = densely_connected(4)
    named = dict(encoder.named_parameters())
    posterior = encoder(batch_of(histories, N_ITEMS))
    out = dense_recvae(encoder, histories)
    found, expected = (
        torch.autograd.grad((mu.sin() + logvar.exp()).sum(), list(named.values()))
        for mu, logvar in ((posterior.mu, posterior.logvar), (out[:, :4], out[:, 4:]))
    )
    for name, one, other in zip(named, found, expected, strict=True):
        assert other.abs().max() > 0, name
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_the_densely_connected_encoder_begins_as_pytorchs_layers() -> None:
    before = torch.random.get_rng_state()
    encoder = DenselyConnectedEncoder(2000, (300, 300), 100, variational=True)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    for values, n_in in ((encoder.table, 2000), (encoder.bias, 2000), (encoder.head.weight, 300)):
        assert values.abs().max() < n_in**-0.5
        assert values.std().item() == pytest.approx((3 * n_in) ** -0.5, rel=0.15)
    assert encoder.norms[1].eps == 0.1
    assert encoder.norms[1].weight.tolist() == [1] * 300
