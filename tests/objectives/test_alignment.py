import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.models.posterior import Posterior
from coterie.models.tables import ROWS_PER_CHUNK, TableGradients
from coterie.objectives.alignment import Anchors, alignment, alignment_sampled, centroids
from histories import batch_of, dense_of, random_histories

N_ITEMS, K = 29, 4
HISTORIES = random_histories(11, N_ITEMS, seed=0)[1:]  # the definition needs n > 0


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_definition(z: Tensor, anchors: Tensor) -> Tensor:
    """``(1/n) Σ_{i∈S} ‖z − e_i‖²``, user by user and item by item."""
    return torch.stack(
        [
            torch.stack([(z[user] - anchors[item]).square().sum() for item in history]).mean()
            for user, history in enumerate(HISTORIES)
        ]
    )


def dense_alignment(mu: Tensor, logvar: Tensor | None, anchors: Tensor) -> Tensor:
    """The same expectation from a dense matrix: ``E‖z − e‖² = ‖μ − e‖² + tr Σ``."""
    x = dense_of(HISTORIES, N_ITEMS).to(mu.dtype)
    distances = (mu[:, None] - anchors).square().sum(2)
    trace = 0 if logvar is None else logvar.exp().sum(1)
    return (x * distances).sum(1) / x.sum(1) + trace


def closed_form(mu: Tensor, logvar: Tensor | None, anchors: Tensor, **switches: bool) -> Tensor:
    centroid, mean_square = centroids(anchors, batch_of(HISTORIES, N_ITEMS))
    return alignment(Posterior(mu, logvar), centroid, mean_square, **switches)


def test_the_sampled_form_is_the_definition() -> None:
    z, anchors = draw(10, K, seed=1), draw(N_ITEMS, K, seed=2)
    found = alignment_sampled(z, anchors, batch_of(HISTORIES, N_ITEMS))
    torch.testing.assert_close(found, by_definition(z, anchors))


def test_the_closed_form_is_the_definition_at_a_point() -> None:
    mu, anchors = draw(10, K, seed=1), draw(N_ITEMS, K, seed=2)
    torch.testing.assert_close(closed_form(mu, None, anchors), by_definition(mu, anchors))


def test_the_closed_form_is_the_expectation_of_the_sampled_form() -> None:
    mu, logvar = draw(10, K, seed=1), draw(10, K, seed=3)
    anchors, n_draws = draw(N_ITEMS, K, seed=2), 4000
    batch, generator = batch_of(HISTORIES, N_ITEMS), torch.Generator().manual_seed(4)
    posterior = Posterior(mu, logvar)
    draws = torch.stack(
        [alignment_sampled(posterior.sample(generator), anchors, batch) for _ in range(n_draws)]
    ).double()
    error = draws.std(0) / n_draws**0.5
    deviation = (draws.mean(0) - closed_form(mu, logvar, anchors)) / error
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


def test_each_effect_can_be_switched_off() -> None:
    mu, logvar, anchors = draw(10, K, seed=1), draw(10, K, seed=3), draw(N_ITEMS, K, seed=2)
    trace = logvar.exp().sum(1)
    torch.testing.assert_close(closed_form(mu, logvar, anchors, align_mean=False), trace)
    torch.testing.assert_close(
        closed_form(mu, logvar, anchors, shrink_variance=False), by_definition(mu, anchors)
    )
    none = closed_form(mu, logvar, anchors, align_mean=False, shrink_variance=False)
    assert none.tolist() == [0] * 10


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


class _Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


def test_no_tensor_of_items_times_width_per_user_nor_of_users_times_items() -> None:
    n_users, n_items = 64, 20_000
    histories = random_histories(n_users, n_items, seed=0, longest=100)
    batch, anchors = batch_of(histories, n_items), Anchors(n_items, K)
    mu = torch.zeros(n_users, K, requires_grad=True)
    with _Largest() as largest:
        centroid, mean_square = centroids(anchors.table, batch)
        alignment(Posterior(mu, None), centroid, mean_square).sum().backward()
    assert anchors.table.grad is not None
    assert largest.numel <= n_items * K, "only the anchors and their gradient are that large"
    assert n_users * n_items > n_items * K


def test_anchors_start_with_a_norm_of_about_one() -> None:
    anchors = Anchors(5000, 50)
    anchors.reset_parameters(torch.Generator().manual_seed(0))
    norms = anchors.table.detach().norm(dim=1)
    assert norms.mean().item() == pytest.approx(1, abs=0.02)
    assert anchors.table.detach().std().item() == pytest.approx(50**-0.5, rel=0.01)
