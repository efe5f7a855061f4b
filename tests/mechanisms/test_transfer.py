"""Theorem 2.3 on a trained model, on planted twins, and with tampered results."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.measurement import Budget, SampleSize
from coterie.mechanisms.transfer import Transfer, transfer
from coterie.models.vae import VAE, ModelConfig
from histories import interactions_of, random_histories
from training.small_run import experiment, run, small_split

BUDGET = Budget(seconds=0.3)


@cache
def trained() -> VAE:
    return run().recommender.model


def measured(seed: int = 0, **options: object) -> Transfer:
    generator = torch.Generator().manual_seed(seed)
    options = {"budget": BUDGET, **options}
    return transfer(trained(), small_split().train, generator=generator, **options)  # type: ignore[arg-type]


@cache
def of_training_users() -> Transfer:
    return measured()


def twins() -> tuple[VAE, Interactions]:
    """Twelve users in six pairs of near twins: 20 items each, 19 of them in common."""
    histories = random_histories(7, 60, seed=1, longest=20)[1:]
    rng = np.random.default_rng(0)
    histories = [sorted(rng.choice(60, 20, replace=False).tolist()) for _ in histories]
    spare = [min(set(range(60)) - set(history)) for history in histories]
    near = [sorted([*history[1:], item]) for history, item in zip(histories, spare, strict=True)]
    model = VAE(ModelConfig(hidden_dims=(8,), latent_dim=2), 60).initialized(0).eval()
    with torch.no_grad():  # narrow posteriors, and codes that hardly depend on the history
        model.encoder.layers[-1].bias[2:] = -12
        model.encoder.layers[-1].weight.mul_(0.05)
    return model, interactions_of(histories + near, 60)


@cache
def of_twins() -> Transfer:
    model, data = twins()
    return transfer(model, data, generator=torch.Generator().manual_seed(0))


def test_planted_twins_are_inside_and_all_of_them_improve() -> None:
    found = of_twins()
    table = found.to_frame()
    inside = table.filter("inside")
    twin = (inside["user"] - inside["other"]).abs() == 6
    assert twin.sum() >= 6
    assert twin.all(), "strangers share a third of their items"
    assert found.precision_inside == 1.0
    assert found.precision_certified == 1.0
    assert found.figures()["violations_inside"] == 0
    assert not [text for text in found.warnings() if "violation" in text]
    assert "all of them improved" in found.sentence()


def test_all_pairs_of_a_small_sample_are_measured_once() -> None:
    pairs = of_twins().pairs
    random = np.sort(pairs.users[pairs.random], axis=1)
    assert len(np.unique(random, axis=0)) == len(random) == 66
    assert len(np.unique(pairs.users, axis=0)) == len(pairs.users)
    turned = (pairs.users[:66, 0] > pairs.users[:66, 1]).mean()
    assert 0.2 < turned < 0.8
    nearest = pairs.users[~pairs.random]
    assert (np.abs(nearest[:, 0] - nearest[:, 1]) == 6).all(), "a twin is the nearest neighbour"


def test_distances_are_those_of_the_histories_and_posteriors() -> None:
    pairs, data = of_training_users().pairs, small_split().train
    dense = data.to_scipy().toarray()
    u, v = pairs.users.T
    assert (pairs.input_distance == np.abs(dense[u] - dense[v]).sum(1)).all()
    assert (pairs.shared == (dense[u] * dense[v]).sum(1)).all()
    from coterie.mechanisms.encoding import encode

    posterior = encode(trained(), data, np.arange(data.n_users))
    assert posterior.logvar is not None
    mu, sigma = posterior.mu.double().numpy(), (posterior.logvar.double() / 2).exp().numpy()
    lower = np.sqrt(((mu[u] - mu[v]) ** 2).sum(1))
    assert pairs.w1_lower == pytest.approx(lower)
    w2 = np.sqrt(lower**2 + ((sigma[u] - sigma[v]) ** 2).sum(1))
    assert pairs.w1_upper == pytest.approx(w2)
    assert (pairs.w1_lower <= pairs.w1_upper).all()
    assert np.mean(pairs.w1 / pairs.w1_upper) == pytest.approx(1, abs=0.1)


def test_the_theorems_chain_holds_for_every_measured_pair() -> None:
    for found in (of_training_users(), of_twins()):
        pairs, of = found.pairs, found.pairs.gradients
        slack = 1e-6 * of.norm
        assert (of.latent_mismatch <= pairs.lipschitz * pairs.w1 + slack).all()
        bound = of.norm * (of.norm - of.latent_mismatch - of.content_mismatch)
        assert (of.influence >= bound - slack * of.norm).all()
        assert (pairs.certified | ~pairs.inside).all(), "inside implies certified"
        assert (pairs.improved | ~pairs.certified).all()
        radius = np.maximum(of.norm - of.content_mismatch, 0) / pairs.lipschitz
        assert pairs.radius == pytest.approx(radius)


def test_the_default_step_is_of_first_order() -> None:
    for found in (of_training_users(), of_twins()):
        pairs = found.pairs
        assert 0 < pairs.second_order_share < 0.03
        assert pairs.halving == pytest.approx(0.5, abs=0.03)
        first = -pairs.learning_rate * pairs.gradients.influence
        assert np.corrcoef(first, pairs.change)[0, 1] > 0.99
    coarse = measured(learning_rate=100 * of_training_users().pairs.learning_rate)
    assert any("second-order" in text.lower() for text in coarse.warnings())


def test_a_violation_and_an_empty_radius_are_said_plainly() -> None:
    found = of_twins()
    wrong = replace(found, pairs=replace(found.pairs, change=np.abs(found.pairs.change)))
    assert wrong.precision_inside == 0
    assert wrong.figures()["violations_inside"] == found.pairs.inside.sum()
    assert any(text.startswith("violation") for text in wrong.warnings())
    assert "only 0%" in wrong.sentence()
    far = replace(found.pairs.gradients, code_distance=np.full(len(found.pairs.users), 1e9))
    empty = replace(found, pairs=replace(found.pairs, gradients=far))
    assert empty.precision_inside is None
    assert any("No measured pair lies inside" in text for text in empty.warnings())
    assert "No pair of" in empty.sentence()


def test_deciles_partition_the_random_pairs_in_order() -> None:
    found = of_training_users()
    table = found.deciles()
    random = table.filter(pl.col("pairs_of") == "random")
    assert random["decile"].to_list() == list(range(1, 11))
    assert random["n_pairs"].sum() == found.pairs.random.sum()
    assert random["n_pairs"].max() - random["n_pairs"].min() <= 2
    assert random["w1"].is_sorted()
    weights, cosines = random["n_pairs"].to_numpy(), random["cosine"].to_numpy()
    assert np.average(cosines, weights=weights) == pytest.approx(found.figures()["mean_cosine"])
    near = table.filter(pl.col("pairs_of") == "nearest by history")
    assert near["n_pairs"].item() == (~found.pairs.random).sum()


def test_same_seed_same_result_and_another_seed_another() -> None:
    again = measured().to_frame()
    assert again.equals(of_training_users().to_frame())
    assert not measured(seed=1).to_frame().equals(again)


def test_the_budget_bounds_the_sample_and_it_is_announced() -> None:
    small, large = measured(budget=Budget(seconds=0.02)), of_training_users()
    assert small.sample.used < large.sample.used or len(small.pairs.users) < len(large.pairs.users)
    assert large.sample.available == small_split().train.n_users
    assert str(large.sample) in large.sentence()
    assert large.to_dict()["sample"]["unit"] == "users"
    with pytest.raises(DataError, match="memory"):
        measured(budget=Budget(memory=1e4))


def test_a_point_posterior_is_a_point_mass() -> None:
    settings = experiment(model={"name": "multi-dae"}, pia=0.0, epochs=1)
    model, data = run(settings).recommender.model, small_split().train
    found = transfer(model, data, generator=torch.Generator().manual_seed(0), budget=BUDGET)
    assert found.pairs.w1 == pytest.approx(found.pairs.w1_lower)
    assert (found.pairs.w1_lower == found.pairs.w1_upper).all()
    assert (found.pairs.improved | ~found.pairs.certified).all()


def test_bad_input() -> None:
    model, generator = trained(), torch.Generator()
    data = small_split().train
    few = interactions_of([[0], [1], [], [2]], data.n_items)
    with pytest.raises(DataError, match="at least 8 users, got 3"):
        transfer(model, few, generator=generator)
    with pytest.raises(ConfigError, match="items"):
        transfer(model, interactions_of([[0]] * 9, 3), generator=generator)
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="learning_rate"):
            transfer(model, data, generator=generator, learning_rate=rate)
    with pytest.raises(ConfigError, match="n_draws"):
        transfer(model, data, generator=generator, n_draws=0)


def test_plot_has_labels_and_no_window() -> None:
    axes = of_training_users().plot().axes
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in axes)
    assert isinstance(of_training_users().sample, SampleSize)
