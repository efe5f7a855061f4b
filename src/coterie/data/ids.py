"""External identifiers (strings, integers, UUIDs) and the internal row index, never confused."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl

from coterie.data.encode import ids_from_objects
from coterie.errors import ArtifactError, DataError
from coterie.files import atomic_file

ExternalId = str | int | UUID
Ids = Iterable[Any] | pl.Series

NO_ITEM = -1  # in place of an item's index, where there is none
MOST_SEARCHED = 1000  # ids asked for at once; above, a join is faster than that many searches


class IdMap:
    """External id ↔ internal index 0 … n−1; position in the series is the index.

    Integers stay integers; everything else (strings, UUIDs, categories) is kept as strings.

    Parameters
    ----------
    ids
        The distinct external ids, in index order; or the path of a one-column Parquet file,
        read on first use.
    """

    def __init__(self, ids: Ids | Path) -> None:
        self._path: Path | None = None
        if isinstance(ids, Path):
            self._path = ids
        else:
            self.__dict__["ids"] = _distinct(as_id_series(ids))

    @cached_property
    def ids(self) -> pl.Series:
        """External ids in index order, shape ``[n]``, dtype ``Int64``, ``UInt64`` or ``String``."""
        assert self._path is not None
        try:
            ids = pl.read_parquet(self._path, columns=["id"], glob=False)["id"]
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(f"{self._path} is damaged or missing: {error}.") from error
        if ids.dtype not in (pl.Int64, pl.UInt64, pl.String) or ids.null_count():
            raise ArtifactError(f"{self._path} holds no ids, but {ids.dtype}; it was edited.")
        return ids

    @property
    def is_integer(self) -> bool:
        """Whether the external ids are integers (otherwise they are strings)."""
        return self.ids.dtype.is_integer()

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, IdMap) and self.ids.equals(other.ids))

    def __repr__(self) -> str:
        return f"IdMap({len(self)} ids, {self.ids.dtype})"

    @cached_property
    def _lookup(self) -> pl.DataFrame:
        return self.ids.to_frame("id").with_row_index("index")

    @cached_property
    def _sorted(self) -> tuple[pl.Series, np.ndarray]:
        """The ids in ascending order, and the index of each."""
        order = self.ids.arg_sort()
        return self.ids.gather(order), order.cast(pl.Int64).to_numpy()

    def to_index(self, ids: Ids) -> np.ndarray:
        """Internal indices of external ``ids``, int64 ``[n]``; −1 where the id is unknown.

        A string that spells an integer matches the integer id (``"12"`` is 12), because files and
        command lines hold text.
        """
        series = as_id_series(ids)
        if series.dtype != self.ids.dtype:
            series = series.cast(self.ids.dtype, strict=False)
        if len(series) <= MOST_SEARCHED and not series.null_count():
            return self._search(series)
        found = series.to_frame("id").join(
            self._lookup, on="id", how="left", maintain_order="left"
        )["index"]
        return found.cast(pl.Int64).fill_null(-1).to_numpy()

    def _search(self, ids: pl.Series) -> np.ndarray:
        """By binary search: a join reads the whole catalogue, however few ids are asked for."""
        ascending, order = self._sorted
        if len(order) == 0:
            return np.full(len(ids), -1)
        place = np.minimum(ascending.search_sorted(ids).to_numpy(), len(order) - 1)
        found = (ascending.gather(pl.Series(place)) == ids).to_numpy()
        return np.where(found, order[place], -1)

    def to_ids(self, index: np.ndarray) -> pl.Series:
        """External ids of internal indices ``[n]`` (all within ``0 … len − 1``)."""
        return self.ids.gather(pl.Series(np.asarray(index, dtype=np.int64)))

    def save(self, path: Path) -> None:
        """Write the ids as one Parquet column ``id``, whole or not at all."""
        with atomic_file(path) as aside:
            self.ids.alias("id").to_frame().write_parquet(aside)


def as_id_series(ids: Ids) -> pl.Series:
    """A polars series of dtype Int64, UInt64 or String; raises :class:`DataError` otherwise."""
    if isinstance(ids, pl.Series):
        series = ids
    else:
        values = ids if isinstance(ids, np.ndarray) else list(ids)
        if len(values) == 0:
            return pl.Series("id", [], dtype=pl.String)
        if isinstance(values, list) and any(isinstance(value, UUID) for value in values):
            values = [str(value) for value in values]
        try:
            series = pl.Series("id", values)
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"Ids must be all integers or all strings, got a mixture: {error}"
            ) from error
    if series.dtype == pl.Object:
        series = ids_from_objects(series.to_list(), series.name or "id")
    if series.dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    if series.null_count():
        raise DataError(f"{series.null_count()} ids are missing (null); every row needs one.")
    if series.dtype == pl.UInt64:
        return series
    if series.dtype.is_integer():
        try:
            return series.cast(pl.Int64)
        except pl.exceptions.InvalidOperationError as error:
            raise DataError(
                f"Ids must be 64-bit integers or text; give larger ones as text: {error}."
            ) from error
    if series.dtype == pl.String:
        return series
    raise DataError(f"Ids must be integers, strings or UUIDs, got values of type {series.dtype}.")


def _distinct(series: pl.Series) -> pl.Series:
    if series.n_unique() != len(series):
        twice = series.filter(series.is_duplicated())[0]
        raise DataError(f"Ids must be distinct; {twice!r} stands more than once.")
    return series
