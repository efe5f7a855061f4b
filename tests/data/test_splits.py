from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.parts import Split
from coterie.data.splits import (
    given_split,
    leave_one_out,
    strong_generalization,
    temporal,
    temporal_per_user,
    weak_generalization,
)
from coterie.errors import ConfigError, DataError

GOWALLA = Path(__file__).parents[3] / "shared" / "data" / "gowalla"


def random_data(
    seed: int = 0, *, n_users: int = 60, n_items: int = 40, longest: int = 15, times: bool = True
) -> Interactions:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, n_users)
    rows = [np.sort(rng.permutation(n_items)[:n]) for n in lengths]
    indices = np.concatenate(rows).astype(np.int32)
    return Interactions(
        np.concatenate([[0], np.cumsum(lengths)]),
        indices,
        IdMap([f"u{u}" for u in range(n_users)]),
        IdMap(np.arange(n_items) * 10),
        values=rng.random(len(indices)).astype(np.float32),
        timestamps=rng.integers(0, 500, len(indices)) if times else None,
        items=pl.DataFrame({"item_id": np.arange(n_items) * 10}),
    ).check()


def pairs(data: Interactions) -> set[tuple[str, int]]:
    return set(data.to_frame().select("user_id", "item_id").iter_rows())


def history(data: Interactions) -> dict[str, set[int]]:
    return {
        user: set(data.item_ids.to_ids(data.row(row)).to_list())
        for row, user in enumerate(data.user_ids.ids)
    }


def same(a: Interactions, b: Interactions) -> bool:
    return a.to_frame().equals(b.to_frame()) and a.user_ids == b.user_ids


def all_parts(split: Split) -> list[Interactions]:
    return list(split._parts().values())


@given(seed=st.integers(0, 10_000), fraction=st.sampled_from([0.5, 0.75, 0.8, 0.9]))
@settings(max_examples=30, deadline=None)
def test_strong_generalization_follows_liang_user_by_user(seed: int, fraction: float) -> None:
    data = random_data(seed)
    split = strong_generalization(
        data, n_validation_users=15, n_test_users=20, fold_in_fraction=fraction, rng=seed
    ).check()
    whole = history(data)
    train = history(split.train)
    groups = [
        set(train),
        set(split.validation.fold_in.user_ids.ids),
        set(split.test.fold_in.user_ids.ids),
    ]
    assert [len(group) for group in groups] == [25, 15, 20]
    assert set().union(*groups) == set(whole), "each user is in exactly one group"
    seen = set().union(*train.values())
    assert set(split.train.item_ids.ids) == seen
    for user, items in train.items():
        assert items == whole[user]
    for part in (split.validation, split.test):
        fold_in, held_out = history(part.fold_in), history(part.held_out)
        for user, known in fold_in.items():
            left = whole[user] & seen
            n_hidden = round((1 - fraction) * len(left) * 1e6) // 10**6 if len(left) >= 5 else 0
            assert known | held_out[user] == left
            assert not known & held_out[user]
            assert len(held_out[user]) == n_hidden


def test_a_fifth_of_five_items_is_one_in_spite_of_binary_fractions() -> None:
    n = 40  # 1 - 0.8 is below 0.2 in binary, so int(0.2 * 5) would be 0 if taken literally
    data = Interactions(
        np.arange(0, 5 * n + 1, 5),
        np.tile(np.arange(5, dtype=np.int32), n),
        IdMap(range(n)),
        IdMap(range(5)),
    )
    split = strong_generalization(data, n_validation_users=1, n_test_users=9, rng=0)
    assert split.test.held_out.history_lengths.tolist() == [1] * 9


def test_the_held_out_items_are_uniform_over_the_history() -> None:
    n = 4000
    data = Interactions(
        np.arange(0, 10 * n + 1, 10),
        np.tile(np.arange(10, dtype=np.int32), n),
        IdMap(range(n)),
        IdMap(range(10)),
    )
    split = strong_generalization(data, n_validation_users=0, n_test_users=n - 1, rng=3)
    counts = split.test.held_out.item_counts()
    # 2 of 10 for each of 3 999 users: binomial with standard deviation sqrt(n p (1 - p)) = 25
    assert np.all(np.abs(counts - 0.2 * (n - 1)) < 5 * 25.3)


def test_ratings_and_timestamps_follow_their_pair_into_each_part() -> None:
    data = random_data(5)
    facts = {row[:2]: row[2:] for row in data.to_frame().iter_rows()}
    splits = [
        strong_generalization(data, n_validation_users=10, n_test_users=10, rng=1),
        weak_generalization(data, rng=1),
        temporal(data, validation_from=200, test_from=350),
    ]
    for split in splits:
        for part in all_parts(split):
            part.check()
            for row in part.to_frame().iter_rows():
                assert facts[row[:2]] == row[2:]


@pytest.mark.parametrize("make", [weak_generalization, temporal_per_user])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_fractions_per_user_cover_the_data_once(make, seed: int) -> None:
    data = random_data(seed)
    split = make(data, validation_fraction=0.1, test_fraction=0.3, rng=seed).check()
    train, validation, test = (
        history(part) for part in (split.train, split.validation.held_out, split.test.held_out)
    )
    for user, items in history(data).items():
        parts = (train[user], validation[user], test[user])
        assert set().union(*parts) == items
        assert sum(map(len, parts)) == len(items)
        assert len(validation[user]) == len(items) // 10
        assert len(test[user]) == 3 * len(items) // 10
    assert same(split.validation.fold_in, split.train)
    assert pairs(split.test.fold_in) == pairs(split.train) | pairs(split.validation.held_out)
    assert split.train.n_items == data.n_items


@pytest.mark.parametrize("unit", [1, 10**9])  # nanoseconds do not fit 32 bits
def test_temporal_per_user_holds_out_the_latest(unit: int) -> None:
    data = random_data(2)
    split = temporal_per_user(replace(data, timestamps=data.timestamps * unit), rng=0)
    order = [split.train, split.validation.held_out, split.test.held_out]
    for user in range(split.train.n_users):
        periods = [
            part.timestamps[part.indptr[user] : part.indptr[user + 1]]
            for part in order
            if part.timestamps is not None
        ]
        periods = [period for period in periods if len(period)]
        for earlier, later in pairwise(periods):
            assert earlier.max() <= later.min()


@pytest.mark.parametrize("by", ["random", "time"])
def test_leave_one_out_takes_one_item_from_users_with_three_or_more(by) -> None:
    data = random_data(4, longest=6)
    split = leave_one_out(data, by=by, rng=7).check()
    expected = (data.history_lengths >= 3).astype(int)
    assert split.test.held_out.history_lengths.tolist() == expected.tolist()
    assert split.validation.held_out.history_lengths.tolist() == expected.tolist()
    assert split.train.nnz == data.nnz - 2 * expected.sum()
    assert same(split.validation.fold_in, split.train)
    if by == "time":
        for user in np.flatnonzero(expected):
            times = data.timestamps[data.indptr[user] : data.indptr[user + 1]]
            assert split.test.held_out.timestamps[expected[:user].sum()] == times.max()
            assert split.validation.held_out.timestamps[expected[:user].sum()] == np.sort(times)[-2]


def test_time_ties_are_broken_at_random_not_by_item() -> None:
    n = 600
    data = Interactions(
        np.arange(0, 4 * n + 1, 4),
        np.tile(np.arange(4, dtype=np.int32), n),
        IdMap(range(n)),
        IdMap(range(4)),
        timestamps=np.zeros(4 * n, dtype=np.int64),
    )
    counts = leave_one_out(data, by="time", rng=0).test.held_out.item_counts()
    assert counts.min() > n / 4 - 60


def test_temporal_never_looks_ahead() -> None:
    data = random_data(8, n_users=80)
    split = temporal(data, validation_from=200, test_from=350).check()
    assert split.train.timestamps.max() < 200
    seen = {item for _, item in pairs(split.train)}
    rows = data.to_frame()
    for part, start, end in ((split.validation, 200, 350), (split.test, 350, 10**9)):
        fold_in, held_out = history(part.fold_in), history(part.held_out)
        assert part.fold_in.timestamps.max() < start
        n_without = 0
        for user in data.user_ids.ids:
            own = rows.filter(pl.col("user_id") == user).select("item_id", "timestamp").rows()
            known = {item for item, time in own if time < start} & seen
            hidden = {item for item, time in own if start <= time < end}
            n_without += bool(hidden) and not known
            assert (user in fold_in) == (bool(hidden) and bool(known))
            if user in fold_in:
                assert fold_in[user] == known
                assert held_out[user] == hidden & seen
        name = "validation" if start == 200 else "test"
        assert split.settings[f"n_{name}_users_without_history"] == n_without


def test_a_given_pair_is_aligned_by_id_and_test_excludes_the_whole_train() -> None:
    train = Interactions(
        np.array([0, 4, 6]),
        np.array([0, 1, 2, 3, 0, 3], dtype=np.int32),
        IdMap(["a", "b"]),
        IdMap(["w", "x", "y", "z"]),
    )
    test = Interactions(  # other order of users and items, one new user, one new item
        np.array([0, 1, 2, 4]),
        np.array([1, 0, 0, 2], dtype=np.int32),
        IdMap(["new", "b", "a"]),
        IdMap(["x", "q", "r"]),
    )
    test = test.select(np.array([True, True, False, True]))
    split = given_split(train, test, validation_fraction=0.5, rng=0).check()
    assert split.train.item_ids.ids.to_list() == ["w", "x", "y", "z", "q", "r"]
    assert history(split.test.fold_in) == {
        "new": set(),
        "b": {"w", "z"},
        "a": {"w", "x", "y", "z"},
    }
    assert history(split.test.held_out) == {"new": {"q"}, "b": {"x"}, "a": {"r"}}
    assert split.validation.held_out.history_lengths.tolist() == [2, 1]
    assert pairs(split.train) | pairs(split.validation.held_out) == pairs(train)


def test_a_given_pair_that_overlaps_or_shares_no_user_is_refused() -> None:
    data = random_data(1)
    with pytest.raises(DataError, match=r"\d+ user-item pairs stand both"):
        given_split(data, data, rng=0)
    other = Interactions(data.indptr, data.indices, IdMap(range(60)), data.item_ids)
    with pytest.raises(DataError, match="No user of the test part"):
        given_split(data, other, rng=0)
    texts = Interactions(
        data.indptr, data.indices, data.user_ids, IdMap([f"i{i}" for i in range(40)])
    )
    with pytest.raises(DataError, match="item ids of train are Int64, those of test String"):
        given_split(data, texts, rng=0)


def test_the_published_gowalla_pair_keeps_its_catalogue() -> None:
    if not GOWALLA.is_dir():
        pytest.skip("the Gowalla split is not beside this repository")

    def read(name: str) -> Interactions:
        frame = pl.read_parquet(GOWALLA / f"{name}.parquet")
        frame = frame.select(
            pl.col(frame.columns[0]).alias("u"), pl.col(frame.columns[1]).alias("i")
        )
        frame = frame.unique().sort("u", "i")
        items = np.unique(frame["i"].to_numpy())
        users, counts = np.unique(frame["u"].to_numpy(), return_counts=True)
        return Interactions(
            np.concatenate([[0], np.cumsum(counts)]),
            np.searchsorted(items, frame["i"].to_numpy()).astype(np.int32),
            IdMap(users),
            IdMap(items),
        )

    train, test = read("train"), read("test")
    split = given_split(train, test, rng=0).check()
    assert (split.test.n_users, split.train.n_items) == (29_858, 40_981)
    assert split.test.fold_in.nnz == train.nnz
    assert split.test.held_out.nnz == test.nnz
    assert split.train.nnz + split.validation.held_out.nnz == train.nnz


@pytest.mark.parametrize(
    ("make", "drawn"),
    [
        (
            lambda data, rng: strong_generalization(
                data, n_validation_users=9, n_test_users=9, rng=rng
            ),
            "test",
        ),
        (lambda data, rng: weak_generalization(data, rng=rng), "test"),
        (lambda data, rng: temporal_per_user(data, rng=rng), "test"),
        (lambda data, rng: leave_one_out(data, rng=rng), "test"),
        (
            lambda data, rng: given_split(
                data.select(np.arange(data.nnz) % 4 > 0),
                data.select(np.arange(data.nnz) % 4 == 0),
                rng=rng,
            ),
            "validation",  # the test part is the published one
        ),
    ],
)
def test_the_same_seed_gives_the_same_split_and_another_seed_another(make, drawn) -> None:
    data = random_data(3)
    data = replace(data, timestamps=data.timestamps // 100)  # with ties for the seed to break
    first, again = make(data, 11), make(data, np.random.default_rng(11))
    assert all(same(a, b) for a, b in zip(all_parts(first), all_parts(again), strict=True))
    other = make(data, 12)
    assert not same(getattr(first, drawn).held_out, getattr(other, drawn).held_out)
    assert first.settings["seed"] == 11
    assert again.settings["seed"] is None


def test_impossible_settings_are_named() -> None:
    data = random_data(0, times=False)
    with pytest.raises(DataError, match="there are 60 users"):
        strong_generalization(data, n_validation_users=30, n_test_users=30, rng=0)
    with pytest.raises(ConfigError, match="n_test_users must be 0 or more"):
        strong_generalization(data, n_validation_users=3, n_test_users=-1, rng=0)
    with pytest.raises(ConfigError, match=r"fold_in_fraction must lie within \(0, 1\)"):
        strong_generalization(
            data, n_validation_users=3, n_test_users=3, fold_in_fraction=1.0, rng=0
        )
    with pytest.raises(ConfigError, match="leave something to train on"):
        weak_generalization(data, validation_fraction=0.5, test_fraction=0.5, rng=0)
    with pytest.raises(ConfigError, match='by must be "random" or "time"'):
        leave_one_out(data, by="date", rng=0)  # type: ignore[arg-type]
    for make in (
        lambda: temporal(data, validation_from=1, test_from=2),
        lambda: temporal_per_user(data, rng=0),
        lambda: leave_one_out(data, by="time", rng=0),
    ):
        with pytest.raises(DataError, match="has no timestamps"):
            make()
    timed = random_data(0)
    with pytest.raises(ConfigError, match="must be later than"):
        temporal(timed, validation_from=2, test_from=2)
    with pytest.raises(DataError, match="Nothing happened in the period 'test'"):
        temporal(timed, validation_from=200, test_from=10_000)
