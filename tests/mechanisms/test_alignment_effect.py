import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.errors import ConfigError, DataError
from coterie.mechanisms import curvature as module
from coterie.mechanisms.alignment_effect import AlignmentEffect, alignment_effect
from coterie.mechanisms.alignment_sweep import plot_by_lambda
from coterie.mechanisms.centroids import fitted_anchors
from coterie.mechanisms.curvature import predicted
from coterie.mechanisms.measurement import Budget
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE, ModelConfig
from coterie.objectives.alignment import alignment, centroids
from histories import batch_of, interactions_of, random_histories
from training.small_run import experiment, run, small_split

N_ITEMS, K = 40, 3
HISTORIES = random_histories(60, N_ITEMS, seed=0, longest=12)
USERS = interactions_of(HISTORIES, N_ITEMS)
SOME = [history for history in HISTORIES if history]


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed))


class Linear(VAE):
    """Codes ``target + shrink · (Σ scale · T_i − target)``, with a known variance under masks."""

    def __init__(self, table: Tensor, *, shrink: float = 1.0, target: float = 0.0) -> None:
        super().__init__(ModelConfig(hidden_dims=(4,), latent_dim=table.shape[1]), len(table))
        self.decoder.reset_parameters(gen(8))
        self.rows, self.shrink, self.target = table, shrink, target

    def encode(self, batch: UserBatch) -> Posterior:
        sums = torch.zeros(batch.n_users, self.rows.shape[1])
        sums.index_add_(0, batch.rows, self.rows[batch.indices])
        mu = self.target + self.shrink * (sums * batch.scale[:, None] - self.target)
        return Posterior(mu, torch.full_like(mu, -2.0))


def measured(model: VAE, **options: object) -> AlignmentEffect:
    options = {"lambda_a": 0.0, "generator": gen(1), **options}
    return alignment_effect(model, USERS, **options)  # type: ignore[arg-type]


def test_beta_adds_to_the_curvature() -> None:
    table = draw(N_ITEMS, K)
    plain, more = (measured(Linear(table), beta=beta) for beta in (0.0, 0.75))
    assert more.curvature == pytest.approx(plain.curvature + 0.75)
    assert more.curvature_se == pytest.approx(plain.curvature_se)
    assert plain.curvature_sample.used == len(SOME)


@pytest.mark.parametrize(("curvature", "weight"), [(1.0, 0.25), (3.0, 1.0), (0.5, 8.0)])
def test_a_quadratic_model_shrinks_as_predicted(curvature: float, weight: float) -> None:
    """Optima under each mask move towards the centroid as minimising the objective moves them."""
    optimum, centroid = 2.0, 5.0
    best = minimize_scalar(
        lambda m: curvature / 2 * (m - optimum) ** 2 + weight * (m - centroid) ** 2
    ).x
    tau, tau2 = predicted([0.0, weight], curvature)
    assert tau.tolist() == pytest.approx([1, (best - centroid) / (optimum - centroid)])
    table, anchors = draw(N_ITEMS, K), torch.full((N_ITEMS, K), centroid)
    plain = measured(Linear(table), anchors=anchors)
    aligned = measured(
        Linear(table, shrink=tau[1], target=centroid), anchors=anchors, lambda_a=weight
    )
    assert plain.distance_learnt is not None
    np.testing.assert_allclose(aligned.distance_learnt, tau[1] * plain.distance_learnt, rtol=1e-4)
    np.testing.assert_allclose(aligned.mask_variance, tau2[1] * plain.mask_variance, rtol=1e-4)
    # fitted anchors move with the codes: relative to the users' spread nothing changed
    assert aligned.figures()["distance"] == pytest.approx(tau[1] * plain.figures()["distance"])
    for key in ("distance_relative", "mask_variance_relative"):
        assert aligned.figures()[key] == pytest.approx(plain.figures()[key], rel=1e-4)


def test_variance_across_masks_and_distance_are_unbiased() -> None:
    """A linear encoder has ``tr Var_b = (1 − ρ)/ρ · (1/n) Σ ‖T_i‖²``, and clean codes as means."""
    table, rho, far = draw(N_ITEMS, K), 0.6, 9.0
    anchors = torch.full((N_ITEMS, K), far)  # so far that no squared distance is cut off at 0
    found = [
        measured(
            Linear(table), keep_probability=rho, anchors=anchors, n_masks=2, generator=gen(seed)
        )
        for seed in range(300)
    ]
    shares = [torch.tensor(history) for history in SOME]
    variance = np.array([(1 - rho) / rho * table[s].square().sum(1).mean() for s in shares])
    means = torch.stack([table[s].sum(0) / len(s) ** 0.5 for s in shares])
    distances = (means - far).square().sum(1).numpy()
    for measures, expected in (
        ([f.mask_variance for f in found], variance),
        ([np.square(f.distance_learnt) for f in found], distances),
    ):
        values = np.stack(measures)
        error = values.std(0) / len(values) ** 0.5
        assert (np.abs(values.mean(0) - expected) < 4.5 * error + 1e-6 * expected).all()
    raw = distances + variance / 2  # what two masks would give without the correction
    assert np.abs(values.mean() - raw.mean()) > 4 * values.mean(1).std() / len(values) ** 0.5


def test_clean_input_does_not_vary_across_masks() -> None:
    model = Linear(draw(N_ITEMS, K))
    found = measured(model, keep_probability=1.0)
    assert found.mask_variance == pytest.approx(np.zeros(len(SOME)), abs=1e-12)
    posterior = model.encode(batch_of(SOME, N_ITEMS))
    centroid = torch.from_numpy(fitted_anchors(interactions_of(SOME, N_ITEMS), posterior.mu))[None]
    expected = [
        (mu.double() - centroid[0, history].mean(0)).norm().item()
        for mu, history in zip(posterior.mu, SOME, strict=True)
    ]
    assert found.distance.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.posterior_variance == pytest.approx(np.full(len(SOME), K * np.exp(-2)))
    around = (posterior.mu - posterior.mu.mean(0)).square().sum() / (len(SOME) - 1)
    assert found.spread == pytest.approx(around.item() ** 0.5)
    plot_by_lambda([found, replace(found, lambda_a=1.0)])


def test_the_parts_add_up_to_the_penalty_of_proposition_3_1() -> None:
    model = Linear(draw(N_ITEMS, K))
    found, batch = measured(model, keep_probability=1.0), batch_of(SOME, N_ITEMS)
    posterior = model.encode(batch)
    anchors = fitted_anchors(interactions_of(SOME, N_ITEMS), posterior.mu)
    expected = alignment(posterior, *centroids(torch.from_numpy(anchors).float(), batch)).mean()
    parts = np.square(found.distance).mean() + found.posterior_variance.mean()
    assert parts + found.anchor_spread == pytest.approx(expected.item(), rel=1e-5)


def test_on_trained_models_the_same_seed_gives_the_same_result() -> None:
    users = small_split().train
    results = []
    for pia in (0.0, 1.0):
        trained = run(experiment(pia=pia)).recommender
        first, again = (
            alignment_effect(
                trained.model, users, lambda_a=pia, anchors=trained.anchors, generator=gen()
            )
            for _ in range(2)
        )
        assert first.to_dict() == again.to_dict()
        assert first.to_frame().equals(again.to_frame())
        json.dumps(first.to_dict(), allow_nan=False)
        assert ("distance_learnt" in first.to_frame().columns) is (pia > 0)
        assert len(first.plot().axes) == 2
        results.append(first)
    plain, aligned = results
    assert aligned.figures()["mask_variance"] < plain.figures()["mask_variance"]
    assert plain.figures()["tau"] == 1
    assert aligned.figures()["tau"] == pytest.approx(aligned.curvature / (aligned.curvature + 2))
    assert "λ_A = 1 is predicted" in aligned.sentence()
    assert "quadratic model" in plain.sentence()
    assert np.isnan(plain.headlines()["predicted_tau"])
    assert aligned.headlines()["predicted_tau"] == aligned.figures()["tau"]
    left, right = aligned.plot().axes
    for axis, figure in ((left, "distance"), (right, "mask_variance")):
        mean = axis.lines[0].get_ydata()[0]
        assert mean == pytest.approx(aligned.figures()[f"{figure}_relative"])
    assert len(plot_by_lambda(results[::-1]).axes) == 2


def test_a_denoising_autoencoder_has_points_and_no_beta() -> None:
    config = ModelConfig(name="multi-dae", hidden_dims=(4,), latent_dim=K)
    model = VAE(config, N_ITEMS).initialized(0)
    one, other = (measured(model, beta=beta) for beta in (0.0, 5.0))
    assert one.curvature == other.curvature
    assert not one.posterior_variance.any()


def test_a_collapsed_model_has_figures_that_are_numbers() -> None:
    found = measured(Linear(torch.zeros(N_ITEMS, K)), beta=0.0)
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.figures()["distance_relative"] == 0
    found.plot()


def test_it_says_when_there_is_no_prediction() -> None:
    found = replace(measured(Linear(draw(N_ITEMS, K)), lambda_a=1.0), curvature=-0.5)
    assert "predicts nothing" in found.warnings()[0]
    assert "tau" not in found.figures()
    assert "predicted" not in found.sentence()
    plot_by_lambda([replace(found, lambda_a=0.0), found])


def test_a_small_budget_takes_fewer_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "USERS_AT_ONCE", 7)
    model = Linear(draw(N_ITEMS, K))
    found = measured(model, budget=Budget(seconds=2.5e-5))
    assert 10 <= found.curvature_sample.used < len(SOME)


def test_bad_input() -> None:
    model = Linear(draw(N_ITEMS, K))
    for wrong in (
        {"keep_probability": 0.0},
        {"n_masks": 1},
        {"lambda_a": -1.0},
        {"beta": -0.1},
        {"gamma": -0.1},
    ):
        with pytest.raises(ConfigError, match="at least 2 masks"):
            measured(model, **wrong)
    with pytest.raises(ConfigError, match=r"\(40, 3\); got \(40, 4\)"):
        measured(model, anchors=torch.zeros(N_ITEMS, 4))
    few, other = interactions_of(SOME[:4], N_ITEMS), interactions_of([[0, 1]] * 20, 39)
    with pytest.raises(DataError, match="at least 10"):
        alignment_effect(model, few, lambda_a=0.0, generator=gen())
    with pytest.raises(ConfigError, match="39 items, the model 40"):
        alignment_effect(model, other, lambda_a=0.0, generator=gen())
    with pytest.raises(ConfigError, match="curvature above 0"):
        predicted([1.0], 0.0)
    with pytest.raises(ConfigError, match="at least 0"):
        predicted([-1.0], 1.0)
    with pytest.raises(ConfigError, match="exactly one result"):
        plot_by_lambda([measured(model, lambda_a=1.0), measured(model, lambda_a=2.0)])
