"""The factorised gradients against plain autograd in float64 on a tiny decoder."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.data.batches import user_batch
from coterie.errors import ConfigError
from coterie.mechanisms import gradients as module
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.gradients import DecoderGradients, common_noise_codes
from coterie.models.vae import VAE, ModelConfig
from coterie.objectives.multinomial import multinomial_nll
from histories import dense_of, interactions_of, random_histories

N_ITEMS, N_USERS, S = 17, 7, 3
HISTORIES = random_histories(N_USERS + 1, N_ITEMS, seed=3, longest=9)[1:]
DATA = interactions_of(HISTORIES, N_ITEMS)
PAIRS = np.array([(u, v) for u in range(N_USERS) for v in range(N_USERS)])
DEPTHS = [(), (6,), (4, 6)]
GATED = {"name": "h-vamp-gated", "hidden_dims": (4, 6), "latent_dim": 6}
GATED["prior"] = {"n_pseudo_inputs": 5}
KINDS = [*({"hidden_dims": hidden, "latent_dim": 5} for hidden in DEPTHS), GATED]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["no layer", "tanh", "two tanh", "two gated"])


def model_of(hidden: tuple[int, ...]) -> VAE:
    return network({"hidden_dims": hidden, "latent_dim": 5})


def network(kind: dict[str, Any]) -> VAE:
    """A small network with weights far from the flat start."""
    config = ModelConfig.read(kind)
    model = VAE(config, N_ITEMS).initialized(1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.4 * torch.randn(weight.shape, generator=generator))
    return model


def codes_of(model: VAE, n_draws: int = S) -> Tensor:
    posterior = encode(model, DATA, np.arange(N_USERS))
    return common_noise_codes(posterior, n_draws, torch.Generator().manual_seed(0))


def gradients_of(model: VAE) -> DecoderGradients:
    return DecoderGradients(model, DATA.to_scipy(), codes_of(model))


def weights_of(model: VAE) -> list[Tensor]:
    return [w.detach().double().requires_grad_() for w in model.decoder.parameters()]


def oracle_loss(model: VAE, weights: list[Tensor], user: int, codes: Tensor) -> Tensor:
    """Mean over codes ``[S, K]`` of the textbook loss of one user's history."""
    named = dict(zip([n for n, _ in model.decoder.named_parameters()], weights, strict=True))
    hidden = codes

    def linear(name: str) -> Tensor:
        return hidden @ named[f"layers.{name}.weight"].T + named[f"layers.{name}.bias"]

    for at in range(len(model.decoder.layers)):
        if f"layers.{at}.gate.bias" in named:
            hidden = linear(f"{at}.value") / (1 + torch.exp(-linear(f"{at}.gate")))
        else:
            hidden = torch.tanh(linear(str(at)))
    logits = hidden @ named["table"].T + named["bias"]
    x = dense_of(HISTORIES, N_ITEMS)[user].double()
    return -(x * torch.log_softmax(logits, 1)).sum(1).mean()


def oracle_gradient(model: VAE, user: int, codes: Tensor) -> Tensor:
    weights = weights_of(model)
    parts = torch.autograd.grad(oracle_loss(model, weights, user, codes), weights)
    return torch.cat([part.flatten() for part in parts])


@kinds
def test_norms_influence_and_mismatches_are_autograds(kind: dict[str, Any]) -> None:
    model = network(kind)
    codes, found = codes_of(model), gradients_of(model).pairs(PAIRS)
    own = [oracle_gradient(model, u, codes[u]) for u in range(N_USERS)]
    for at, (u, v) in enumerate(PAIRS.tolist()):
        foreign = oracle_gradient(model, u, codes[v])
        expected = {
            "influence": own[u] @ own[v],
            "norm": own[u].norm(),
            "other_norm": own[v].norm(),
            "latent_mismatch": (own[u] - foreign).norm(),
            "content_mismatch": (foreign - own[v]).norm(),
            "code_distance": (codes[u] - codes[v]).norm(dim=1).mean(),
        }
        for name, value in expected.items():
            one = getattr(found, name)[at]
            assert one == pytest.approx(value.item(), rel=1e-5, abs=1e-5), (name, u, v)
    assert found.cosine == pytest.approx(found.influence / (found.norm * found.other_norm))


@kinds
def test_steepest_is_the_largest_over_the_draws(kind: dict[str, Any]) -> None:
    model = network(kind)
    codes, found = codes_of(model), gradients_of(model).pairs(PAIRS)
    for at, (u, v) in enumerate(PAIRS.tolist()):
        slopes = [0.0]
        for s in range(S) if u != v else ():
            one, other = codes[u, s : s + 1], codes[v, s : s + 1]
            difference = oracle_gradient(model, u, one) - oracle_gradient(model, u, other)
            slopes.append((difference.norm() / (one - other).norm()).item())
        assert found.steepest[at] == pytest.approx(max(slopes), rel=1e-5)


@kinds
@pytest.mark.parametrize("learning_rate", [1e-4, 0.02])
def test_changes_are_those_of_a_step_in_float64(kind: dict[str, Any], learning_rate: float) -> None:
    model = network(kind)
    codes, found = codes_of(model), gradients_of(model).changes(PAIRS, learning_rate)
    for at, (u, v) in enumerate(PAIRS.tolist()):
        weights = weights_of(model)
        parts = torch.autograd.grad(oracle_loss(model, weights, v, codes[v]), weights)
        stepped = [w - learning_rate * part for w, part in zip(weights, parts, strict=True)]
        change = oracle_loss(model, stepped, u, codes[u]) - oracle_loss(model, weights, u, codes[u])
        assert found[at] == pytest.approx(change.item(), rel=2e-4, abs=2e-4 * learning_rate)


def test_changes_are_those_of_a_copied_model_after_torchs_sgd() -> None:
    model, learning_rate = model_of((4, 6)), 0.05
    codes, batch = codes_of(model).float(), user_batch(DATA, np.arange(N_USERS))

    def losses(of: VAE) -> Tensor:
        return torch.stack(
            [multinomial_nll(of.decoder(codes[:, s]), batch) for s in range(S)]
        ).mean(0)

    found = gradients_of(model)
    torch.testing.assert_close(found.losses.float(), losses(model).detach())
    changes = found.changes(PAIRS, learning_rate).reshape(N_USERS, N_USERS)
    for v in range(N_USERS):
        stepped = copy.deepcopy(model)
        optimizer = torch.optim.SGD(stepped.decoder.parameters(), lr=learning_rate)
        losses(stepped)[v].backward()
        optimizer.step()
        expected = (losses(stepped) - losses(model)).detach().numpy()
        assert changes[:, v] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_influence_is_the_limit_of_the_realised_change() -> None:
    found = gradients_of(model_of((4, 6)))
    influence = found.pairs(PAIRS).influence
    errors = [np.abs(found.changes(PAIRS, eta) / eta + influence).max() for eta in (1e-3, 1e-4)]
    assert errors[1] < 1e-2 * np.abs(influence).max()
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2), "what is left is of order η"


def test_influences_alone_are_the_same_and_blocks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = gradients_of(model_of((4, 6)))
    whole, change = found.pairs(PAIRS), found.changes(PAIRS, 0.01)
    assert found.influences(PAIRS) == pytest.approx(whole.influence, rel=1e-12)
    grams = found.grams(PAIRS)
    assert grams.shape == (len(PAIRS), S, S)
    assert grams.mean((1, 2)).tolist() == pytest.approx(whole.influence, rel=1e-12)
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * S * N_ITEMS * 5)  # five pairs
    again = gradients_of(model_of((4, 6)))
    for name in vars(whole):
        assert getattr(again.pairs(PAIRS), name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert again.changes(PAIRS, 0.01) == pytest.approx(change, rel=1e-4, abs=1e-8)
    none = np.empty((0, 2), dtype=np.int64)
    assert len(again.pairs(none).influence) == 0
    assert len(again.changes(none, 0.1)) == len(again.influences(none)) == 0


def test_equal_users_have_no_mismatch_to_full_precision() -> None:
    histories = [HISTORIES[0], HISTORIES[0]]
    data, model = interactions_of(histories, N_ITEMS), model_of((6,))
    codes = common_noise_codes(encode(model, data, np.arange(2)), S, torch.Generator())
    found = DecoderGradients(model, data.to_scipy(), codes).pairs(np.array([[0, 1]]))
    assert found.latent_mismatch[0] < 1e-5 * found.norm[0]
    assert found.content_mismatch[0] < 1e-5 * found.norm[0]
    assert found.cosine[0] == pytest.approx(1)
    assert found.steepest[0] == 0


def test_noise_is_common_and_a_point_mass_has_one_code() -> None:
    model = model_of((6,))
    posterior = encode(model, DATA, np.arange(N_USERS))
    assert posterior.logvar is not None
    codes = common_noise_codes(posterior, 4, torch.Generator().manual_seed(5))
    spread = (posterior.logvar.double() / 2).exp()[:, None]
    noise = (codes - posterior.mu.double()[:, None]) / spread
    torch.testing.assert_close(noise, noise[:1].expand_as(noise))
    assert noise[0].std() > 0.5
    again = common_noise_codes(posterior, 4, torch.Generator().manual_seed(5))
    assert torch.equal(codes, again)
    config = ModelConfig(name="multi-dae", hidden_dims=(6,), latent_dim=5)
    point = encode(VAE(config, N_ITEMS).initialized(0), DATA, np.arange(N_USERS))
    assert common_noise_codes(point, 4, torch.Generator()).shape == (N_USERS, 1, 5)
    with pytest.raises(ConfigError, match="n_draws"):
        common_noise_codes(posterior, 0, torch.Generator())


def test_grams_are_inner_products_of_single_codes_gradients() -> None:
    model = network(GATED)
    codes, u, v = codes_of(model), 2, 5
    single = [[oracle_gradient(model, w, codes[w, s : s + 1]) for s in range(S)] for w in (u, v)]
    expected = [[(one @ other).item() for other in single[1]] for one in single[0]]
    found = gradients_of(model).grams(np.array([[u, v]]))[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_a_decoder_of_another_kind_is_refused() -> None:
    model = copy.deepcopy(model_of((6,)))
    model.decoder.hidden = lambda z: torch.relu(model.decoder.layers[0](z.float()))  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="tanh"):
        gradients_of(model)
    model = copy.deepcopy(model_of((6,)))
    model.decoder.layers[0] = torch.nn.Identity()
    with pytest.raises(ConfigError, match="this Identity is of another kind"):
        gradients_of(model)
