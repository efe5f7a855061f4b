from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dense_networks
from coterie.errors import ConfigError
from coterie.models.tables import TableGradients
from coterie.models.vae import VAE, ModelConfig
from coterie.objectives import multinomial
from coterie.objectives.alignment import alignment, alignment_sampled, centroids
from coterie.objectives.elbo import LossTerms, Objective, ObjectiveConfig, Part
from coterie.objectives.multinomial import OutputWorkspace
from histories import batch_of, dense_of, random_histories

N_ITEMS, K, STEP, STEPS_PER_EPOCH = 71, 5, 7, 10
HISTORIES = random_histories(18, N_ITEMS, seed=0, longest=30)[1:]
BATCH = batch_of(HISTORIES, N_ITEMS)
BETA = {"kind": "linear", "end": 0.4, "epochs": 2}

OBJECTIVES: dict[str, dict[str, Any]] = {
    "multi-vae": {},
    "clean input": {"keep_probability": 1},
    "pia": {"alignment": {"end": 2.0}},
    "pia, scheduled": {
        "alignment": {"kind": "geometric", "start": 0.1, "end": 5, "epochs": 1},
        "keep_probability": 0.7,
    },
    "pia, mean only": {"alignment": {"end": 2.0}, "shrink_variance": False},
    "pia, variance only": {"alignment": {"end": 2.0}, "align_mean": False},
    "gamma": {"gamma": 0.03},
    "gamma, pia": {"gamma": 0.03, "alignment": {"end": 2.0}},
}
MODELS: dict[str, dict[str, Any]] = {
    "one layer": {"hidden_dims": [12], "latent_dim": K},
    "no layers": {"hidden_dims": [], "latent_dim": K},
    "two layers": {"hidden_dims": [12, 8], "latent_dim": K},
    "denoising": {"name": "multi-dae", "hidden_dims": [12], "latent_dim": K},
    "recvae": {"name": "recvae", "hidden_dims": [12] * 3, "latent_dim": K},
    "recvae, vamp": {
        "name": "recvae",
        "hidden_dims": [12] * 3,
        "latent_dim": K,
        "prior": {"kind": "vamp", "n_pseudo_inputs": 7},
    },
    "composite": {"hidden_dims": [12], "latent_dim": K, "prior": {"kind": "composite"}},
    "vamp": {
        "hidden_dims": [],
        "latent_dim": K,
        "prior": {"kind": "vamp", "n_pseudo_inputs": 7},
    },
    "hierarchical": {
        "name": "h-vamp-gated",
        "hidden_dims": [9, 7],
        "latent_dim": 2 * K,
        "prior": {"n_pseudo_inputs": 7},
    },
}


def build(objective: str, model: str) -> tuple[Objective, VAE]:
    network = VAE(ModelConfig.read(MODELS[model]), N_ITEMS).initialized(1)
    if model != "hierarchical":  # livelier than at the start of training
        for parameter in network.parameters():
            parameter.data *= 2
    changed = OBJECTIVES[objective]
    weight = {} if "gamma" in changed else {"beta": BETA}
    config = ObjectiveConfig.read({**weight, **changed})
    return Objective(config, network).initialized(1), network


def terms_of(objective: Objective, model: VAE, **memory: Any) -> LossTerms:
    terms: LossTerms = objective(
        model,
        BATCH,
        step=STEP,
        steps_per_epoch=STEPS_PER_EPOCH,
        generator=torch.Generator().manual_seed(11),
        **memory,
    )
    return terms


def dense_total(objective: Objective, model: VAE) -> tuple[Tensor, Tensor, Tensor]:
    """Likelihood, divergences [B] and PIA as the papers write them, with the same draws."""
    config, generator = objective.config, torch.Generator().manual_seed(11)
    x = dense_of(HISTORIES, N_ITEMS)
    keep = torch.ones_like(x)
    if config.keep_probability < 1:
        keep[x > 0] = (
            torch.rand(int(x.sum()), generator=generator) < config.keep_probability
        ) * 1.0
    clean = F.normalize(x)
    mu, logvar, z = dense_networks.encode(model, clean * keep / config.keep_probability, generator)
    kl = dense_networks.kl(model, mu, logvar, z, clean)
    nll = -(x * torch.log_softmax(dense_networks.decode(model, z), 1)).sum(1)
    pia = torch.zeros(len(x))
    if config.aligned:
        if config.align_mean:
            assert objective.anchors is not None
            distances = (mu[:, None] - objective.anchors.table).square().sum(2)
            pia = pia + (x * distances).sum(1) / x.sum(1)
        if config.shrink_variance and logvar is not None:
            pia = pia + logvar.exp().sum(1)
    return nll.mean(), kl, pia.mean()


def gradients(total: Tensor, objective: Objective, model: VAE) -> dict[str, Tensor]:
    for parameter in (*model.parameters(), *objective.parameters()):
        parameter.grad = None
    total.backward()
    named = [*model.named_parameters(), *objective.named_parameters()]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def fast(
    objective: Objective, model: VAE, dtype: torch.dtype
) -> tuple[LossTerms, dict[str, Tensor]]:
    """A step as training makes it, twice: the second reuses the memory of the first."""
    named = dict([*model.named_parameters(), *objective.named_parameters()])
    recorded = TableGradients([*model.tables, *objective.tables])
    workspace = OutputWorkspace(dtype)
    for _ in range(2):
        for parameter in named.values():
            parameter.grad = None
        recorded.start()
        terms = terms_of(objective, model, workspace=workspace, gradients=recorded)
        terms.total.backward()
    for table in recorded.tables:
        table.grad = torch.cat([rows for _, _, rows in recorded.chunks(table)])
    return terms, {name: p.grad for name, p in named.items() if p.grad is not None}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_path_is_the_dense_formula(objective: str, model: str) -> None:
    loss, network = build(objective, model)
    nll, kl, pia = dense_total(loss, network)
    lambda_a = loss.config.alignment.value(STEP, STEPS_PER_EPOCH)
    n = torch.tensor([float(len(history)) for history in HISTORIES])
    weighted = (0.14 * kl if loss.config.beta else loss.config.gamma * n * kl).mean()
    expected = gradients(nll + weighted + lambda_a * pia, loss, network)
    plain = terms_of(loss, network)
    fused, fused_gradients = fast(*build(objective, model), torch.float32)
    for terms in (plain, fused):
        assert terms.lambda_a == lambda_a
        found = torch.cat([terms.stacked(), terms.weighted_kl.detach()[None]])
        wanted = torch.stack([nll, kl.mean(), pia, weighted]).detach()
        torch.testing.assert_close(found, wanted, rtol=5e-5, atol=2e-5)
    plain_gradients = gradients(plain.total, loss, network)
    assert plain_gradients.keys() <= fused_gradients.keys()
    for name, value in fused_gradients.items():
        wanted = expected.get(name, torch.zeros_like(value))
        other = plain_gradients.get(name, torch.zeros_like(value))
        near = {"rtol": 1e-3, "atol": 2e-6 * max(1, wanted.abs().max().item())}
        torch.testing.assert_close(value, wanted, **near, msg=f"fused {name}")
        torch.testing.assert_close(other, wanted, **near, msg=f"plain {name}")


@pytest.mark.parametrize("model", MODELS)
def test_bf16_is_near(model: str) -> None:
    terms, found = fast(*build("pia", model), torch.bfloat16)
    exact, expected = fast(*build("pia", model), torch.float32)
    torch.testing.assert_close(terms.stacked(), exact.stacked(), rtol=1e-2, atol=1e-2)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        error = (found[name] - value).norm() / value.norm()
        assert error < 0.05, name


def part_of_a_step(model: str, part: Part, **memory: Any) -> tuple[LossTerms, dict[str, Tensor]]:
    """Terms and gradients of one part alone, as training switches the others off."""
    loss, network = build("gamma, pia", model)
    network.decoder.requires_grad_(part != "encoder")
    terms = terms_of(loss, network, part=part, **memory)
    return terms, gradients(terms.total, loss, network)


@pytest.mark.parametrize("model", ["recvae", "hierarchical"])
def test_the_decoders_part_is_the_likelihood_at_clean_input(model: str) -> None:
    _, network = build("gamma, pia", model)
    x = dense_of(HISTORIES, N_ITEMS)
    generator = torch.Generator().manual_seed(11)
    z = dense_networks.encode(network, F.normalize(x), generator)[2].detach()
    logits = dense_networks.decode(network, z)
    nll = -(x * torch.log_softmax(logits, 1)).sum(1).mean()
    named = dict(network.decoder.named_parameters())
    expected = torch.autograd.grad(nll, list(named.values()))
    for memory in ({}, {"workspace": OutputWorkspace()}):
        terms, found = part_of_a_step(model, "decoder", **memory)
        torch.testing.assert_close(terms.stacked(), torch.tensor([nll.item(), 0, 0]))
        torch.testing.assert_close(terms.total, terms.nll)
        assert found.keys() == {f"decoder.{name}" for name in named}
        for name, value in zip(named, expected, strict=True):
            torch.testing.assert_close(found[f"decoder.{name}"], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", ["recvae", "hierarchical"])
def test_the_encoders_part_never_computes_the_decoders_gradient(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fast(*build("gamma, pia", model), torch.float32)[1]
    asked = []
    monkeypatch.setattr(multinomial, "_OutputTableGradient", lambda *_: asked.append("table"))
    _, found = part_of_a_step(model, "encoder", workspace=OutputWorkspace())
    assert not asked
    assert found.keys() == {name for name in whole if not name.startswith("decoder.")}
    for name, value in found.items():
        near = {"rtol": 1e-3, "atol": 2e-6 * max(1, value.abs().max().item())}
        torch.testing.assert_close(value, whole[name], **near, msg=name)


def test_the_closed_form_of_pia_is_its_expectation_over_a_hierarchical_code() -> None:
    """z1 depends on the drawn z2; given it, mean and variance are the code's own."""
    loss, network = build("pia", "hierarchical")
    assert loss.anchors is not None
    table, generator = loss.anchors.table.detach(), torch.Generator().manual_seed(0)
    closed, sampled = [], []
    with torch.no_grad():
        for _ in range(3000):
            posterior = network.encoder(BATCH, generator=generator)
            closed.append(alignment(posterior, *centroids(table, BATCH)))
            z = posterior.sample(generator)
            sampled.append(alignment_sampled(z, table, BATCH))
    difference = (torch.stack(sampled) - torch.stack(closed)).double()
    error = difference.std(0) / len(difference) ** 0.5
    assert (difference.mean(0) / error).abs().max() < 4, "in standard errors"
    assert (error < 0.02 * torch.stack(closed).mean(0)).all(), "or the test could not fail"
    assert torch.stack(closed).std(0).min() > 0, "it depends on the drawn z2"


@pytest.mark.parametrize("weights", [{"beta": BETA, "gamma": 0.1}, {"beta": None}])
def test_the_divergence_has_one_weight(weights: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="one weight, beta or gamma"):
        ObjectiveConfig.read(weights)


def test_gamma_takes_the_place_of_beta() -> None:
    config = ObjectiveConfig.read({"gamma": 0.1})
    assert config.beta is None
    assert ObjectiveConfig.read(config.model_dump(mode="json")) == config
    assert config.weights(3, 10) == {"gamma": 0.1, "lambda_a": 0.0}
    assert ObjectiveConfig.read({"beta": BETA}).weights(7, 10)["beta"] == pytest.approx(0.14)


def test_the_generator_decides_mask_and_noise() -> None:
    loss, network = build("pia", "one layer")
    before = torch.random.get_rng_state()
    assert torch.equal(terms_of(loss, network).stacked(), terms_of(loss, network).stacked())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_pia_there_are_no_anchors() -> None:
    loss, _ = build("multi-vae", "one layer")
    assert loss.anchors is None
    assert [*loss.parameters()] == loss.tables == []
    assert not ObjectiveConfig().aligned
    assert ObjectiveConfig.read(OBJECTIVES["pia"]).aligned


def test_anchors_are_a_stream_of_their_own() -> None:
    model = VAE(ModelConfig(hidden_dims=(K,), latent_dim=K), 2000).initialized(3)
    config = ObjectiveConfig.read(OBJECTIVES["pia"])
    objective = Objective(config, model).initialized(3)
    assert objective.anchors is not None
    anchors = objective.anchors.table.detach().flatten()
    for name, table in (("encoder", model.encoder.table), ("decoder", model.decoder.table)):
        both = torch.stack([anchors, table.detach().flatten()])
        assert abs(torch.corrcoef(both)[0, 1].item()) < 4 / len(anchors) ** 0.5, name
    for seed, same in ((3, True), (4, False)):
        again = Objective(config, model).initialized(seed)
        assert again.anchors is not None
        assert torch.equal(again.anchors.table.flatten(), anchors) == same


def test_a_history_that_is_masked_away_still_trains() -> None:
    model = VAE(ModelConfig(hidden_dims=(6,), latent_dim=K), N_ITEMS).initialized(0)
    config = ObjectiveConfig.read({"keep_probability": 1e-9, "alignment": {"end": 1.0}})
    objective = Objective(config, model).initialized(0)
    terms = terms_of(objective, model, workspace=OutputWorkspace())
    terms.total.backward()
    assert terms.stacked().isfinite().all()
    assert model.encoder.table.grad is not None
    assert not model.encoder.table.grad.any()


@pytest.mark.parametrize(
    ("schedule", "aligned"),
    [
        ({"kind": "constant", "start": 1, "end": 0}, False),
        ({"kind": "linear", "start": 0, "end": 0, "epochs": 2}, False),
        ({"kind": "linear", "start": 1, "end": 0, "epochs": 2}, True),
        ({"kind": "delayed", "end": 1, "epochs": 2}, True),
        ({"end": 1}, True),
    ],
)
def test_alignment_is_on_if_its_weight_is_ever_above_zero(
    schedule: dict[str, Any], aligned: bool
) -> None:
    config = ObjectiveConfig.read({"alignment": schedule})
    assert config.aligned == aligned
    assert any(config.alignment.value(step, 4) > 0 for step in range(99)) == aligned


def test_alignment_without_either_effect_is_refused() -> None:
    neither = {"align_mean": False, "shrink_variance": False}
    assert not ObjectiveConfig.read(neither).aligned
    with pytest.raises(ConfigError, match="both off"):
        ObjectiveConfig.read({"alignment": {"end": 1}, **neither})
