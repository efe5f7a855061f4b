"""The literature's splits: Liang et al.'s procedure number for number, and published pairs."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from coterie.data.datasets import DataSet
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.parts import HeldOut, Split
from coterie.data.prepare import Progress
from coterie.data.raw import TrainTest
from coterie.data.readers import read_interactions
from coterie.data.splits import LIANG_MINIMUM, given_split
from coterie.errors import DataError

LIANG_SEED = 98765
VALIDATION_FRACTION = 0.1  # of a published train part, to choose the epoch on
MOST_VALIDATED = 5_000  # users of such a part: validating all would take longer than an epoch
PAIR = ("train.parquet", "test.parquet")
RATINGS = "ratings.parquet"


def literature_split(data: DataSet, raw: Path, *, progress: Progress | None = None) -> Split:
    """Read a public data set, filter it and split it as the papers do.

    Parameters
    ----------
    data
        The data set with its protocol; ``dataclasses.replace`` scales it for a trial on less.
    raw
        The archive or folder as published; or the same events as Parquet: ``ratings.parquet``, or
        ``train.parquet`` and ``test.parquet``.

    Raises
    ------
    DataError
        The files are not the data set's, or hold fewer users than the protocol holds out.
    """
    if data.is_pair:
        pair = _read_pair(data, raw, progress)
        split = given_split(
            pair.train, pair.test, validation_fraction=VALIDATION_FRACTION, rng=LIANG_SEED
        )
        return _some_validated(split)
    return liang_split(
        _read(data, raw, progress),
        held_out_users=data.protocol.held_out_users,
        held_out_fraction=1 - data.protocol.fold_in_fraction,
    )


def liang_split(
    data: Interactions, *, held_out_users: int, held_out_fraction: float = 0.2
) -> Split:
    """Split by users as Liang et al.'s published code does, with its seed: the same users.

    Users in the order of their ids are permuted; the last ``held_out_users`` are the test, as many
    before them validation. Of a held-out user's n items (of those seen in training) a random
    ``int(held_out_fraction n)`` are to be predicted if n ≥ 5, else none. The draws are NumPy's
    old generator's with seed 98765, begun anew for the order of users and for each part, so that
    on MovieLens-20M the split is the very one that the published figures are from.

    Source: Liang et al., WWW 2018, section 4.1, and the procedure of their published code.

    Raises
    ------
    DataError
        There are not enough users.
    """
    n_train = data.n_users - 2 * held_out_users
    if n_train < 1:
        raise DataError(
            f"{data.name}: the protocol holds out {held_out_users} + {held_out_users} users, and "
            f"there are {data.n_users}. Is this the whole data set?"
        )
    by_id = np.asarray(data.user_ids.ids.arg_sort())
    users = by_id[np.random.RandomState(LIANG_SEED).permutation(data.n_users)]
    bounds = [n_train, n_train + held_out_users]
    train, validation, test = (np.sort(part) for part in np.split(users, bounds))
    rows = data.rows(train)
    items = IdMap(rows.item_ids.to_ids(np.flatnonzero(rows.item_counts())))
    settings = {
        "procedure": "Liang et al. 2018",
        "seed": LIANG_SEED,
        "held_out_users": held_out_users,
        "held_out_fraction": held_out_fraction,
        "n_items_not_in_train": data.n_items - len(items),
    }
    return Split(
        rows.select_items(items),
        _hold_out(data.rows(validation).select_items(items), held_out_fraction),
        _hold_out(data.rows(test).select_items(items), held_out_fraction),
        "strong-generalization",
        settings,
    )


def _hold_out(users: Interactions, fraction: float) -> HeldOut:
    """Of each user in the order of the ids, some of the items in the order of theirs."""
    generator = np.random.RandomState(LIANG_SEED)
    hidden = np.zeros(users.nnz, dtype=bool)
    # One draw after the other, because each depends on the generator's state after those before.
    for user in np.asarray(users.user_ids.ids.arg_sort()):
        start, stop = users.indptr[user], users.indptr[user + 1]
        n = int(stop - start)
        if n >= LIANG_MINIMUM:
            size = int(fraction * n + 1e-9)  # 1 − 0.8 is a little less than 0.2
            hidden[start + generator.choice(n, size=size, replace=False)] = True
    return HeldOut(users.select(~hidden), users.select(hidden))


def _read(data: DataSet, raw: Path, progress: Progress | None) -> Interactions:
    """Filtered as by Liang et al.: items with too few users first, then users, each once.

    Our own filter goes on to a fixed point. That is the same where only users are filtered, and
    leaves a little less of the Taste Profile, where both are.
    """
    source = raw / RATINGS if (raw / RATINGS).is_file() else raw
    once = data.options.model_copy(update={"min_user_items": 1})
    read = read_interactions(source, options=once, name=data.name, progress=progress)
    return read.rows(np.flatnonzero(read.history_lengths >= data.options.min_user_items))


def _read_pair(data: DataSet, raw: Path, progress: Progress | None) -> TrainTest:
    files = [raw / name for name in PAIR]
    if not all(file.is_file() for file in files):
        return data.read_pair(raw, progress=progress)
    train, test = (
        read_interactions(file, options=data.options, name=data.name, progress=progress)
        for file in files
    )
    return TrainTest(train, test)


def _some_validated(split: Split) -> Split:
    """The same split with at most ``MOST_VALIDATED`` users to choose the epoch on."""
    held = split.validation
    users = np.random.default_rng(LIANG_SEED).permutation(held.n_users)[:MOST_VALIDATED]
    some = np.sort(users)
    return replace(split, validation=HeldOut(held.fold_in.rows(some), held.held_out.rows(some)))
