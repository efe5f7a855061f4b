"""The rows of a log while they are filtered: sort by pair, drop repeats, count, renumber.

Work arrays are NumPy in int32 codes, and one int64 key per row is sorted, so that 20 million
rows fit in well under 2 GB. The functions change :class:`Rows` and count in ``audit`` how
many rows each reason removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

CHUNK = 1 << 22  # rows of a work array that are treated at once
KEY_BITS = 62  # of a signed 64-bit key that are free to hold a pair and its place


@dataclass(eq=False)
class Rows:
    """Columns of equal length n, which this object owns and overwrites.

    Parameters
    ----------
    user, item
        int32 codes ``[n]``.
    values, times
        Optional float32 and int64 ``[n]``.
    """

    user: np.ndarray
    item: np.ndarray
    values: np.ndarray | None
    times: np.ndarray | None

    def keep(self, mask: np.ndarray, why: str, audit: dict[str, int]) -> None:
        """Keep the rows where ``mask`` (bool ``[n]``) is true, one column after the other."""
        removed = len(mask) - int(np.count_nonzero(mask))
        audit[why] = audit.get(why, 0) + removed
        if removed:
            self.user = self.user[mask]
            self.item = self.item[mask]
            self.values = None if self.values is None else self.values[mask]
            self.times = None if self.times is None else self.times[mask]


def keep_window(rows: Rows, since: int | None, until: int | None, audit: dict[str, int]) -> None:
    """Keep the rows with ``since`` ≤ time < ``until``, where given; the rows must have times."""
    assert rows.times is not None
    keep = np.ones(len(rows.times), dtype=bool)
    if since is not None:
        keep &= rows.times >= since
    if until is not None:
        keep &= rows.times < until
    rows.keep(keep, "outside the time window", audit)


def sort_pairs(rows: Rows, n_items: int) -> None:
    """Order the rows by user, then item, then their place in the file.

    If the bits suffice, the place rides in the low bits of the key: an unstable sort of the keys is
    then stable, and several times as fast as a stable argsort.
    """
    n = len(rows.user)
    item_bits = max(1, n_items - 1).bit_length()
    key = rows.user.astype(np.int64)
    key <<= item_bits
    key |= rows.item
    if _never_falls(key):
        return
    order, place_bits = None, 0
    if rows.values is not None or rows.times is not None:
        place_bits = (n - 1).bit_length()
        if place_bits + int(key.max()).bit_length() > KEY_BITS:
            order, place_bits = np.argsort(key, kind="stable"), 0
    if order is not None:
        key = key[order]
    else:
        _append_place(key, place_bits)
        key = pl.Series(key).sort().to_numpy()  # on all cores, unlike NumPy's
    for part in _pieces(n):
        pair = key[part] >> place_bits
        rows.user[part] = pair >> item_bits
        rows.item[part] = pair & ((1 << item_bits) - 1)
    if place_bits:
        order = (key & ((1 << place_bits) - 1)).astype(np.uint32 if n < 2**32 else np.int64)
    del key
    if order is not None:
        rows.values = None if rows.values is None else _taken(rows.values, order)
        rows.times = None if rows.times is None else _taken(rows.times, order)


def keep_last(rows: Rows, audit: dict[str, int]) -> None:
    """Of sorted rows, keep one per pair: the latest; of equally late ones, the last in the file."""
    again = repeats(rows)
    if not again.any():
        return
    keep = np.append(~again, True)
    if rows.times is not None:
        twin = np.flatnonzero(np.append(again, False) | np.append(False, again))
        group = np.cumsum(~np.append(False, again)[twin])
        by_time = twin[np.lexsort((rows.times[twin], group))]
        keep[twin] = False
        keep[by_time[np.append(group[1:] != group[:-1], True)]] = True
    rows.keep(keep, "earlier duplicates of a pair", audit)


def repeats(rows: Rows) -> np.ndarray:
    """Whether row i + 1 has the pair of row i, bool ``[n − 1]``; the rows must be sorted."""
    same: np.ndarray = (rows.user[1:] == rows.user[:-1]) & (rows.item[1:] == rows.item[:-1])
    return same


def keep_frequent(
    rows: Rows, least_items: int, least_users: int, shape: tuple[int, int], audit: dict[str, int]
) -> None:
    """Drop users with too few items and items with too few users, until none is left to drop."""
    both = min(least_items, least_users) > 1  # one alone is at its fixed point after one pass
    while len(rows.user):
        before = len(rows.user)
        if least_items > 1:
            enough = counts(rows.user, shape[0]) >= least_items
            rows.keep(enough[rows.user], f"of users with fewer than {least_items} items", audit)
        if least_users > 1:
            enough = counts(rows.item, shape[1]) >= least_users
            rows.keep(enough[rows.item], f"of items with fewer than {least_users} users", audit)
        if len(rows.user) == before or not both:
            return


def counts(codes: np.ndarray, size: int) -> np.ndarray:
    """How often each code occurs, int64 ``[size]``; in pieces, as bincount widens its input."""
    total = np.zeros(size, dtype=np.int64)
    for part in _pieces(len(codes)):
        total += np.bincount(codes[part], minlength=size)
    return total


def offsets(users: np.ndarray, n_users: int) -> np.ndarray:
    """Where each user's rows begin, int64 ``[n_users + 1]``; the rows must be sorted by user."""
    indptr = np.zeros(n_users + 1, dtype=np.int64)
    np.cumsum(counts(users, n_users), out=indptr[1:])
    return indptr


def _never_falls(key: np.ndarray) -> bool:
    for start in range(0, len(key) - 1, CHUNK):
        part = key[start : start + CHUNK + 1]
        if np.any(part[1:] < part[:-1]):
            return False
    return True


def _append_place(key: np.ndarray, place_bits: int) -> None:
    if place_bits:
        key <<= place_bits
        for part in _pieces(len(key)):
            key[part] |= np.arange(part.start, min(part.stop, len(key)), dtype=np.int64)


def _taken(column: np.ndarray, order: np.ndarray) -> np.ndarray:
    """``column[order]``; in pieces, as take widens its positions, and without checking bounds."""
    taken = np.empty_like(column)
    for part in _pieces(len(order)):
        np.take(column, order[part], out=taken[part], mode="clip")
    return taken


def _pieces(n: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, n, CHUNK))
