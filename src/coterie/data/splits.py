"""Splits into training, validation and test data: seeded, vectorised, without leakage.

All functions return a :class:`Split`. In every part the columns are the same items, in the same
order, as in ``train``. What is fold-in at evaluation never holds what is to be predicted.

===================== =====================================================================
strong generalisation users are held out; a share of their history is the fold-in (Liang 2018)
weak generalisation   each user's history is divided at random
leave-one-out         one item per user for validation and one for the test
given                 a published pair of train and test
temporal              by two points in time, or by each user's own time order
===================== =====================================================================
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import polars as pl

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.parts import HeldOut, Split
from coterie.errors import ConfigError, DataError

__all__ = [
    "HeldOut",
    "Rng",
    "Split",
    "given_split",
    "leave_one_out",
    "strong_generalization",
    "temporal",
    "temporal_per_user",
    "weak_generalization",
]


LIANG_MINIMUM = 5  # a held-out user with fewer items gives none away (Liang et al., their code)

Rng = np.random.Generator | int
"""A generator, or a seed to make one from (which the split then records)."""


def strong_generalization(
    data: Interactions,
    *,
    n_validation_users: int,
    n_test_users: int,
    fold_in_fraction: float = 0.8,
    rng: Rng,
) -> Split:
    """Hold out users; the model sees a share of their history and predicts the rest.

    The items are those seen in training; the held-out users' interactions with other items are
    dropped. Of the n that remain, ``int((1 − fold_in_fraction)·n)`` are held out at random if n ≥
    5, otherwise none: such users stay, and evaluation counts them and leaves them out.

    Source: Liang et al., *Variational Autoencoders for Collaborative Filtering*, WWW 2018, section
    4.1, and the rule for short histories in their published code.

    Raises
    ------
    DataError
        Too few users for the two parts.
    ConfigError
        A number is negative or ``fold_in_fraction`` not within (0, 1).
    """
    _check_fraction("fold_in_fraction", fold_in_fraction)
    for name, number in (
        ("n_validation_users", n_validation_users),
        ("n_test_users", n_test_users),
    ):
        if number < 0:
            raise ConfigError(f"{name} must be 0 or more, got {number}.")
    n_train = data.n_users - n_validation_users - n_test_users
    if n_train < 1:
        raise DataError(
            f"{n_validation_users} validation and {n_test_users} test users leave none to train "
            f"on: there are {data.n_users} users. Ask for fewer."
        )
    generator = _generator(rng)
    shuffled = generator.permutation(data.n_users)
    bounds = [n_validation_users, n_validation_users + n_test_users]
    validation, test, train = (data.rows(np.sort(part)) for part in np.split(shuffled, bounds))
    items = _items_seen(train)
    settings = {
        "n_validation_users": n_validation_users,
        "n_test_users": n_test_users,
        "fold_in_fraction": fold_in_fraction,
        "seed": _seed(rng),
        "n_items_not_in_train": data.n_items - len(items),
    }
    share = 1.0 - fold_in_fraction
    return Split(
        train.select_items(items),
        _fold(validation.select_items(items), share, generator),
        _fold(test.select_items(items), share, generator),
        "strong-generalization",
        settings,
    )


def weak_generalization(
    data: Interactions,
    *,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    rng: Rng,
) -> Split:
    """Divide each user's n items at random: ``int(fraction·n)`` to each held-out part.

    All users stand in all parts, and the items stay as they are. The fold-in of validation is
    ``train``; the fold-in of the test is ``train`` and validation together.
    """
    generator = _generator(rng)
    rank = _random_rank(data, generator)
    settings = {"seed": _seed(rng)}
    return _by_rank(data, rank, validation_fraction, test_fraction, "weak-generalization", settings)


def temporal_per_user(
    data: Interactions,
    *,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    rng: Rng,
) -> Split:
    """Hold out each user's latest interactions: like weak generalisation, but by time.

    The last ``int(test_fraction·n)`` are the test, those before them validation; interactions of
    one user at the same second are ordered at random. Raises :class:`DataError` without timestamps.
    """
    rank = _latest_rank(data, _generator(rng))
    settings = {"seed": _seed(rng)}
    return _by_rank(data, rank, validation_fraction, test_fraction, "temporal-user", settings)


def leave_one_out(
    data: Interactions, *, by: Literal["random", "time"] = "random", rng: Rng
) -> Split:
    """Hold out one item per user for the test and one for validation.

    Taken at random, or ``by="time"``: the last is the test, the one before it validation (the order
    within one second is random). Users with fewer than 3 items train only.
    """
    if by not in ("random", "time"):
        raise ConfigError(f'by must be "random" or "time", got {by!r}.')
    generator = _generator(rng)
    rank = _random_rank(data, generator) if by == "random" else _latest_rank(data, generator)
    enough = np.repeat(data.history_lengths >= 3, data.history_lengths)
    test, validation = enough & (rank == 0), enough & (rank == 1)
    return _divide(data, validation, test, "leave-one-out", {"by": by, "seed": _seed(rng)})


def given_split(
    train: Interactions, test: Interactions, *, validation_fraction: float = 0.1, rng: Rng
) -> Split:
    """Take a published pair of train and test as it is, its ids aligned.

    The items are those of both, train's first. Validation holds out ``int(validation_fraction·n)``
    of each user's n training items, taken out of ``train``. The fold-in of the test is the whole
    published train, so that none of it is recommended.

    Raises
    ------
    DataError
        Id types differ, nothing of ``test`` is known in ``train``, or pairs stand in both.
    """
    _check_fraction("validation_fraction", validation_fraction, zero=True)
    items = _union(train.item_ids, test.item_ids, "item")
    train, test = train.select_items(items), test.select_items(items)
    known = train.user_ids.to_index(test.user_ids.ids)
    if test.n_users and not np.any(known >= 0):
        raise DataError("No user of the test part is in the training part; are the ids the same?")
    whole = HeldOut(_rows_or_empty(train, known, test.user_ids), test).check()
    rank = _random_rank(train, _generator(rng))
    wanted = np.repeat(_share(train.history_lengths, validation_fraction), train.history_lengths)
    rest = train.select(rank >= wanted)
    settings = {"validation_fraction": validation_fraction, "seed": _seed(rng)}
    return Split(rest, HeldOut(rest, train.select(rank < wanted)), whole, "given", settings)


def temporal(
    data: Interactions, *, validation_from: int | datetime, test_from: int | datetime
) -> Split:
    """Divide by time: train before ``validation_from``, test at ``test_from`` and later.

    Validation predicts what users did in [``validation_from``, ``test_from``) from all that they
    did before; the test likewise. The items are those seen in training; interactions with others
    are dropped. A user with no earlier history cannot be folded in and is left out; ``settings``
    tells how many.

    Parameters
    ----------
    validation_from, test_from
        Seconds since 1970, or datetimes (naive ones are taken as UTC).

    Raises
    ------
    DataError
        No timestamps, or nothing happened in one of the three periods.
    ConfigError
        ``test_from`` is not later than ``validation_from``.
    """
    times = _timestamps(data)
    start, end = _seconds(validation_from), _seconds(test_from)
    if end <= start:
        raise ConfigError(f"test_from ({end}) must be later than validation_from ({start}).")
    before, middle, after = times < start, (times >= start) & (times < end), times >= end
    for name, period in (("before", before), ("validation", middle), ("test", after)):
        if not period.any():
            raise DataError(
                f"Nothing happened in the period {name!r}: the data runs from {times.min()} to "
                f"{times.max()}, the limits are {start} and {end}."
            )
    train = data.select(before)
    train = train.rows(np.flatnonzero(train.history_lengths))
    items = _items_seen(train)
    settings: dict[str, Any] = {
        "validation_from": start,
        "test_from": end,
        "n_items_not_in_train": data.n_items - len(items),
    }
    parts = {}
    for name, earlier, period in (
        ("validation", before, middle),
        ("test", times < end, after),
    ):
        active = data.select(period)
        users = np.flatnonzero(active.history_lengths)
        known = data.select(earlier).rows(users).select_items(items)
        has_history = known.history_lengths > 0
        settings[f"n_{name}_users_without_history"] = int(np.sum(~has_history))
        held_out = active.rows(users[has_history]).select_items(items)
        parts[name] = HeldOut(known.rows(np.flatnonzero(has_history)), held_out)
    return Split(
        train.select_items(items), parts["validation"], parts["test"], "temporal", settings
    )


def _by_rank(
    data: Interactions,
    rank: np.ndarray,
    validation_fraction: float,
    test_fraction: float,
    protocol: str,
    settings: dict[str, Any],
) -> Split:
    _check_fraction("validation_fraction", validation_fraction, zero=True)
    _check_fraction("test_fraction", test_fraction, zero=True)
    if validation_fraction + test_fraction >= 1:
        raise ConfigError(
            "validation_fraction and test_fraction must leave something to train on, got "
            f"{validation_fraction} + {test_fraction}."
        )
    lengths = data.history_lengths
    n_test = np.repeat(_share(lengths, test_fraction), lengths)
    n_both = n_test + np.repeat(_share(lengths, validation_fraction), lengths)
    settings = {
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        **settings,
    }
    return _divide(data, (rank >= n_test) & (rank < n_both), rank < n_test, protocol, settings)


def _divide(
    data: Interactions,
    validation: np.ndarray,
    test: np.ndarray,
    protocol: str,
    settings: dict[str, Any],
) -> Split:
    """Split by two disjoint masks over the interactions, bool ``[nnz]``."""
    train = data.select(~(validation | test))
    return Split(
        train,
        HeldOut(train, data.select(validation)),
        HeldOut(data.select(~test), data.select(test)),
        protocol,
        settings,
    )


def _fold(users: Interactions, share: float, rng: np.random.Generator) -> HeldOut:
    lengths = users.history_lengths
    wanted = np.where(lengths >= LIANG_MINIMUM, _share(lengths, share), 0)
    hidden = _random_rank(users, rng) < np.repeat(wanted, lengths)
    return HeldOut(users.select(~hidden), users.select(hidden))


def _share(lengths: np.ndarray, fraction: float) -> np.ndarray:
    """``int(fraction·n)``, forgiving the rounding of binary fractions (1 − 0.8 < 0.2)."""
    share: np.ndarray = np.floor(lengths * fraction + 1e-9).astype(np.int64)
    return share


def _random_rank(data: Interactions, rng: np.random.Generator) -> np.ndarray:
    """Place of each interaction in a random order of its row, int64 ``[nnz]``."""
    return _rank(data, _random_order(data, rng))


def _latest_rank(data: Interactions, rng: np.random.Generator) -> np.ndarray:
    """Place of each interaction in its row, latest first, ties at random; int64 ``[nnz]``."""
    times = _timestamps(data)
    age = times.max(initial=0) - times
    if age.max(initial=0) >= 2**32:  # 136 years in seconds, or another unit: use ranks instead
        age = np.unique(age, return_inverse=True)[1]
    order = _random_order(data, rng)
    return _rank(data, order[np.argsort(_packed(data, age)[order], kind="stable")])


def _random_order(data: Interactions, rng: np.random.Generator) -> np.ndarray:
    """The interactions row by row, shuffled within each row."""
    draws = rng.integers(0, 2**32, size=data.nnz, dtype=np.uint32)
    return np.argsort(_packed(data, draws), kind="stable")


def _packed(data: Interactions, low: np.ndarray) -> np.ndarray:
    """Row and ``low`` (below 2³²) in one integer: one sort by it is a sort by row, then ``low``."""
    packed: np.ndarray = (data.user_of_each() << 32) | low
    return packed


def _rank(data: Interactions, order: np.ndarray) -> np.ndarray:
    """Place within its row, given the order of all interactions sorted row by row."""
    rank = np.empty(data.nnz, dtype=np.int64)
    rank[order] = np.arange(data.nnz) - np.repeat(data.indptr[:-1], data.history_lengths)
    return rank


def _items_seen(train: Interactions) -> IdMap:
    return IdMap(train.item_ids.to_ids(np.flatnonzero(train.item_counts())))


def _union(first: IdMap, second: IdMap, what: str) -> IdMap:
    if first.ids.dtype != second.ids.dtype and len(first) and len(second):
        raise DataError(
            f"The {what} ids of train are {first.ids.dtype}, those of test {second.ids.dtype}; "
            "read both the same way."
        )
    new = second.ids.filter(pl.Series(first.to_index(second.ids) < 0))
    return IdMap(pl.concat([first.ids.alias("id"), new.alias("id").cast(first.ids.dtype)]))


def _rows_or_empty(data: Interactions, rows: np.ndarray, user_ids: IdMap) -> Interactions:
    """``data.rows(rows)`` where a row of −1 is an empty history."""
    found = np.flatnonzero(rows >= 0)
    lengths = np.zeros(len(rows), dtype=np.int64)
    part = data.rows(rows[found])
    lengths[found] = part.history_lengths
    return replace(part, indptr=np.concatenate([[0], np.cumsum(lengths)]), user_ids=user_ids)


def _timestamps(data: Interactions) -> np.ndarray:
    if data.timestamps is None:
        raise DataError(
            f"{data.name} has no timestamps, which a split by time needs; name the timestamp "
            "column when reading, or split at random."
        )
    return np.asarray(data.timestamps)


def _seconds(moment: int | datetime) -> int:
    if not isinstance(moment, datetime):
        return int(moment)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _check_fraction(name: str, fraction: float, *, zero: bool = False) -> None:
    if not (0 <= fraction < 1 if zero else 0 < fraction < 1):
        low = "[0" if zero else "(0"
        raise ConfigError(f"{name} must lie within {low}, 1), got {fraction}.")


def _generator(rng: Rng) -> np.random.Generator:
    return np.random.default_rng(rng)


def _seed(rng: Rng) -> int | None:
    return None if isinstance(rng, np.random.Generator) else int(rng)
