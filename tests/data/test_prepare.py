"""Filters against a plain-Python oracle; memory and order do not change the result."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.data import rows as rows_module
from coterie.data.interactions import Interactions
from coterie.data.prepare import PrepareOptions
from coterie.data.readers import read_interactions
from coterie.errors import ConfigError, DataError

Row = tuple[int, int, float, int]
SCHEMA = {"user_id": pl.Int64, "item_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}

rows = st.lists(
    st.tuples(
        st.integers(0, 6), st.integers(0, 6), st.sampled_from([1.0, 3.0, 4.0, 5.0]),
        st.integers(0, 5),
    ),
    max_size=60,
)  # fmt: skip
options = st.builds(
    PrepareOptions,
    positive_threshold=st.sampled_from([None, 3.0, 4.0]),
    min_user_items=st.integers(0, 3),
    min_item_users=st.integers(0, 3),
    since=st.sampled_from([None, 1, 2]),
    until=st.sampled_from([None, 4, 5]),
)


def oracle(log: list[Row], options: PrepareOptions) -> list[Row]:
    """The documented order of the filters, one row at a time."""
    log = [r for r in log if options.since is None or r[3] >= options.since]
    log = [r for r in log if options.until is None or r[3] < options.until]
    last: dict[tuple[int, int], Row] = {}
    for row in log:
        if row[:2] not in last or row[3] >= last[row[:2]][3]:
            last[row[:2]] = row
    threshold = options.positive_threshold
    kept = [r for r in last.values() if threshold is None or r[2] >= threshold]
    while True:
        items, users = Counter(r[0] for r in kept), Counter(r[1] for r in kept)
        left = [
            r
            for r in kept
            if items[r[0]] >= options.min_user_items and users[r[1]] >= options.min_item_users
        ]
        if len(left) == len(kept):
            return sorted(kept)
        kept = left


def frame_of(log: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(log, schema=SCHEMA, orient="row")


@settings(max_examples=150, deadline=None)
@given(log=rows, options=options)
def test_filters_agree_with_an_oracle(log: list[Row], options: PrepareOptions) -> None:
    expected = oracle(log, options)
    if not expected:
        with pytest.raises(DataError, match=r"no rows|Nothing is left"):
            read_interactions(frame_of(log), options=options)
        return
    data = read_interactions(frame_of(log), options=options).check()
    assert sorted(data.to_frame().rows()) == expected
    assert data.user_ids.ids.to_list() == sorted({row[0] for row in expected})
    assert data.item_ids.ids.to_list() == sorted({row[1] for row in expected})
    audit = dict(data.source["filters"])
    assert audit.pop("rows") - sum(audit.values()) == len(expected)


@settings(max_examples=50, deadline=None)
@given(log=rows.filter(bool), data=st.data())
def test_the_order_of_rows_does_not_matter_where_no_time_is_equal(
    log: list[Row], data: st.DataObject
) -> None:
    log = [(*row[:3], place) for place, row in enumerate(log)]
    first = read_interactions(frame_of(log))
    second = read_interactions(frame_of(data.draw(st.permutations(log))))
    assert first.to_frame().equals(second.to_frame())


@settings(max_examples=50, deadline=None)
@given(log=rows.filter(bool))
def test_the_two_ways_to_sort_agree(log: list[Row]) -> None:
    """The packed key and the stable argsort, which serves when the bits do not suffice."""
    packed = read_interactions(frame_of(log))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "KEY_BITS", 0)
        patch.setattr(rows_module, "CHUNK", 3)
        plain = read_interactions(frame_of(log))
    assert packed.to_frame().equals(plain.to_frame())


def test_without_times_and_values_only_the_pairs_are_kept() -> None:
    frame = pl.DataFrame({"user_id": [2, 1, 2, 2], "item_id": [5, 5, 4, 5]})
    data = read_interactions(frame).check()
    assert data.to_frame().rows() == [(1, 5), (2, 4), (2, 5)]
    assert data.values is None
    assert data.timestamps is None


def test_values_and_times_are_dropped_on_request_and_still_used() -> None:
    log = [(1, 1, 5.0, 9), (1, 1, 1.0, 3), (1, 2, 2.0, 3), (2, 2, 4.0, 3)]
    chosen = PrepareOptions(positive_threshold=4, keep_values=False, keep_timestamps=False)
    data = read_interactions(frame_of(log), options=chosen)
    assert data.to_frame().rows() == [(1, 1), (2, 2)]  # the later opinion on (1, 1) is 5


def test_the_last_opinion_counts_not_the_best() -> None:
    log = [(1, 1, 5.0, 1), (1, 1, 2.0, 2), (1, 2, 5.0, 1)]
    data = read_interactions(frame_of(log), options=PrepareOptions(positive_threshold=4))
    assert data.to_frame()["item_id"].to_list() == [2]


def test_without_times_the_last_row_counts() -> None:
    log = pl.DataFrame({"user": [1, 1, 2], "item": [1, 1, 1], "rating": [5.0, 2.0, 4.0]})
    assert read_interactions(log).to_frame()["rating"].to_list() == [2.0, 4.0]
    swapped = read_interactions(log.reverse())
    assert swapped.to_frame()["rating"].to_list() == [5.0, 4.0]


def test_minimum_counts_go_on_until_nothing_falls() -> None:
    """A chain: item 5 has one user, without it user 4 one item, and so on down to the square."""
    chain = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3), (4, 5)]
    log = pl.DataFrame(chain, schema=["user_id", "item_id"], orient="row")
    data = read_interactions(log, options=PrepareOptions(min_user_items=2, min_item_users=2))
    assert data.to_frame().rows() == chain[:4]


def test_duplicates_are_refused_on_request() -> None:
    log = [(1, 1, 5.0, 1), (7, 3, 2.0, 2), (7, 3, 2.0, 2)]
    with pytest.raises(DataError, match=r"1 rows repeat a pair.*user 7 with item 3"):
        read_interactions(frame_of(log), options=PrepareOptions(duplicates="error"))
    unique = read_interactions(frame_of(log[:2]), options=PrepareOptions(duplicates="error"))
    assert unique.nnz == 2


def test_an_empty_result_says_what_each_filter_removed() -> None:
    log = [(1, 1, 5.0, 10), (1, 2, 1.0, 10), (2, 2, 5.0, 10), (3, 3, 5.0, 1)]
    chosen = PrepareOptions(positive_threshold=4, min_user_items=2, since=5)
    with pytest.raises(
        DataError,
        match="4 rows after the filters: 1 rows outside the time window; "
        "1 rows below the positive threshold; 2 rows of users with fewer than 2 items",
    ):
        read_interactions(frame_of(log), options=chosen)


def test_filters_that_need_a_column_say_so() -> None:
    frame = pl.DataFrame({"user_id": [1], "item_id": [1]})
    with pytest.raises(DataError, match="needs ratings"):
        read_interactions(frame, options=PrepareOptions(positive_threshold=4))
    with pytest.raises(DataError, match="needs times"):
        read_interactions(frame, options=PrepareOptions(since=4))


def test_windows_can_be_dates_and_must_not_be_empty() -> None:
    assert PrepareOptions(since="1970-01-02").since == 86_400
    assert PrepareOptions(until="1970-01-01T01:00:00+01:00").until == 0
    with pytest.raises(ConfigError, match="must be before"):
        PrepareOptions.read({"since": 5, "until": 5})
    with pytest.raises(ConfigError, match=r"PrepareOptions\.since.*'soon'"):
        PrepareOptions.read({"since": "soon"})
    with pytest.raises(ConfigError, match="did you mean 'min_user_items'"):
        PrepareOptions.read({"min_users_item": 5})


def test_numeric_times_have_a_unit() -> None:
    frame = pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1_700_000_000_999]})
    data = read_interactions(frame, options=PrepareOptions(timestamp_unit="ms"))
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [1_700_000_000]


def test_real_ratings_give_the_known_counts() -> None:
    """MovieLens 1M: 575 281 ratings of 4 and more; 6 034 users with 5 of them (Liang's filter)."""
    path = Path(__file__).parents[2].parent / "shared/data/ml-1m"
    if not path.is_dir():
        pytest.skip("MovieLens 1M is not on this machine")
    chosen = PrepareOptions(positive_threshold=4, min_user_items=5)
    data = read_interactions(path / "ratings.parquet", options=chosen, items=path / "items.parquet")
    raw = pl.read_parquet(path / "ratings.parquet").filter(pl.col("rating") >= 4)
    kept = raw.filter(pl.len().over("user_id") >= 5)
    assert isinstance(data, Interactions)
    assert (data.nnz, data.n_users) == (len(kept), kept["user_id"].n_unique())
    assert np.array_equal(data.item_ids.ids, kept["item_id"].unique().sort())
    assert data.items is not None
    assert data.items["item_id"].equals(data.item_ids.ids.alias("item_id"))
