import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.models.encoders import MlpEncoder
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
