"""Products of sparse histories with item tables, and the gradients their gradients go to.

An item table is a parameter ``[I, D]`` with one row per item. Its gradient is as large as the
table, and would be written to memory only to be read once. So in training the backward pass records
what it is computed from (:class:`TableGradients`), and the optimiser asks for a chunk of rows at a
time.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.batches import UserBatch

ROWS_PER_CHUNK = 2048  # of a table on a CPU: few calls, and a chunk of 600 columns stays in cache


class TableGradient(Protocol):
    """A gradient ``[I, D]`` that is computed a chunk of rows at a time, when asked for."""

    def chunk(self, start: int, stop: int) -> Tensor:
        """Rows ``start … stop − 1``, float32, for one of :func:`chunk_bounds`."""


class TableGradients:
    """The gradients of item tables in one step: recorded by the backward pass, not yet computed.

    The optimiser asks for them a chunk of rows at a time and uses each chunk while it is in cache.
    What they are computed from (the batch, its logits) must stay untouched until then.

    Parameters
    ----------
    tables
        The parameters whose gradients are recorded here; all others are left to autograd.
    """

    def __init__(self, tables: list[nn.Parameter]) -> None:
        self.tables = tables
        self._recorded: dict[int, list[TableGradient]] = {}

    def start(self) -> None:
        """Begin a step: nothing is recorded."""
        self._recorded = {id(table): [] for table in self.tables}

    def record(self, table: Tensor, gradient: TableGradient) -> bool:
        """Note a part of the table's gradient; False if the table is not one of these."""
        parts = self._recorded.get(id(table))
        if parts is not None:
            parts.append(gradient)
        return parts is not None

    def __contains__(self, parameter: Tensor) -> bool:
        return any(parameter is table for table in self.tables)

    def store(self, table: Tensor) -> None:
        """Compute the table's gradient now and keep it until the next step."""
        whole = torch.cat([rows for _, _, rows in self.chunks(table)])
        self._recorded[id(table)] = [_Stored(whole)]

    def chunks(self, table: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """``(start, stop, rows)`` over the table: the sum of all recorded parts, or zeros."""
        parts = self._recorded[id(table)]
        for start, stop in chunk_bounds(table):
            if parts:
                rows = parts[0].chunk(start, stop)
                for part in parts[1:]:
                    rows = rows + part.chunk(start, stop)
            else:
                rows = torch.zeros_like(table[start:stop])
            yield start, stop, rows


class _Stored:
    """A gradient that is there already."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def chunk(self, start: int, stop: int) -> Tensor:
        return self.rows[start:stop]


def rows_per_chunk(n_rows: int, device: torch.device) -> int:
    """Rows of a table of ``n_rows`` to handle at once: all on a GPU, where each call costs more."""
    return ROWS_PER_CHUNK if device.type == "cpu" else max(n_rows, 1)


def chunk_bounds(table: Tensor) -> Iterator[tuple[int, int]]:
    """``(start, stop)`` of the chunks of a table."""
    rows = rows_per_chunk(len(table), table.device)
    for start in range(0, len(table), rows):
        yield start, min(start + rows, len(table))


def store_gradient(
    gradients: TableGradients | None, table: Tensor, gradient: TableGradient
) -> Tensor | None:
    """Record ``gradient`` for the optimiser (then None), or compute it for autograd."""
    if gradients is not None and gradients.record(table, gradient):
        return None
    return torch.cat([gradient.chunk(start, stop) for start, stop in chunk_bounds(table)])


class TransposedRowSums:
    """``Xᵀ G`` for the batch's binary matrix X ``[B, I]`` and a dense G ``[B, D]``, in chunks."""

    def __init__(self, batch: UserBatch, dense: Tensor) -> None:
        self.indptr, self.users = batch.transposed()
        self.rows = rows_per_chunk(batch.n_items, dense.device)
        inner = self.indptr[self.rows : batch.n_items : self.rows].tolist()  # waits for the device
        self.bounds = [0, *inner, len(self.users)]
        self.dense = dense.contiguous()

    def chunk(self, start: int, stop: int) -> Tensor:
        """Rows ``start … stop − 1``, a chunk's."""
        at = start // self.rows
        first, last = self.bounds[at], self.bounds[at + 1]
        return F.embedding_bag(
            self.users[first:last], self.dense, self.indptr[start:stop] - first, mode="sum"
        )


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, batch: UserBatch, gradients: TableGradients | None
    ) -> Tensor:
        ctx.batch, ctx.gradients, ctx.table = batch, gradients, table
        return F.embedding_bag(batch.indices, table.detach(), batch.indptr[:-1], mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        gradient = TransposedRowSums(ctx.batch, grads[0])
        return store_gradient(ctx.gradients, ctx.table, gradient), None, None


def row_sums(table: Tensor, batch: UserBatch, gradients: TableGradients | None = None) -> Tensor:
    """Sum of the table's rows over each user's history: ``X @ table``, ``[B, D]``.

    Parameters
    ----------
    table
        float32 ``[I, D]``.
    batch
        The histories; ``batch.scale`` is not applied.
    gradients
        Where the table's gradient goes in training; None leaves it to autograd.
    """
    sums: Tensor = _RowSums.apply(table, batch, gradients)  # type: ignore[no-untyped-call]
    return sums
