"""Mini-batches of users as CSR slices of torch tensors; nothing dense is ever built.

Letters: ``B`` users in the batch, ``I`` items, ``nnz`` interactions in the batch.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.errors import DataError

Extra = Literal["values", "timestamps"]  # what a batch has for each entry if it is asked for


@dataclass(frozen=True, eq=False)
class UserBatch:
    """The histories of B users.

    Parameters
    ----------
    indptr
        int64 ``[B + 1]``; user ``b`` has ``indices[indptr[b]:indptr[b + 1]]``.
    indices
        int64 ``[nnz]``, item indices.
    scale
        float32 ``[B]``; the value that every item of a user's history has as network input.
        ``1 / sqrt(n)`` L2-normalises the row; masking divides it by the keep probability.
    n_items
        I.
    values, timestamps
        Of each entry, where they were asked for: float32 ``[nnz]``, and int64 ``[nnz]`` in seconds
        since 1970.
    """

    indptr: Tensor
    indices: Tensor
    scale: Tensor
    n_items: int
    values: Tensor | None = None
    timestamps: Tensor | None = None

    @classmethod
    def of(cls, histories: Sequence[np.ndarray], n_items: int) -> Self:
        """The batch of some histories, on the CPU, each row L2-normalised.

        Parameters
        ----------
        histories
            Of each of B users, at least one: distinct item indices, integers ``[n]``; n may be 0.
        n_items
            I.
        """
        lengths = np.array([len(history) for history in histories])
        return cls(
            torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])),
            torch.from_numpy(np.concatenate(histories)).long(),
            torch.from_numpy(1 / np.sqrt(np.maximum(lengths, 1), dtype=np.float32)),
            n_items,
        )

    @property
    def n_users(self) -> int:
        """B."""
        return len(self.indptr) - 1

    @cached_property
    def lengths(self) -> Tensor:
        """Items per user, int64 ``[B]``."""
        return self.indptr.diff()

    @cached_property
    def rows(self) -> Tensor:
        """The user (0 … B − 1) of every entry, int64 ``[nnz]``."""
        users = torch.arange(self.n_users, device=self.indptr.device)
        return users.repeat_interleave(self.lengths, output_size=len(self.indices))

    def transposed(self) -> tuple[Tensor, Tensor]:
        """The users of each item: ``indptr`` int64 ``[I + 1]``, ``users`` int64 ``[nnz]``."""
        if self.indices.device.type == "cpu":  # SciPy counts instead of sorting: 20 times faster
            ones = np.ones(len(self.indices), dtype=np.int8)
            matrix = sp.csr_array(
                (ones, self.indices.numpy(), self.indptr.numpy()),
                shape=(self.n_users, self.n_items),
            ).tocsc()
            indptr, users = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices))
            return indptr.long(), users.long()
        return self._transposed_by_sorting()

    def _transposed_by_sorting(self) -> tuple[Tensor, Tensor]:
        items, order = torch.sort(self.indices, stable=True)
        bounds = torch.arange(self.n_items + 1, device=items.device)
        return torch.searchsorted(items, bounds), self.rows[order]

    def select(self, keep: Tensor) -> "UserBatch":
        """Keep the entries where ``keep`` (bool ``[nnz]``) is true; ``scale`` is unchanged."""
        kept = torch.zeros(len(keep) + 1, dtype=torch.int64, device=keep.device)
        torch.cumsum(keep, 0, out=kept[1:])
        return replace(
            self,
            indptr=kept[self.indptr],
            indices=self.indices[keep],
            values=None if self.values is None else self.values[keep],
            timestamps=None if self.timestamps is None else self.timestamps[keep],
        )

    def to(self, device: torch.device) -> "UserBatch":
        """The same batch on another device."""
        return replace(
            self,
            indptr=self.indptr.to(device),
            indices=self.indices.to(device),
            scale=self.scale.to(device),
            values=None if self.values is None else self.values.to(device),
            timestamps=None if self.timestamps is None else self.timestamps.to(device),
        )


def extra_of(data: Interactions, name: Extra) -> np.ndarray:
    """The values or the timestamps, ``[nnz]``; :class:`DataError` if the data has none."""
    array: np.ndarray | None = getattr(data, name)
    if array is None:
        column = {"values": "ratings", "timestamps": "timestamps"}[name]
        raise DataError(
            f"{data.name!r} has no {column}, and the settings need them: a weighting by recency "
            "and masks by time need timestamps, a weighting by rating needs ratings. Prepare the "
            "data from a file that has them, or choose other settings."
        )
    return array


def user_batch(data: Interactions, users: np.ndarray, extras: Collection[Extra] = ()) -> UserBatch:
    """The batch of the given internal user indices, int ``[B]``, read from memory or a map.

    ``extras`` are to be read as well; :class:`DataError` if the data lacks one.
    """
    starts = np.asarray(data.indptr[users])
    lengths = np.asarray(data.indptr[users + 1]) - starts
    indptr = np.zeros(len(users) + 1, dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    picked = np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], lengths)
    indices = data.indices[picked].astype(np.int64)
    scale = 1 / np.sqrt(np.maximum(lengths, 1), dtype=np.float32)
    return UserBatch(
        torch.from_numpy(indptr),
        torch.from_numpy(indices),
        torch.from_numpy(scale),
        data.n_items,
        **{name: torch.from_numpy(np.asarray(extra_of(data, name)[picked])) for name in extras},
    )


@dataclass(frozen=True)
class UserBatches:
    """Shuffled epochs over the users who have at least one interaction.

    The order of users is a pure function of ``(seed, epoch)``, so training can resume anywhere.
    ``extras`` are what the batches have beside the items.
    """

    data: Interactions
    batch_size: int
    seed: int
    extras: tuple[Extra, ...] = ()

    def __post_init__(self) -> None:
        users = np.flatnonzero(self.data.history_lengths)
        object.__setattr__(self, "_users", users)

    @property
    def n_users(self) -> int:
        """Users with at least one interaction."""
        return len(self._users)  # type: ignore[attr-defined]

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return -(-self.n_users // self.batch_size)

    def batch(self, epoch: int, index: int) -> UserBatch:
        """Batch ``index`` (0 … steps_per_epoch − 1) of ``epoch``."""
        users = self._order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        return user_batch(self.data, users, self.extras)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[UserBatch]:
        """The batches of ``epoch`` from batch ``start`` on."""
        order = self._order(epoch)
        for first in range(start * self.batch_size, len(order), self.batch_size):
            users = order[first : first + self.batch_size]
            yield user_batch(self.data, users, self.extras)

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        order: np.ndarray = rng.permutation(self._users)  # type: ignore[attr-defined]
        return order
