"""Personalized Item Alignment (PIA): pull each user's code towards the anchors of their items.

Source: arXiv 2511.06781, section 3 (Propositions 3.1 and 3.2). The anchors ``e_i`` live here
because they exist in training only; the model that is served never reads them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.batches import UserBatch
from coterie.models.posterior import Posterior
from coterie.models.tables import (
    TableGradients,
    TransposedRowSums,
    store_gradient,
)


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


def alignment(
    posterior: Posterior,
    centroid: Tensor,
    mean_square: Tensor,
    *,
    align_mean: bool = True,
    shrink_variance: bool = True,
) -> Tensor:
    """PIA's penalty per user in closed form, ``[B]``: Prop. 3.1 of arXiv 2511.06781.

    ``‖μ − ē‖² + tr Σ + ((1/n) Σ ‖e_i‖² − ‖ē‖²)``.

    Parameters
    ----------
    posterior
        Of the MASKED history.
    centroid, mean_square
        From :func:`centroids` over the UNMASKED history.
    align_mean
        Include the pull of the mean, the first and the last term.
    shrink_variance
        Include ``tr Σ`` (nothing to include for a point posterior).
    """
    penalty = torch.zeros_like(posterior.mu[:, 0])
    if align_mean:
        penalty = penalty + (posterior.mu - centroid).square().sum(1)
        penalty = penalty + mean_square - centroid.square().sum(1)
    if shrink_variance and posterior.logvar is not None:
        penalty = penalty + posterior.logvar.exp().sum(1)
    return penalty


def alignment_sampled(z: Tensor, anchors: Tensor, batch: UserBatch) -> Tensor:
    """PIA's penalty per user at drawn codes: ``(1/n) Σ_{i∈S} ‖z − e_i‖²``, ``[B]``.

    The definition, of which :func:`alignment` is the expectation over ``z``; O(nnz · K) memory.
    """
    rows = batch.rows()
    distances = (z[rows] - anchors[batch.indices]).square().sum(1)
    sums = torch.zeros_like(z[:, 0]).index_add(0, rows, distances)
    return sums / batch.lengths.clamp(min=1)


class Anchors(nn.Module):
    """One learnable anchor per item, ``[I, K]``; used in training only."""

    def __init__(self, n_items: int, latent_dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(n_items, latent_dim))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the anchors from N(0, 1/K), so that each has a norm of about one."""
        with torch.no_grad():
            self.table.normal_(0, self.table.shape[1] ** -0.5, generator=generator)
