"""Products of sparse histories with item tables, and the buffers their gradients go to.

An item table is a parameter ``[I, D]`` with one row per item. Its gradient is as large as the
table; allocating it anew in every step costs more than filling it (the system hands out fresh
pages), so training keeps one buffer per table: :class:`GradientBuffers`.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.batches import UserBatch

ROWS_PER_CHUNK = 2048  # of the transposed product: small enough that a chunk stays in cache


class GradientBuffers:
    """One reusable gradient buffer per item table; the buffer is the parameter's ``grad``.

    Call :meth:`start` before each step. The first gradient of a step overwrites the buffer, later
    ones of the same step add to it.
    """

    def __init__(self, tables: list[nn.Parameter]) -> None:
        self._tables = tables
        self._written: set[int] = set()
        for table in tables:
            table.grad = torch.zeros_like(table)

    def start(self, parameters: list[nn.Parameter]) -> None:
        """Begin a step: buffers are stale until written, other parameters have no gradient."""
        self._written.clear()
        tables = {id(table) for table in self._tables}
        for parameter in parameters:
            if id(parameter) not in tables:
                parameter.grad = None

    def finish(self) -> None:
        """End a step's backward pass: buffers that nothing wrote to are zero."""
        for table in self._tables:
            if id(table) not in self._written and table.grad is not None:
                table.grad.zero_()

    def claim(self, table: Tensor) -> tuple[Tensor, bool] | None:
        """The buffer for ``table`` and whether to add to it; None if it has no buffer here."""
        if not any(table is known for known in self._tables) or table.grad is None:
            return None
        add = id(table) in self._written
        self._written.add(id(table))
        return table.grad, add


class TableGradient(Protocol):
    """A gradient ``[I, D]`` that knows how to write itself."""

    def write(self, out: Tensor, *, add: bool) -> None:
        """Fill ``out``, float32 ``[I, D]``, or add to it."""


def store_gradient(
    buffers: GradientBuffers | None, table: Tensor, gradient: TableGradient
) -> Tensor | None:
    """Write ``gradient`` into the table's buffer (then None), or into a new tensor for autograd."""
    claimed = buffers.claim(table) if buffers is not None else None
    if claimed is None:
        out = torch.empty_like(table)
        gradient.write(out, add=False)
        return out
    gradient.write(claimed[0], add=claimed[1])
    return None


class TransposedRowSums:
    """``Xᵀ G`` for the batch's binary matrix X ``[B, I]`` and a dense G ``[B, D]``, in chunks."""

    def __init__(self, batch: UserBatch, dense: Tensor) -> None:
        self.indptr, self.users = batch.transposed()
        self.bounds = self.indptr[::ROWS_PER_CHUNK].tolist()
        self.bounds.append(len(self.users))
        self.dense = dense.contiguous()

    def chunk(self, start: int, stop: int) -> Tensor:
        """Rows ``start … stop − 1``; ``start`` is a multiple of ``ROWS_PER_CHUNK``."""
        at = start // ROWS_PER_CHUNK
        first, last = self.bounds[at], self.bounds[at + 1]
        return F.embedding_bag(
            self.users[first:last], self.dense, self.indptr[start:stop] - first, mode="sum"
        )

    def write(self, out: Tensor, *, add: bool) -> None:
        """Fill ``out``, float32 ``[I, D]``, or add to it."""
        for start in range(0, len(out), ROWS_PER_CHUNK):
            stop = min(start + ROWS_PER_CHUNK, len(out))
            rows = self.chunk(start, stop)
            if add:
                out[start:stop].add_(rows)
            else:
                out[start:stop].copy_(rows)


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, batch: UserBatch, buffers: GradientBuffers | None
    ) -> Tensor:
        ctx.batch, ctx.buffers, ctx.table = batch, buffers, table
        return F.embedding_bag(batch.indices, table.detach(), batch.indptr[:-1], mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        gradient = TransposedRowSums(ctx.batch, grads[0])
        return store_gradient(ctx.buffers, ctx.table, gradient), None, None


def row_sums(table: Tensor, batch: UserBatch, buffers: GradientBuffers | None = None) -> Tensor:
    """Sum of the table's rows over each user's history: ``X @ table``, ``[B, D]``.

    Parameters
    ----------
    table
        float32 ``[I, D]``.
    batch
        The histories; ``batch.scale`` is not applied.
    buffers
        Where the table's gradient goes in training; None leaves it to autograd.
    """
    sums: Tensor = _RowSums.apply(table, batch, buffers)  # type: ignore[no-untyped-call]
    return sums
