"""The literature's splits against an independent account of Liang et al.'s procedure."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coterie.data.datasets import dataset
from coterie.data.interactions import Interactions
from coterie.errors import DataError
from coterie.reproduce import protocol
from coterie.reproduce.protocol import LIANG_SEED, liang_split, literature_split
from raw_files import RAW, small, write_raw

GIVEN = Path("/work/shared/data")


def pairs(data: Interactions) -> set[tuple[object, object]]:
    return set(data.to_frame()["user_id", "item_id"].rows())


def by_hand(frame: pd.DataFrame, held_out_users: int) -> dict[str, set[tuple[object, object]]]:
    """The procedure in data frames: from the raw rows above the threshold to five sets of pairs."""
    users = np.array(sorted(frame["user"].unique()))
    np.random.seed(LIANG_SEED)
    users = users[np.random.permutation(len(users))]
    n = len(users) - 2 * held_out_users
    parts = {
        "train": users[:n],
        "validation": users[n : n + held_out_users],
        "test": users[n + held_out_users :],
    }
    chosen = {name: frame[frame["user"].isin(who)] for name, who in parts.items()}
    seen = set(chosen["train"]["item"])
    found = {"train": set(chosen["train"].itertuples(index=False, name=None))}
    for name in ("validation", "test"):
        known = chosen[name][chosen[name]["item"].isin(seen)]
        np.random.seed(LIANG_SEED)
        fold_in, hidden = set(), set()
        for _, rows in known.groupby("user"):
            mask = np.zeros(len(rows), dtype=bool)
            if len(rows) >= 5:
                size = int(0.2 * len(rows))
                mask[np.random.choice(len(rows), size=size, replace=False)] = True
            fold_in |= set(rows[~mask].itertuples(index=False, name=None))
            hidden |= set(rows[mask].itertuples(index=False, name=None))
        found |= {f"{name}_fold_in": fold_in, f"{name}_held_out": hidden}
    return found


def test_the_split_is_the_published_procedures(tmp_path: Path) -> None:
    raw, events = write_raw("ml-20m", tmp_path)
    data = small("ml-20m")
    split = literature_split(data, raw)
    positive = events[events["rating"] > 3.5]
    active = positive.groupby("user")["item"].transform("size") >= 5
    expected = by_hand(positive[active][["user", "item"]], data.protocol.held_out_users)
    assert pairs(split.train) == expected["train"]
    for name, part in (("validation", split.validation), ("test", split.test)):
        assert pairs(part.fold_in) == expected[f"{name}_fold_in"]
        assert pairs(part.held_out) == expected[f"{name}_held_out"]
    split.check()


@pytest.mark.parametrize("name", RAW)
def test_every_raw_format_gives_a_split(name: str, tmp_path: Path) -> None:
    raw, events = write_raw(name, tmp_path)
    data = small(name)
    split = literature_split(data, raw).check()
    assert split.train.nnz > 500
    assert split.test.held_out.nnz > 20
    if not data.is_pair:
        assert split.validation.n_users == split.test.n_users == data.protocol.held_out_users
        everyone = split.train.n_users + 2 * data.protocol.held_out_users
        kept = events if name == "msd" else events[events["rating"] >= 4]
        if name == "msd":  # songs first, then users, each filter once
            kept = kept[kept.groupby("item")["user"].transform("size") >= 12]
        assert everyone == (kept.groupby("user").size() >= data.options.min_user_items).sum()


def test_the_given_pair_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST_VALIDATED", 30)
    raw, events = write_raw("gowalla", tmp_path)
    split = literature_split(dataset("gowalla"), raw)
    train, test = (set(map(tuple, part[["user", "item"]].to_numpy().tolist()))
                   for _, part in sorted(events.groupby("is_test")))  # fmt: skip
    assert pairs(split.test.held_out) == test
    assert pairs(split.test.fold_in) == train
    assert split.validation.n_users == 30
    assert pairs(split.validation.held_out) < train - pairs(split.train)


def test_too_few_users_are_told(tmp_path: Path) -> None:
    raw, _ = write_raw("ml-20m", tmp_path)
    with pytest.raises(DataError, match=r"holds out 10000 \+ 10000 users, and there are \d+"):
        literature_split(dataset("ml-20m"), raw)


def test_files_of_something_else(tmp_path: Path) -> None:
    raw, _ = write_raw("ml-1m", tmp_path)
    with pytest.raises(DataError, match=r"train\.txt"):
        literature_split(dataset("gowalla"), raw)


def test_the_share_is_a_fifth_of_each_history() -> None:
    """1 − 0.8 is a little less than 0.2, and ten items must still give two."""
    indptr = np.arange(0, 10 * 61, 10)
    from coterie.data.ids import IdMap

    users, items = (IdMap(pd_ids) for pd_ids in (_ids(60), _ids(10)))
    data = Interactions(indptr, np.tile(np.arange(10, dtype=np.int32), 60), users, items)
    split = liang_split(data, held_out_users=20, held_out_fraction=1 - 0.8)
    assert set(split.test.held_out.history_lengths) == {2}


def _ids(n: int) -> "object":
    import polars as pl

    return pl.Series("id", range(n))


@pytest.mark.skipif(not (GIVEN / "ml-1m").is_dir(), reason="MovieLens-1M is not here")
def test_movielens_1m_has_the_recorded_size() -> None:
    from coterie.reproduce.sizes import SIZES

    split = literature_split(dataset("ml-1m"), GIVEN / "ml-1m")
    users = split.train.n_users + split.validation.n_users + split.test.n_users
    assert users == SIZES["ml-1m"].users
    parts = (split.train, split.validation.fold_in, split.validation.held_out,
             split.test.fold_in, split.test.held_out)  # fmt: skip
    assert split.train.n_items == SIZES["ml-1m"].items
    assert sum(part.nnz for part in parts) == SIZES["ml-1m"].interactions
    assert split.test.n_users == 600


@pytest.mark.skipif(not (GIVEN / "gowalla").is_dir(), reason="Gowalla is not here")
def test_gowalla_has_the_recorded_size() -> None:
    from coterie.reproduce.sizes import SIZES

    split = literature_split(dataset("gowalla"), GIVEN / "gowalla")
    assert split.test.n_users == SIZES["gowalla"].users
    assert split.train.n_items == SIZES["gowalla"].items
    assert split.test.fold_in.nnz + split.test.held_out.nnz == SIZES["gowalla"].interactions


def test_a_scaled_protocol_is_passed_in() -> None:
    whole = dataset("msd")
    scaled = replace(whole, protocol=replace(whole.protocol, held_out_users=5))
    assert scaled.protocol.held_out_users == 5
    assert whole.protocol.held_out_users == 50_000
