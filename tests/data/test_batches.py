from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.data.batches import UserBatch, UserBatches, user_batch
from coterie.data.interactions import Interactions
from coterie.errors import DataError
from histories import batch_of, interactions_of, random_histories

N_ITEMS = 13
HISTORIES = st.lists(
    st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=N_ITEMS), min_size=1, max_size=9
)


def as_scipy(batch: UserBatch) -> sp.csr_array:
    data = np.ones(len(batch.indices))
    arrays = (data, batch.indices.numpy(), batch.indptr.numpy())
    return sp.csr_array(arrays, shape=(batch.n_users, batch.n_items))


@given(HISTORIES)
@settings(max_examples=60, deadline=None)
def test_a_batch_of_histories_is_that_of_the_interactions(histories: list[list[int]]) -> None:
    batch = UserBatch.of([np.array(sorted(of), dtype=np.int32) for of in histories], N_ITEMS)
    expected = batch_of(histories, N_ITEMS)
    for name in ("indptr", "indices", "scale"):
        assert torch.equal(getattr(batch, name), getattr(expected, name))
        assert getattr(batch, name).dtype == getattr(expected, name).dtype
    assert batch.n_items == N_ITEMS


@given(HISTORIES, st.data())
@settings(max_examples=60, deadline=None)
def test_a_batch_is_scipys_row_selection(histories: list[list[int]], data: st.DataObject) -> None:
    interactions = interactions_of(histories, N_ITEMS)
    users = np.array(data.draw(st.lists(st.integers(0, len(histories) - 1), max_size=6)), dtype=int)
    batch = user_batch(interactions, users)
    expected = interactions.to_scipy()[users]
    assert (batch.indptr.dtype, batch.indices.dtype) == (torch.int64, torch.int64)
    assert batch.scale.dtype == torch.float32
    assert batch.n_users == len(users)
    assert batch.n_items == N_ITEMS
    assert np.array_equal(as_scipy(batch).toarray(), expected.toarray())
    assert batch.lengths.tolist() == expected.sum(1).tolist()
    assert batch.rows.tolist() == expected.tocoo().coords[0].tolist()


def test_scale_normalises_each_row() -> None:
    batch = batch_of([[1], [0, 2, 3, 5], []], 6)
    assert batch.scale.tolist() == [1.0, 0.5, 1.0]
    squares = torch.zeros(3).index_add(0, batch.rows, batch.scale[batch.rows] ** 2)
    assert squares.tolist() == [1.0, 1.0, 0.0]


def test_a_memory_mapped_store_gives_the_same_batches(tmp_path: Path) -> None:
    interactions = interactions_of(random_histories(40, 30, seed=1), 30)
    opened = Interactions.open(interactions.save(tmp_path / "data"))
    assert isinstance(opened.indices, np.memmap)
    there, here = UserBatches(opened, 7, 3), UserBatches(interactions, 7, 3)
    for one, other in zip(there.epoch(2), here.epoch(2), strict=True):
        assert torch.equal(one.indptr, other.indptr)
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.scale, other.scale)
        one.indices[:1] = 0  # ours to change: not a view of the read-only map


@given(HISTORIES)
@settings(max_examples=60, deadline=None)
def test_transposed_lists_the_users_of_each_item(histories: list[list[int]]) -> None:
    batch = batch_of(histories, N_ITEMS)
    users_of = [[u for u, row in enumerate(histories) if i in row] for i in range(N_ITEMS)]
    for indptr, users in (batch.transposed(), batch._transposed_by_sorting()):
        assert indptr.diff().tolist() == [len(users) for users in users_of]
        assert users.tolist() == [user for users in users_of for user in users]


@given(HISTORIES, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_select_keeps_what_was_asked_for(histories: list[list[int]], seed: int) -> None:
    batch = batch_of(histories, N_ITEMS)
    keep = torch.from_numpy(np.random.default_rng(seed).random(len(batch.indices)) < 0.5)
    matrix = as_scipy(batch)
    matrix.data = keep.numpy().astype(float)
    kept = batch.select(keep)
    assert np.array_equal(as_scipy(kept).toarray(), matrix.toarray())
    assert torch.equal(kept.scale, batch.scale)


@given(
    HISTORIES,
    st.integers(1, 5),
    st.integers(0, 2**40),
    st.integers(0, 30),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_user_with_a_history_once(
    histories: list[list[int]], batch_size: int, seed: int, epoch: int
) -> None:
    # The user's own number is the first item, so that users can be told apart in a batch.
    marked = [[user, *(20 + i for i in history)] for user, history in enumerate(histories)]
    marked = [row if histories[user] else [] for user, row in enumerate(marked)]
    batches = UserBatches(interactions_of(marked, 40), batch_size, seed)
    found = list(batches.epoch(epoch))
    users = [int(b.indices[start]) for b in found for start in b.indptr[:-1]]
    assert sorted(users) == [user for user, history in enumerate(histories) if history]
    assert len(found) == batches.steps_per_epoch
    assert batches.n_users == len(users)
    assert all(b.n_users == batch_size for b in found[:-1])


def epoch_of(batches: UserBatches, epoch: int, start: int = 0) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches.epoch(epoch, start=start)]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    interactions = interactions_of([[user] for user in range(50)], 50)
    batches = UserBatches(interactions, 8, seed=4)
    first = epoch_of(batches, 0)
    epoch_of(batches, 1)
    np.random.default_rng(0).random(10)
    assert epoch_of(batches, 0) == first
    assert epoch_of(UserBatches(interactions, 8, seed=4), 0) == first
    assert epoch_of(batches, 1) != first
    assert epoch_of(UserBatches(interactions, 8, seed=5), 0) != first
    users = np.concatenate(first)
    assert not np.array_equal(users, np.sort(users)), "shuffled"


@pytest.mark.parametrize("start", [0, 1, 6, 7])
def test_an_epoch_can_start_anywhere(start: int) -> None:
    batches = UserBatches(interactions_of([[user] for user in range(50)], 50), 8, seed=4)
    assert epoch_of(batches, 3, start) == epoch_of(batches, 3)[start:]
    for index in range(start, batches.steps_per_epoch):
        assert batches.batch(3, index).indices.tolist() == epoch_of(batches, 3)[index]


def test_global_randomness_is_left_alone() -> None:
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    epoch_of(UserBatches(interactions_of([[user] for user in range(9)], 9), 2, seed=0), 0)
    assert np.array_equal(np.random.get_state()[1], before)


def test_no_interactions_at_all_make_an_empty_epoch() -> None:
    batches = UserBatches(interactions_of([[], []], 3), 2, seed=0)
    assert (batches.n_users, batches.steps_per_epoch) == (0, 0)
    assert list(batches.epoch(0)) == []


# ---- values and timestamps


def with_extras(histories: list[list[int]], n_items: int) -> Interactions:
    """Each entry's value and timestamp name its user and item."""
    bare = interactions_of(histories, n_items)
    names = bare.user_of_each() * 100 + bare.indices
    return Interactions(
        bare.indptr,
        bare.indices,
        bare.user_ids,
        bare.item_ids,
        names.astype(np.float32),
        10**12 + names,
    )


def test_values_and_timestamps_stay_with_their_entries(tmp_path: Path) -> None:
    data = with_extras(random_histories(9, 30, seed=2), 30)
    opened = Interactions.open(data.save(tmp_path / "data"))
    users = np.array([5, 0, 3, 5])
    for source in (data, opened):
        whole = user_batch(source, users, ("values", "timestamps"))
        keep = torch.arange(len(whole.indices)) % 3 != 1
        for batch in (whole, whole.select(keep), whole.to(torch.device("cpu"))):
            names = torch.from_numpy(users)[batch.rows] * 100 + batch.indices
            assert batch.values is not None
            assert batch.timestamps is not None
            assert (batch.values.dtype, batch.timestamps.dtype) == (torch.float32, torch.int64)
            assert torch.equal(batch.values, names.float())
            assert torch.equal(batch.timestamps, 10**12 + names)
    assert len(whole.select(keep).indices) < len(whole.indices)


def test_batches_have_what_was_asked_for_and_no_more() -> None:
    data = with_extras(random_histories(9, 30, seed=2), 30)
    plain, timed = UserBatches(data, 4, 0), UserBatches(data, 4, 0, ("timestamps",))
    for one, other in zip(plain.epoch(1), timed.epoch(1), strict=True):
        assert (one.values, one.timestamps, other.values) == (None, None, None)
        assert torch.equal(one.indices, other.indices)
        assert other.timestamps is not None
    assert timed.batch(1, 0).timestamps is not None


@pytest.mark.parametrize(("extra", "said"), [("values", "ratings"), ("timestamps", "timestamps")])
def test_data_that_lacks_what_is_asked_for(extra: str, said: str) -> None:
    with pytest.raises(DataError, match=f"'interactions' has no {said}"):
        user_batch(interactions_of([[1]], 2), np.array([0]), (extra,))
