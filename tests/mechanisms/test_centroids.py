"""Fitted anchors against a minimiser of the penalty."""

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.mechanisms.centroids import fitted_anchors
from coterie.models.posterior import Posterior
from coterie.objectives.alignment import alignment, centroids
from histories import batch_of, interactions_of, random_histories

N_ITEMS, K = 40, 3
HISTORIES = random_histories(60, N_ITEMS, seed=0, longest=12)
SOME = [history for history in HISTORIES if history]


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed))


def test_fitted_anchors_are_what_minimising_the_penalty_finds() -> None:
    mu, batch = draw(len(SOME), K).double(), batch_of(SOME, N_ITEMS)
    logvar = draw(len(SOME), K, seed=1).double()
    anchors = torch.zeros(N_ITEMS, K, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([anchors], max_iter=500, tolerance_grad=1e-12, tolerance_change=0)

    def penalty() -> Tensor:
        return alignment(Posterior(mu, logvar), *centroids(anchors, batch)).mean()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = penalty()
        loss.backward()
        return loss

    before = penalty().item()
    optimizer.step(closure)  # type: ignore[arg-type]
    found = fitted_anchors(interactions_of(SOME, N_ITEMS), mu)
    np.testing.assert_allclose(found, anchors.detach().numpy(), atol=1e-6)
    assert penalty().item() < before - 0.5, "or there was nothing to find"


def test_items_of_nobody_have_an_anchor_of_zero() -> None:
    found = fitted_anchors(interactions_of([[0, 2], [2]], 4), torch.tensor([[3.0], [6.0]]))
    assert found.ravel().tolist() == pytest.approx([3, 0, (3 / 2 + 6) / (1 / 2 + 1), 0])
