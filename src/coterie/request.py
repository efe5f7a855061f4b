"""One request for recommendations, answered batch by batch: score, exclude, rank."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.histories import (
    FoldIn,
    Histories,
    OnUnknown,
    fold_in,
    known_items,
    refuse_unknown,
)
from coterie.memory import rows_at_once
from coterie.ranking import exclude_, top_k
from coterie.recommendations import Recommendations


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked for, resolved to the model's item indices.

    Parameters
    ----------
    fold_in
        The users' histories.
    k
        The length of the lists, at most the number of items (which is all there can be).
    exclude_seen
        Whether a user's own items are left out.
    barred
        Items that nobody may get, bool ``[I]``; None bars none.
    batch_size
        Users at once.
    unknown
        Item ids that the model does not know.
    """

    fold_in: FoldIn
    k: int
    exclude_seen: bool
    barred: np.ndarray | None
    batch_size: int
    unknown: pl.DataFrame

    @classmethod
    def read(
        cls,
        histories: Histories,
        item_ids: IdMap,
        *,
        k: int,
        exclude_seen: bool,
        allow: Iterable[Any] | None,
        deny: Iterable[Any] | None,
        on_unknown: OnUnknown,
        batch_size: int | None,
    ) -> "Request":
        """Resolve ids; parameters and errors as in :meth:`coterie.Recommender.recommend`."""
        if k < 1:
            raise ConfigError(f"k must be 1 or more, got {k}.")
        users = fold_in(histories, item_ids)
        allowed, not_allowable = known_items(allow, item_ids, named="allow")
        denied, not_deniable = known_items(deny, item_ids, named="deny")
        barred = None
        if allowed is not None or denied is not None:
            barred = np.full(len(item_ids), allowed is not None)
            if allowed is not None:
                barred[allowed] = False
            if denied is not None:
                barred[denied] = True
        unknown = pl.concat([users.unknown, not_allowable, not_deniable])
        return cls(
            users,
            min(k, max(len(item_ids), 1)),
            exclude_seen,
            barred,
            rows_at_once(len(item_ids), batch_size),
            refuse_unknown(unknown, on_unknown),
        )

    def answer(
        self,
        score: Callable[[Interactions], Tensor],
        item_counts: np.ndarray,
        catalogue: pl.DataFrame,
    ) -> Iterator[Recommendations]:
        """The answer batch by batch, at least one; rows without a known item rank by count."""
        for start in range(0, max(self.fold_in.n_users, 1), self.batch_size):
            batch = self.fold_in.batch(start, start + self.batch_size)
            scores = score(batch)
            fallback = batch.history_lengths == 0
            if fallback.any():
                popularity = torch.from_numpy(item_counts).to(scores)
                scores[torch.from_numpy(fallback).to(scores.device)] = popularity
            if self.exclude_seen:
                exclude_(scores, batch.indptr, batch.indices)
            if self.barred is not None:
                barred = torch.from_numpy(self.barred).to(scores.device)
                scores.masked_fill_(barred, -torch.inf)
            best = top_k(scores, self.k)
            yield Recommendations(
                batch.user_ids.ids,
                best.indices.cpu().numpy(),
                best.scores.cpu().numpy(),
                fallback,
                self.unknown,
                catalogue,
            )
