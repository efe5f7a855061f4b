"""Interactions: who did something with what, as compressed sparse rows with external ids."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from coterie.data.ids import IdMap
from coterie.errors import ArtifactError, DataError
from coterie.files import atomic_folder
from coterie.manifest import read_manifest, write_manifest

FORMAT = "coterie-interactions"
FORMAT_VERSION = 1
ITEM_TABLE = "item_table.parquet"
MOST_CHECKED = 5_000_000  # interactions looked through on opening; more would take too long
ARRAYS: dict[str, np.dtype[Any]] = {
    "indptr": np.dtype(np.int64),
    "indices": np.dtype(np.int32),
    "values": np.dtype(np.float32),
    "timestamps": np.dtype(np.int64),
}


@dataclass(frozen=True, eq=False)
class Interactions:
    """Positive interactions of U users with I items: ``user_items`` in CSR form.

    Within a row the item indices are strictly increasing. Nothing is ever densified.

    Parameters
    ----------
    indptr
        int64 ``[U + 1]``; row ``u`` is ``indices[indptr[u]:indptr[u + 1]]``.
    indices
        int32 ``[nnz]``, internal item indices.
    user_ids, item_ids
        External ids of the rows and the columns.
    values
        Optional float32 ``[nnz]``, for example ratings.
    timestamps
        Optional int64 ``[nnz]``, seconds since 1970.
    items
        Optional table about the items: column ``item_id`` and, for example, ``title``, ``genres``.
    name
        What to call the data in reports.
    source
        Where the data came from: facts that JSON can hold, such as the file and the rows that each
        filter removed. Sub-matrices keep them.
    """

    indptr: np.ndarray
    indices: np.ndarray
    user_ids: IdMap
    item_ids: IdMap
    values: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    items: pl.DataFrame | None = None
    name: str = "interactions"
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        """U, the number of rows."""
        return len(self.indptr) - 1

    @cached_property
    def n_items(self) -> int:
        """I, the number of columns."""
        return len(self.item_ids)

    @property
    def nnz(self) -> int:
        """The number of interactions."""
        return len(self.indices)

    @cached_property
    def history_lengths(self) -> np.ndarray:
        """Items per user, int64 ``[U]``."""
        return np.diff(self.indptr)

    def item_counts(self) -> np.ndarray:
        """Users per item, int64 ``[I]``."""
        return np.bincount(self.indices, minlength=self.n_items)

    def __repr__(self) -> str:
        return (
            f"Interactions({self.name!r}, {self.n_users} users x {self.n_items} items, {self.nnz})"
        )

    def row(self, user: int) -> np.ndarray:
        """Item indices of one internal user index, int32 ``[n]``."""
        return self.indices[self.indptr[user] : self.indptr[user + 1]]

    def rows(self, users: np.ndarray) -> "Interactions":
        """The sub-matrix of the given internal user indices, in that order; columns unchanged."""
        users = np.asarray(users, dtype=np.int64)
        lengths = self.indptr[users + 1] - self.indptr[users]
        indptr = np.zeros(len(users) + 1, dtype=np.int64)
        np.cumsum(lengths, out=indptr[1:])
        picked = (
            np.arange(indptr[-1])
            - np.repeat(indptr[:-1], lengths)
            + np.repeat(self.indptr[users], lengths)
        )
        user_ids = IdMap(self.user_ids.to_ids(users))
        return replace(self._entries(picked), indptr=indptr, user_ids=user_ids)

    def select(self, keep: np.ndarray) -> "Interactions":
        """Keep the interactions where ``keep`` (bool ``[nnz]``) is true; users and items stay."""
        kept = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return replace(self._entries(keep), indptr=kept[self.indptr])

    def select_items(self, item_ids: IdMap) -> "Interactions":
        """The same users over another set of items; interactions with other items are dropped."""
        column = item_ids.to_index(self.item_ids.ids)[self.indices]
        kept = self.select(column >= 0)
        matrix = sp.csr_array(
            (np.arange(kept.nnz), column[column >= 0], kept.indptr),
            shape=(self.n_users, len(item_ids)),
        )
        matrix.sort_indices()
        indices = matrix.indices.astype(np.int32)
        return replace(kept._entries(matrix.data), indices=indices, item_ids=item_ids)

    def _entries(self, which: np.ndarray) -> "Interactions":
        """What each interaction has, of those that ``which`` (places or a mask) names."""
        return replace(
            self,
            indices=self.indices[which],
            values=None if self.values is None else self.values[which],
            timestamps=None if self.timestamps is None else self.timestamps[which],
        )

    def user_of_each(self) -> np.ndarray:
        """Internal user index of every interaction, int64 ``[nnz]``."""
        return np.repeat(np.arange(self.n_users), self.history_lengths)

    def to_scipy(self) -> sp.csr_array:
        """A SciPy CSR array ``[U, I]`` of ones (float32)."""
        data = np.ones(self.nnz, dtype=np.float32)
        return sp.csr_array(
            (data, np.asarray(self.indices), np.asarray(self.indptr)),
            shape=(self.n_users, self.n_items),
        )

    def to_frame(self) -> pl.DataFrame:
        """A table of ``user_id``, ``item_id`` and, where known, ``rating`` and ``timestamp``."""
        columns: dict[str, Any] = {
            "user_id": self.user_ids.to_ids(self.user_of_each()),
            "item_id": self.item_ids.to_ids(self.indices),
        }
        if self.values is not None:
            columns["rating"] = np.asarray(self.values)
        if self.timestamps is not None:
            columns["timestamp"] = np.asarray(self.timestamps)
        return pl.DataFrame(columns)

    def check(self) -> "Interactions":
        """Return ``self`` if the arrays fit together, else raise :class:`DataError`."""
        indptr, indices = self.indptr, self.indices
        if indptr.ndim != 1 or len(indptr) < 1 or indptr[0] != 0 or indptr[-1] != len(indices):
            raise DataError("indptr must start at 0 and end at the number of interactions.")
        if np.any(np.diff(indptr) < 0):
            raise DataError("indptr must not decrease.")
        if len(self.user_ids) != self.n_users:
            raise DataError(f"{self.n_users} rows but {len(self.user_ids)} user ids.")
        if len(indices) and (indices.min() < 0 or indices.max() >= self.n_items):
            raise DataError(f"Item indices must lie in 0 … {self.n_items - 1}.")
        first = np.zeros(len(indices) + 1, dtype=bool)
        first[indptr[:-1]] = True
        if np.any((np.diff(indices) <= 0) & ~first[1:-1]):
            raise DataError("Item indices must be strictly increasing within each user's row.")
        for name in ("values", "timestamps"):
            array = getattr(self, name)
            if array is not None and len(array) != len(indices):
                raise DataError(f"{len(array)} {name} for {len(indices)} interactions.")
        return self

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a data set folder: manifest, id maps as Parquet, CSR arrays as ``.npy``."""
        path = Path(path)
        with atomic_folder(path, overwrite=overwrite) as folder:
            for name, dtype in ARRAYS.items():
                array = getattr(self, name)
                if array is not None:
                    np.save(folder / f"{name}.npy", np.asarray(array, dtype=dtype))
            self.user_ids.save(folder / "users.parquet")
            self.item_ids.save(folder / "items.parquet")
            if self.items is not None:
                self.items.write_parquet(folder / ITEM_TABLE)
            facts = {
                "name": self.name,
                "n_users": self.n_users,
                "n_items": self.n_items,
                "nnz": self.nnz,
                "source": self.source,
            }
            write_manifest(folder, FORMAT, FORMAT_VERSION, facts)
        return path

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = False) -> "Interactions":
        """Open a data set folder; the arrays are memory-mapped, the ids read on first use.

        Sizes are always checked against the manifest, and the range of the indices up to five
        million interactions; hashes and everything that the arrays hold only if ``verify``.

        Raises
        ------
        ArtifactError
            Something is missing, truncated, damaged or, as far as it is checked, edited.
        """
        path = Path(path)
        manifest = read_manifest(
            path, FORMAT, FORMAT_VERSION, made_by="coterie prepare", verify=verify
        )
        arrays = {
            name: _map_array(path / f"{name}.npy", dtype)
            if f"{name}.npy" in manifest["files"]
            else None
            for name, dtype in ARRAYS.items()
        }
        indptr, indices = arrays["indptr"], arrays["indices"]
        if indptr is None or indices is None:
            raise ArtifactError(f"{path}: manifest.json names no indptr.npy or no indices.npy.")
        if len(indptr) == 0:
            raise ArtifactError(f"{path}: indptr.npy is empty; it was edited.")
        facts = _facts(path, manifest)
        opened = cls(
            indptr,
            indices,
            IdMap(path / "users.parquet"),
            IdMap(path / "items.parquet"),
            arrays["values"],
            arrays["timestamps"],
            _item_table(path) if ITEM_TABLE in manifest["files"] else None,
            facts["name"],
            facts["source"],
        )
        if (opened.n_users, opened.nnz) != (facts["n_users"], facts["nnz"]) or any(
            array is not None and array.shape != indices.shape
            for array in (opened.values, opened.timestamps)
        ):
            raise ArtifactError(
                f"{path}: the arrays do not have the sizes that manifest.json names."
            )
        opened.__dict__["n_items"] = facts["n_items"]
        _refuse_edited(path, opened, verify=verify)
        return opened


def _facts(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest's facts about the data, if they are of the types that they should be."""
    types: dict[str, type] = {
        "name": str,
        "source": dict,
        "n_users": int,
        "n_items": int,
        "nnz": int,
    }
    for key, type_ in types.items():
        value = manifest.get(key)
        if type(value) is not type_ or (isinstance(value, int) and value < 0):
            expected = "a count" if type_ is int else f"a {type_.__name__}"
            raise ArtifactError(
                f"{path} is damaged: {key!r} in manifest.json must be {expected}, got {value!r}."
            )
    return {key: manifest[key] for key in types}


def _item_table(path: Path) -> pl.DataFrame:
    file = path / ITEM_TABLE
    try:
        table = pl.read_parquet(file, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{file} is damaged: {error!r}.") from error
    if "item_id" not in table.columns:
        raise ArtifactError(f"{file} needs a column 'item_id'; it has {table.columns}.")
    return table


def _refuse_edited(path: Path, data: Interactions, *, verify: bool) -> None:
    """Check what the arrays hold: all of it where ``verify``, else the bounds of small data."""
    indptr, indices = data.indptr, data.indices
    if verify:
        if len(data.item_ids) != data.n_items:
            raise ArtifactError(
                f"{path}: items.parquet holds {len(data.item_ids)} ids, manifest.json says "
                f"{data.n_items}."
            )
        try:
            data.check()
        except DataError as error:
            raise ArtifactError(f"{path} is damaged: {error}") from error
        return
    if indptr[0] != 0 or indptr[-1] != data.nnz:
        raise ArtifactError(f"{path}: indptr.npy does not run from 0 to {data.nnz}; it was edited.")
    if max(data.n_users, data.nnz) > MOST_CHECKED:
        return
    if np.any(np.diff(indptr) < 0):
        raise ArtifactError(f"{path}: indptr.npy decreases somewhere; it was edited.")
    if data.nnz and not 0 <= indices.min() <= indices.max() < data.n_items:
        raise ArtifactError(
            f"{path}: indices.npy holds {indices.min()} … {indices.max()}, and there are "
            f"{data.n_items} items; it was edited."
        )


def _map_array(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """Memory-map a saved array of one dimension; :class:`ArtifactError` if it is not one."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise ArtifactError(f"{path} is damaged: {error}.") from error
    if array.ndim != 1 or array.dtype != dtype:
        raise ArtifactError(
            f"{path}: expected one dimension of {dtype}, got {array.ndim} of {array.dtype}."
        )
    return array
