"""The multinomial negative log-likelihood, plain and fused with the output layer.

``ℓ(x, z) = n · logsumexp(f(z)) − Σ_{i∈S} f_i(z)`` in nats: SUM over items, MEAN over the batch.

The fused form computes the loss and its gradient in one pass over one batch's logits. With
``π = softmax(f)`` the gradient of the logits is ``(n π − x) / B``; it overwrites the logits, and
the three large products (logits, gradient of the hidden layer, gradient of the table) run in the
precision asked for, with float32 accumulation.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.models.decoders import MlpDecoder
from coterie.models.tables import TableGradients, store_gradient


def multinomial_nll(logits: Tensor, batch: UserBatch) -> Tensor:
    """Negative log-likelihood per user, ``[B]``, of logits ``[B, I]``: the plain form."""
    rows = batch.rows
    positives = logits[rows, batch.indices]
    sums = torch.zeros_like(logits[:, 0]).index_add(0, rows, positives)
    return batch.lengths * torch.logsumexp(logits, 1) - sums


@dataclass
class OutputWorkspace:
    """Memory that the fused form reuses from step to step: one batch's logits, one cast table.

    Parameters
    ----------
    dtype
        Precision of the large products: ``torch.float32`` or ``torch.bfloat16``.
    """

    dtype: torch.dtype = torch.float32
    logits: Tensor | None = None
    table: Tensor | None = None

    def logits_for(self, n_users: int, like: Tensor) -> Tensor:
        """An uninitialised ``[B, I]`` matrix."""
        n_items = len(like)
        if self.logits is None or self.logits.numel() < n_users * n_items:
            self.logits = torch.empty(n_users * n_items, dtype=self.dtype, device=like.device)
        return self.logits[: n_users * n_items].view(n_users, n_items)

    def cast(self, table: Tensor) -> Tensor:
        """The table in the workspace's precision (itself if it already is)."""
        if table.dtype == self.dtype:
            return table
        if self.table is None or self.table.shape != table.shape:
            self.table = torch.empty_like(table, dtype=self.dtype)
        return self.table.copy_(table)


class _OutputTableGradient:
    """``Gᵀ h`` for the gradient of the logits G ``[B, I]`` and the hidden layer h ``[B, H]``."""

    def __init__(self, logits_gradient: Tensor, hidden: Tensor, workspace: OutputWorkspace) -> None:
        self.transposed, self.hidden, self.workspace = logits_gradient.T, hidden, workspace
        self.product: Tensor | None = None

    def chunk(self, start: int, stop: int) -> Tensor:
        if self.workspace.dtype == torch.float32:
            return self.transposed[start:stop] @ self.hidden
        if self.product is None:
            # The cast table has served its last product; its memory takes this one.
            self.product = torch.mm(self.transposed, self.hidden, out=self.workspace.table)
        return self.product[start:stop].float()


class _FusedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        bias: Tensor,
        batch: UserBatch,
        workspace: OutputWorkspace,
        gradients: TableGradients | None,
    ) -> Tensor:
        cast = workspace.cast(table.detach())
        hidden = hidden.detach().to(workspace.dtype)
        probabilities = workspace.logits_for(batch.n_users, table)
        torch.addmm(bias.detach().to(workspace.dtype), hidden, cast.T, out=probabilities)
        torch.softmax(probabilities, 1, out=probabilities)
        positives = batch.rows * batch.n_items + batch.indices
        flat = probabilities.view(-1)
        picked = flat[positives].float()
        ctx.workspace, ctx.gradients = workspace, gradients
        ctx.hidden, ctx.table, ctx.cast, ctx.gradient = hidden, table, cast, probabilities
        probabilities.mul_((batch.lengths / batch.n_users).to(workspace.dtype)[:, None])
        flat[positives] -= 1 / batch.n_users
        return -picked.clamp_(min=torch.finfo(torch.float32).tiny).log_().sum() / batch.n_users

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradient, (of_hidden, of_table, of_bias, *_) = ctx.gradient, ctx.needs_input_grad
        if gradient.device.type != "cpu" or grads[0] != 1:  # a GPU would be waited for
            gradient = gradient * grads[0]
        d_hidden = d_table = d_bias = None
        if of_hidden:
            d_hidden = (gradient @ ctx.cast).float()
        if of_bias:
            ones = torch.ones_like(gradient[:, :1])
            d_bias = (ones.T @ gradient).float()[0]  # a product: eight times faster than a sum
        if of_table:
            table_gradient = _OutputTableGradient(gradient, ctx.hidden, ctx.workspace)
            d_table = store_gradient(ctx.gradients, ctx.table, table_gradient)
        return d_hidden, d_table, d_bias, None, None, None


def fused_multinomial_nll(
    hidden: Tensor,
    decoder: MlpDecoder,
    batch: UserBatch,
    workspace: OutputWorkspace,
    gradients: TableGradients | None = None,
) -> Tensor:
    """Mean over the batch of the users' negative log-likelihood: a scalar, in nats.

    Equals ``multinomial_nll(decoder(z), batch).mean()`` up to the workspace's precision, but for
    items whose probability is below 1e-38: they count 87 nats each. Valid for one backward pass,
    before the workspace serves the next batch.

    Parameters
    ----------
    hidden
        The decoder's last hidden layer, float32 ``[B, H]``.
    decoder
        Its output table ``[I, H]`` and bias ``[I]`` are used.
    batch
        The WHOLE histories: the targets.
    workspace
        Reused memory, and the precision of the products.
    gradients
        Where the table's gradient goes; None leaves it to autograd.
    """
    loss: Tensor = _FusedNll.apply(  # type: ignore[no-untyped-call]
        hidden, decoder.table, decoder.bias, batch, workspace, gradients
    )
    return loss
