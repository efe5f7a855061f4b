"""Every preset is measured: all measures, beside plain autograd and a second way to the figures."""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.data.batches import user_batch
from coterie.mechanisms.diagnose import MEASURES, Diagnosis, diagnose
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.explanation import explain
from coterie.mechanisms.gradients import DecoderGradients, common_noise_codes
from coterie.mechanisms.information import Information
from coterie.mechanisms.measurement import Budget
from coterie.mechanisms.transfer import Transfer
from coterie.models.vae import VAE
from coterie.objectives.multinomial import multinomial_nll
from coterie.presets import PRESETS, experiment
from coterie.recommender import Recommender
from coterie.training.loop import train
from training.small_run import small_split

SMALL: dict[str, dict[str, Any]] = {
    "multi-vae": {"hidden_dims": (24,)},
    "multi-dae": {},
    "recvae": {"hidden_dims": (24, 24)},
    "h-vamp-gated": {"hidden_dims": (16, 12), "prior": {"n_pseudo_inputs": 7}},
}
OF_POINTS = {"compromise", "information"}  # need a distribution

presets = pytest.mark.parametrize("name", PRESETS)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def trained(name: str) -> Recommender:
    model = {**SMALL[name.removesuffix("+pia")], "latent_dim": 8}
    training = {"epochs": 4, "batch_size": 50, "learning_rate": 5e-3, "patience": None}
    settings = experiment(name, {"model": model, "training": training})
    return train(small_split().train, None, settings).recommender


@cache
def measured(name: str) -> Diagnosis:
    return diagnose(trained(name), small_split().train, budget=Budget(seconds=0.5))


@presets
def test_all_measures_that_make_sense_are_taken(name: str) -> None:
    found = measured(name)
    of_points = OF_POINTS if name.startswith("multi-dae") else set()
    assert set(found.skipped) == of_points
    assert set(found.measurements) == set(MEASURES) - of_points
    json.dumps(found.to_dict())
    for one in found.measurements.values():
        assert len(one.headlines()) >= len(one.headline) > 0
        assert "nan" not in one.sentence()
    pairs = found.measurements["transfer"]
    assert isinstance(pairs, Transfer)
    assert pairs.precision_inside in (None, 1.0)
    assert pairs.precision_certified in (None, 1.0)


@presets
def test_gradients_are_plain_autograds(name: str) -> None:
    model, data = trained(name).vae, small_split().train.rows(np.arange(6))
    posterior = encode(model, data, np.arange(6))
    codes = common_noise_codes(posterior, 3, gen())
    batch = user_batch(data, np.arange(6))

    def gradient(user: int, at: int) -> Tensor:
        loss = 0.0
        for draw in range(codes.shape[1]):
            logits = model.decoder(codes[at, draw : draw + 1].float().repeat(6, 1))
            loss = loss + multinomial_nll(logits, batch)[user] / codes.shape[1]
        parts = torch.autograd.grad(loss, list(model.decoder.parameters()))  # type: ignore[arg-type]
        return torch.cat([part.flatten() for part in parts]).double()

    places = np.array([(u, v) for u in range(6) for v in range(6) if u != v])
    found = DecoderGradients(model, data.to_scipy(), codes).pairs(places)
    for at, (u, v) in enumerate(places.tolist()):
        own, other, foreign = gradient(u, u), gradient(v, v), gradient(u, v)
        size = float(own.norm() * other.norm())
        assert found.influence[at] == pytest.approx(float(own @ other), abs=1e-4 * size)
        assert found.norm[at] == pytest.approx(float(own.norm()), rel=1e-4)
        mismatch = float((own - foreign).norm())
        assert found.latent_mismatch[at] == pytest.approx(mismatch, rel=1e-3, abs=1e-3)
        content = float((foreign - other).norm())
        assert found.content_mismatch[at] == pytest.approx(content, rel=1e-3)


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("multi-dae")])
def test_the_divergence_is_that_from_the_models_own_prior(name: str) -> None:
    """A second way: densities of the model's own modules at other draws, user by user."""
    model, found = trained(name).vae, measured(name).measurements["information"]
    assert isinstance(found, Information)
    data = small_split().train
    assert found.sample.used == data.n_users
    batch, values = user_batch(data, np.arange(data.n_users)), []
    generator = gen(5)
    for _ in range(30):
        posterior = encode(
            model, data, np.arange(data.n_users), keep_probability=0.5, generator=generator
        )
        z = posterior.sample(generator)
        with torch.no_grad():
            values.append(posterior.log_density(z) - model.log_prior(z, batch))
    expected = torch.stack(values).mean(0)
    error = float(expected.std() / len(expected) ** 0.5) + found.prior_kl_se
    assert found.prior_kl == pytest.approx(float(expected.mean()), abs=4 * error)
    assert found.prior_kl_se < 0.2 * found.prior_kl, "or the test could not fail"
    assert found.kl == pytest.approx(found.mutual_information + found.marginal_kl)
    assert found.fixed_prior == (not name.startswith("recvae"))
    assert (found.prior_kl == found.kl) == found.fixed_prior


@presets
def test_a_user_is_explained(name: str) -> None:
    data = small_split().train
    found = explain(trained(name), str(data.user_ids.ids[3]), data, k=3, generator=gen())
    assert found.neighbourhood is not None
    assert not found.skipped
    near = found.neighbourhood
    flagged = near.inside | near.certified
    assert (near.help[flagged] > 0).all()
    json.dumps(found.to_dict(), allow_nan=False)


def test_weights_of_the_kl_term_are_read_from_training() -> None:
    effects = {name: measured(name).measurements["alignment_effect"] for name in PRESETS}
    weights = {name: (of.beta, of.gamma, of.lambda_a) for name, of in effects.items()}  # type: ignore[attr-defined]
    assert weights["recvae"] == (0.0, 0.005, 0.0)
    assert weights["h-vamp-gated+pia"] == (0.3, 0.0, 1.0)
    assert isinstance(trained("recvae").vae, VAE)
