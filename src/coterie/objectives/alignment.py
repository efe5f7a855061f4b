"""Personalized Item Alignment (PIA): pull each user's code towards the anchors of their items.

Source: arXiv 2511.06781, section 3 (Propositions 3.1 and 3.2). The formulas are here; where the
anchors ``e_i`` and the weights of a user's items come from is in
:mod:`coterie.objectives.anchors`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.models.posterior import Posterior
from coterie.models.tables import (
    TableGradients,
    TransposedRowSums,
    store_gradient,
)

LEAST_MASS = 1e-30  # sums of weights below it count as it: an empty history divides by it


class _CentroidsGradient:
    """``Xᵀ(g_mean / n) + 2 e ⊙ Xᵀ(g_square / n)``, a chunk of items at a time."""

    def __init__(self, batch: UserBatch, anchors: Tensor, mean: Tensor, square: Tensor) -> None:
        n = batch.lengths.clamp(min=1)[:, None]
        self.sums = TransposedRowSums(batch, torch.cat([mean, square[:, None]], 1) / n)
        self.anchors = anchors

    def chunk(self, start: int, stop: int) -> Tensor:
        sums = self.sums.chunk(start, stop)
        return torch.addcmul(sums[:, :-1], self.anchors[start:stop], sums[:, -1:], value=2)


class _Centroids(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, batch: UserBatch, gradients: TableGradients | None
    ) -> tuple[Tensor, Tensor]:
        ctx.batch, ctx.gradients, ctx.anchors = batch, gradients, anchors
        table = anchors.detach()
        mean = F.embedding_bag(batch.indices, table, batch.indptr[:-1], mode="mean")
        norms = table.square().sum(1, keepdim=True)
        square = F.embedding_bag(batch.indices, norms, batch.indptr[:-1], mode="mean")
        return mean, square[:, 0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        gradient = _CentroidsGradient(ctx.batch, ctx.anchors.detach(), *grads)
        return store_gradient(ctx.gradients, ctx.anchors, gradient), None, None


def centroids(
    anchors: Tensor, batch: UserBatch, gradients: TableGradients | None = None
) -> tuple[Tensor, Tensor]:
    """Mean anchor ``ē`` ``[B, K]`` and mean squared norm ``(1/n) Σ ‖e_i‖²`` ``[B]`` per history.

    Cost O(nnz · K); no tensor of I × K per user.
    """
    result: tuple[Tensor, Tensor] = _Centroids.apply(anchors, batch, gradients)  # type: ignore[no-untyped-call]
    return result


def weighted_centroids(
    anchors: Tensor, positions: Tensor, weights: Tensor, batch: UserBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean anchor, weighted mean squared norm, and sum of the weights, of each history.

    ``ē = Σ w_i e_i / Σ w_i`` ``[B, K]``, ``Σ w_i ‖e_i‖² / Σ w_i`` ``[B]`` and ``Σ w_i`` ``[B]``.
    Differentiable in anchors and weights. Cost O(nnz · K).

    Parameters
    ----------
    anchors
        ``[N, K]``, of the items that the batch names, or of all.
    positions
        int64 ``[nnz]``, the row of ``anchors`` of each entry of the batch.
    weights
        ``[nnz]``, at least 0; they need not add up to 1.
    batch
        The UNMASKED histories. An empty one has a centroid of 0.
    """
    ones = torch.ones_like(anchors[:, :1])
    table = torch.cat([anchors, anchors.square().sum(1, keepdim=True), ones], 1)
    sums = F.embedding_bag(
        positions, table, batch.indptr[:-1], mode="sum", per_sample_weights=weights
    )
    mass = sums[:, -1]
    means = sums[:, :-1] / mass.clamp(min=LEAST_MASS)[:, None]
    return means[:, :-1], means[:, -1], mass


def pull(mu: Tensor, centroid: Tensor, mean_square: Tensor) -> Tensor:
    """Weighted mean of ``‖μ − e_i‖²``: ``‖μ − ē‖² + (Σ w ‖e_i‖² − ‖ē‖²)``, ``[B]``.

    The part of Prop. 3.1 that the mean of the posterior is responsible for; it holds for any
    weights that add up to 1, not for 1/n alone.
    """
    return (mu - centroid).square().sum(1) + mean_square - centroid.square().sum(1)


def soft_minimum(pulls: Tensor, masses: Tensor, temperature: float) -> Tensor:
    """``−T log Σ_m π_m exp(−d_m / T)`` per user, ``[B]``: the pull of the nearest centroids (ours).

    With one centroid it is ``d`` itself. It grows with T, from the least ``d_m`` (T → 0) to the
    mean ``Σ π_m d_m`` (T → ∞), which is the pull towards the single centroid.

    Parameters
    ----------
    pulls
        d, ``[B, M]``, of :func:`pull` towards each centroid.
    masses
        ``[B, M]``, at least 0: each centroid's share of the user's weights, times any constant.
    temperature
        T > 0, in units of squared distance.
    """
    total = masses.sum(1, keepdim=True)
    shares = (masses / total.clamp(min=LEAST_MASS)).clamp(min=LEAST_MASS)
    logits = torch.log(shares) - pulls / temperature
    # Nobody is pulled to a centroid of no items, however near; an empty history has none but those.
    logits = logits.masked_fill((masses <= 0) & (total > 0), -torch.inf)
    return -temperature * torch.logsumexp(logits, 1)


def total_variance(posterior: Posterior) -> Tensor:
    """``tr Σ`` per user, ``[B]``: what PIA shrinks; 0 for a point posterior."""
    if posterior.logvar is None:
        return torch.zeros_like(posterior.mu[:, 0])
    return posterior.logvar.exp().sum(1)


def alignment(posterior: Posterior, centroid: Tensor, mean_square: Tensor) -> Tensor:
    """PIA's penalty per user in closed form, ``[B]``: Prop. 3.1 of arXiv 2511.06781.

    ``‖μ − ē‖² + tr Σ + ((1/n) Σ ‖e_i‖² − ‖ē‖²)``.

    Parameters
    ----------
    posterior
        Of the MASKED history.
    centroid, mean_square
        From :func:`centroids` or :func:`weighted_centroids` over the UNMASKED history.
    """
    return pull(posterior.mu, centroid, mean_square) + total_variance(posterior)


def alignment_sampled(
    z: Tensor, anchors: Tensor, batch: UserBatch, weights: Tensor | None = None
) -> Tensor:
    """PIA's penalty per user at drawn codes: ``Σ_{i∈S} w_i ‖z − e_i‖² / Σ w_i``, ``[B]``.

    The definition, of which :func:`alignment` is the expectation over ``z``; O(nnz · K) memory.
    Without ``weights`` ``[nnz]`` each item counts 1/n.
    """
    rows = batch.rows
    distances = (z[rows] - anchors[batch.indices]).square().sum(1)
    weights = torch.ones_like(distances) if weights is None else weights
    empty = torch.zeros_like(z[:, 0])
    sums = empty.index_add(0, rows, weights * distances)
    return sums / empty.index_add(0, rows, weights).clamp(min=LEAST_MASS)
