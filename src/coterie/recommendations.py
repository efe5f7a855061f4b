"""What a recommender gives back: small frozen results in external ids, each with a table."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from coterie.data.ids import NO_ITEM, IdMap
from coterie.files import atomic_file

if TYPE_CHECKING:
    from coterie.models.posterior import Posterior


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The k best items of U users, best first.

    Parameters
    ----------
    user_ids
        ``[U]``, in the order in which the users were given.
    item_index
        The model's item indices, int64 ``[U, k]``; −1 fills up where fewer than k items were
        eligible.
    scores
        float32 ``[U, k]``, −inf beside an index of −1. The model's logits; for a fallback row the
        number of training users of the item. Comparable within a row only.
    fallback
        bool ``[U]``; true where the history had no item that the model knows, so that the most
        popular items are given.
    unknown
        Item ids that the model does not know, as in :class:`coterie.histories.FoldIn`.
    catalogue
        The model's I items, in order: ``item_id`` and, where known, ``title``.
    """

    user_ids: pl.Series
    item_index: np.ndarray
    scores: np.ndarray
    fallback: np.ndarray
    unknown: pl.DataFrame
    catalogue: pl.DataFrame = field(repr=False)

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def k(self) -> int:
        """The length of each list, filled up where items lack."""
        return int(self.item_index.shape[1])

    @cached_property
    def item_ids(self) -> pl.Series:
        """External ids, a series of U arrays of k; null beside an index of −1."""
        flat = self.item_index.reshape(-1)
        index = pl.Series(flat).set(pl.Series(flat == NO_ITEM), None)
        ids = self.catalogue["item_id"].gather(index)
        return ids.reshape((self.n_users, self.k)) if len(ids) else _no_arrays(ids, self.k)

    def __repr__(self) -> str:
        return (
            f"Recommendations({self.n_users} users, k={self.k}, {int(self.fallback.sum())} by "
            f"popularity, {len(self.unknown)} unknown item ids)"
        )

    def to_lists(self) -> list[list[Any]]:
        """External ids as plain lists, best first; shorter where fewer items were eligible."""
        grown: list[list[Any]] = self.item_ids.arr.to_list().list.drop_nulls().to_list()
        return grown

    def to_frame(self) -> pl.DataFrame:
        """One row per recommended item: ``user_id``, ``item_id``, ``title`` (where known),
        ``score``, ``rank`` (from 1) and ``fallback``.
        """  # noqa: D205
        row, place = np.nonzero(self.item_index != NO_ITEM)
        return _table(
            {"user_id": self.user_ids.gather(row)},
            self.catalogue[self.item_index[row, place]],
            {
                "score": self.scores[row, place],
                "rank": (place + 1).astype(np.int32),
                "fallback": self.fallback[row],
            },
        )


@dataclass(frozen=True, eq=False)
class SimilarItems:
    """The k items most similar to each of Q items, best first; never the item itself.

    Parameters
    ----------
    item_ids
        ``[Q]``, the items asked for that the model knows, in the order given.
    item_index, scores
        As in :class:`Recommendations`, ``[Q, k]``; the scores are cosines, −1 … 1, or weights.
    source
        What was compared: ``"anchors"``, ``"decoder"``, ``"factors"`` or ``"weights"``.
    unknown, catalogue
        As in :class:`Recommendations`.
    """

    item_ids: pl.Series
    item_index: np.ndarray
    scores: np.ndarray
    source: str
    unknown: pl.DataFrame
    catalogue: pl.DataFrame = field(repr=False)

    def to_frame(self) -> pl.DataFrame:
        """One row per pair: ``item_id``, ``similar_item_id``, ``title``, ``score``, ``rank``."""
        row, place = np.nonzero(self.item_index != NO_ITEM)
        similar = self.catalogue[self.item_index[row, place]]
        return _table(
            {"item_id": self.item_ids.gather(row)},
            similar.rename({"item_id": "similar_item_id"}),
            {"score": self.scores[row, place], "rank": (place + 1).astype(np.int32)},
        )


@dataclass(frozen=True, eq=False)
class EncodedUsers:
    """The posteriors of U users.

    Parameters
    ----------
    user_ids
        ``[U]``, in the order in which the users were given.
    posterior
        Means and log-variances ``[U, K]``, on the CPU.
    empty
        bool ``[U]``; true where the history had no item that the model knows: that posterior
        says nothing about the user.
    unknown
        As in :class:`Recommendations`.
    """

    user_ids: pl.Series
    posterior: "Posterior"
    empty: np.ndarray
    unknown: pl.DataFrame


@dataclass(frozen=True, eq=False)
class Export:
    """What was written to a file: users, those of them who got the fallback, unknown item ids."""

    path: Path
    n_users: int
    n_fallback: int
    unknown: pl.DataFrame


def write_parquet(
    parts: Iterator[Recommendations],
    path: Path,
    n_users: int,
    progress: Callable[[int, int], None] | None,
) -> Export:
    """Write each part (at least one) as a row group of ``path``, whole or not at all."""
    n_done = n_fallback = 0
    with atomic_file(path) as aside, ExitStack() as opened:
        writer = None
        for part in parts:
            table = part.to_frame().to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                writer = pq.ParquetWriter(aside, table.schema, compression="zstd")
                opened.enter_context(writer)
            writer.write_table(table)
            n_done += part.n_users
            n_fallback += int(part.fallback.sum())
            if progress is not None:
                progress(n_done, n_users)
    return Export(path, n_done, n_fallback, part.unknown)


def with_titles(item_ids: IdMap, items: pl.DataFrame | None) -> pl.DataFrame:
    """All items in the model's order: ``item_id`` and, where ``items`` has them, ``title``."""
    table = item_ids.ids.alias("item_id").to_frame()
    if items is None or "title" not in items.columns:
        return table
    named = items.drop_nulls("item_id")
    index = item_ids.to_index(named["item_id"])
    known, first = np.unique(index, return_index=True)  # the first of several titles
    titles = pl.DataFrame({"index": known, "title": named["title"].gather(pl.Series(first))})
    return (
        table.with_columns(index=pl.int_range(pl.len(), dtype=pl.Int64))
        .join(titles, on="index", how="left", maintain_order="left")
        .drop("index")
    )


def _table(left: dict[str, Any], items: pl.DataFrame, right: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(left).with_columns(items).with_columns(**_series(right))


def _series(columns: dict[str, Any]) -> dict[str, pl.Series]:
    return {name: pl.Series(name, values) for name, values in columns.items()}


def _no_arrays(ids: pl.Series, k: int) -> pl.Series:
    return pl.Series(ids.name, [], dtype=pl.Array(ids.dtype, k))
