from itertools import pairwise

import pytest
import torch
from torch import Tensor

from coterie.models.posterior import Posterior
from coterie.models.tables import ROWS_PER_CHUNK, TableGradients
from coterie.objectives.alignment import (
    alignment,
    alignment_sampled,
    centroids,
    pull,
    soft_minimum,
    weighted_centroids,
)
from histories import batch_of, dense_of, random_histories

N_ITEMS, K = 29, 4
HISTORIES = random_histories(11, N_ITEMS, seed=0)[1:]  # the definition needs n > 0
BATCH = batch_of(HISTORIES, N_ITEMS)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_definition(z: Tensor, anchors: Tensor, weights: Tensor | None = None) -> Tensor:
    """``Σ_{i∈S} w_i ‖z − e_i‖² / Σ_{i∈S} w_i``, user by user and item by item."""
    weights = torch.ones(len(BATCH.indices), dtype=z.dtype) if weights is None else weights
    entries, found = iter(weights), []
    for user, history in enumerate(HISTORIES):
        own = [(next(entries), (z[user] - anchors[item]).square().sum()) for item in history]
        found.append(sum(w * d for w, d in own) / sum(w for w, _ in own))
    return torch.stack(found)


def dense_alignment(mu: Tensor, logvar: Tensor | None, anchors: Tensor) -> Tensor:
    """The same expectation from a dense matrix: ``E‖z − e‖² = ‖μ − e‖² + tr Σ``."""
    x = dense_of(HISTORIES, N_ITEMS).to(mu.dtype)
    distances = (mu[:, None] - anchors).square().sum(2)
    trace = 0 if logvar is None else logvar.exp().sum(1)
    return (x * distances).sum(1) / x.sum(1) + trace


def closed_form(
    mu: Tensor, logvar: Tensor | None, anchors: Tensor, weights: Tensor | None = None
) -> Tensor:
    if weights is None:
        centroid, mean_square = centroids(anchors, BATCH)
    else:
        centroid, mean_square, _ = weighted_centroids(anchors, BATCH.indices, weights, BATCH)
    return alignment(Posterior(mu, logvar), centroid, mean_square)


def some_weights(dtype: torch.dtype = torch.float32) -> Tensor:
    return draw(len(BATCH.indices), seed=7, dtype=dtype).exp()


@pytest.mark.parametrize("weights", [None, some_weights()])
def test_the_sampled_form_is_the_definition(weights: Tensor | None) -> None:
    z, anchors = draw(10, K, seed=1), draw(N_ITEMS, K, seed=2)
    found = alignment_sampled(z, anchors, BATCH, weights)
    torch.testing.assert_close(found, by_definition(z, anchors, weights))


@pytest.mark.parametrize("weights", [None, some_weights(), 100 * some_weights()])
def test_the_closed_form_is_the_definition_at_a_point(weights: Tensor | None) -> None:
    mu, anchors = draw(10, K, seed=1), draw(N_ITEMS, K, seed=2)
    found = closed_form(mu, None, anchors, weights)
    torch.testing.assert_close(found, by_definition(mu, anchors, weights))


@pytest.mark.parametrize("weights", [None, some_weights()])
def test_the_closed_form_is_the_expectation_of_the_sampled_form(weights: Tensor | None) -> None:
    mu, logvar = draw(10, K, seed=1), draw(10, K, seed=3)
    anchors, n_draws = draw(N_ITEMS, K, seed=2), 4000
    generator, posterior = torch.Generator().manual_seed(4), Posterior(mu, logvar)
    draws = torch.stack(
        [
            alignment_sampled(posterior.sample(generator), anchors, BATCH, weights)
            for _ in range(n_draws)
        ]
    ).double()
    error = draws.std(0) / n_draws**0.5
    deviation = (draws.mean(0) - closed_form(mu, logvar, anchors, weights)) / error
    assert deviation.abs().max() < 4.5, "in standard errors"
    assert error.max() < 0.05 * draws.mean(), "or the test could not fail"


def test_the_closed_form_and_its_gradients_are_the_dense_ones() -> None:
    double = torch.float64
    leaves = [
        draw(*shape, seed=seed, dtype=double).requires_grad_()
        for seed, shape in enumerate([(10, K), (10, K), (N_ITEMS, K)])
    ]
    weights = draw(10, seed=9, dtype=double)
    found, expected = closed_form(*leaves), dense_alignment(*leaves)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad((found * weights).sum(), leaves)
    others = torch.autograd.grad((expected * weights).sum(), leaves)
    for one, other in zip(gradients, others, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_centroids_by_finite_differences_with_an_empty_history() -> None:
    batch = batch_of([[], [0, 2], [1, 2, 4]], 5)
    anchors = draw(5, 3, seed=0, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda table: centroids(table, batch), (anchors,))
    centroid, mean_square = centroids(anchors, batch)
    assert not centroid[0].any()
    assert mean_square[0] == 0


def test_either_output_alone_has_its_gradient() -> None:
    batch, x = batch_of(HISTORIES, N_ITEMS), dense_of(HISTORIES, N_ITEMS)
    shares = x / x.sum(1, keepdim=True)
    for which in (0, 1):
        anchors = draw(N_ITEMS, K, seed=2).requires_grad_()
        dense = (shares @ anchors, shares @ anchors.square().sum(1))[which]
        (expected,) = torch.autograd.grad(dense.sin().sum(), anchors)
        (found,) = torch.autograd.grad(centroids(anchors, batch)[which].sin().sum(), anchors)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("n_items", [ROWS_PER_CHUNK - 1, 2 * ROWS_PER_CHUNK + 3])
def test_recorded_gradients_are_what_autograd_would_give(n_items: int) -> None:
    batches = [
        batch_of(random_histories(7, n_items, seed=seed, longest=50), n_items) for seed in (0, 1)
    ]
    anchors = torch.nn.Parameter(draw(n_items, K, seed=2))

    def loss(which: int, gradients: TableGradients | None) -> Tensor:
        centroid, mean_square = centroids(anchors, batches[which], gradients)
        return centroid.square().sum() + mean_square.sum()

    (expected,) = torch.autograd.grad(loss(0, None) + loss(1, None), anchors)
    gradients = TableGradients([anchors])
    for _ in range(2):
        gradients.start()
        (loss(0, gradients) + loss(1, gradients)).backward()
        assert anchors.grad is None
        found = torch.cat([rows for _, _, rows in gradients.chunks(anchors)])
        torch.testing.assert_close(found, expected)


def test_even_weights_are_no_weights() -> None:
    anchors, ones = draw(N_ITEMS, K, seed=2), torch.full((len(BATCH.indices),), 0.3)
    centroid, mean_square, mass = weighted_centroids(anchors, BATCH.indices, ones, BATCH)
    expected = centroids(anchors, BATCH)
    torch.testing.assert_close((centroid, mean_square), expected)
    torch.testing.assert_close(mass, 0.3 * BATCH.lengths)


def test_weighted_centroids_by_finite_differences_with_an_empty_history() -> None:
    batch = batch_of([[], [0, 2], [1, 2, 4]], 5)
    anchors = draw(5, 3, seed=0, dtype=torch.float64).requires_grad_()
    weights = draw(5, seed=1, dtype=torch.float64).exp().requires_grad_()

    def found(table: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return weighted_centroids(table, batch.indices, w, batch)

    assert torch.autograd.gradcheck(found, (anchors, weights))
    centroid, mean_square, mass = found(anchors, weights)
    assert not centroid[0].any()
    assert (mean_square[0], mass[0]) == (0, 0)


def test_a_weight_of_zero_leaves_an_item_out() -> None:
    anchors, mu = draw(9, K, seed=2), draw(1, K, seed=1)
    whole, part = batch_of([[1, 4, 6]], 9), batch_of([[1, 6]], 9)
    weights = torch.tensor([2.0, 0.0, 2.0])
    centroid, mean_square, _ = weighted_centroids(anchors, whole.indices, weights, whole)
    found = pull(mu, centroid, mean_square)
    torch.testing.assert_close(found, pull(mu, *centroids(anchors, part)))


def test_the_soft_minimum_is_its_formula() -> None:
    pulls, masses = draw(6, 3, seed=1).square() * 3, draw(6, 3, seed=2).exp()
    for user in range(6):
        shares = masses[user] / masses[user].sum()
        terms = sum(
            float(share) * torch.exp(-d.double() / 0.7)
            for share, d in zip(shares, pulls[user], strict=True)
        )
        found = soft_minimum(pulls, masses, 0.7)[user]
        assert found.item() == pytest.approx(-0.7 * terms.log().item(), rel=1e-5)


def test_the_soft_minimum_lies_between_the_nearest_and_the_mean() -> None:
    double = torch.float64
    pulls, masses = draw(50, 4, seed=1, dtype=double).square(), draw(50, 4, seed=2, dtype=double)
    masses = masses.exp()
    nearest = pulls.min(1).values
    mean = (masses / masses.sum(1, keepdim=True) * pulls).sum(1)
    torch.testing.assert_close(soft_minimum(pulls, masses, 1e-6), nearest, atol=1e-4, rtol=0)
    torch.testing.assert_close(soft_minimum(pulls, masses, 1e6), mean, atol=1e-4, rtol=0)
    between = [nearest, *(soft_minimum(pulls, masses, t) for t in (0.1, 1.0, 10.0)), mean]
    for lower, upper in pairwise(between):
        assert (lower < upper).all()
    torch.testing.assert_close(soft_minimum(pulls[:, :1], masses[:, :1], 3.0), pulls[:, 0])


def test_the_soft_minimum_of_expected_pulls_is_above_its_expectation() -> None:
    """It is concave, and taken of the closed forms; at a point posterior the two are equal."""
    mu, sigma, generator = draw(4, K, seed=1), 0.7, torch.Generator().manual_seed(2)
    places, masses = draw(3, K, seed=3), torch.tensor([[0.2, 0.3, 0.5]])
    noise = torch.randn(20_000, 1, K, generator=generator)

    def pulls(z: Tensor) -> Tensor:
        return (z[..., None, :] - places).square().sum(-1)

    drawn = pulls(mu + sigma * noise).flatten(0, 1)
    found = soft_minimum(drawn, masses.expand(len(drawn), 3), 0.9).view(-1, 4)
    closed = soft_minimum(pulls(mu) + K * sigma**2, masses.expand(4, 3), 0.9)
    error = found.std(0) / len(found) ** 0.5
    assert (closed - found.mean(0) > 5 * error).all()


def test_centroids_without_mass_pull_nobody() -> None:
    masses = torch.tensor([[1.0, 0.0]], requires_grad=True)
    pulls = torch.tensor([[200.0, 0.0]], requires_grad=True)
    found = soft_minimum(pulls, masses, 1.0)
    found.sum().backward()
    assert found.item() == pytest.approx(200.0)
    assert pulls.grad is not None
    assert masses.grad is not None
    assert pulls.grad.tolist() == [[1.0, 0.0]]
    assert masses.grad.isfinite().all()
    assert soft_minimum(torch.ones(1, 2), torch.zeros(1, 2), 1.0).isfinite().all()


def test_tastes_that_share_out_the_weights_and_a_high_temperature_are_one_centroid() -> None:
    """``Σ_m π_m d_m`` is the pull towards the single centroid, whatever the tastes are."""
    double = torch.float64
    mu, anchors = draw(10, K, seed=1, dtype=double), draw(N_ITEMS, K, seed=2, dtype=double)
    weights = some_weights(double)
    tastes = torch.softmax(draw(len(weights), 3, seed=5, dtype=double), 1) * weights[:, None]
    parts = [
        weighted_centroids(anchors, BATCH.indices, taste.contiguous(), BATCH)
        for taste in tastes.unbind(1)
    ]
    pulls = torch.stack([pull(mu, centroid, square) for centroid, square, _ in parts], 1)
    found = soft_minimum(pulls, torch.stack([mass for *_, mass in parts], 1), 1e7)
    torch.testing.assert_close(found, by_definition(mu, anchors, weights), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("curvature", "weight"), [(1.0, 0.25), (3.0, 1.0), (0.5, 8.0)])
def test_proposition_3_2_on_a_quadratic_model(curvature: float, weight: float) -> None:
    """Masked optima ``m_b`` of a quadratic loss move to ``τ m_b + (1 − τ) ē``, τ = L/(L + 2λ)."""
    n_masks, double = 500, torch.float64
    batch = batch_of([[0, 3, 7, 9]] * n_masks, N_ITEMS)
    centroid, mean_square = centroids(draw(N_ITEMS, K, seed=2, dtype=double), batch)
    optima = draw(n_masks, K, seed=5, dtype=double) + 2
    mu = torch.zeros(n_masks, K, dtype=double, requires_grad=True)
    for _ in range(200):  # gradient descent, which knows nothing of the proposition
        loss = curvature / 2 * (mu - optima).square().sum()
        loss = loss + weight * alignment(Posterior(mu, None), centroid, mean_square).sum()
        (gradient,) = torch.autograd.grad(loss, mu)
        mu.data -= 0.7 / (curvature + 2 * weight) * gradient
    tau = curvature / (curvature + 2 * weight)
    torch.testing.assert_close(mu.var(0), tau**2 * optima.var(0))
    torch.testing.assert_close((mu.mean(0) - centroid[0]), tau * (optima.mean(0) - centroid[0]))
