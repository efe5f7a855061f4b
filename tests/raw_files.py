"""The five data sets in their publishers' formats, small, with a taste that can be learned."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from coterie.data.datasets import DataSet, dataset

USERS, ITEMS, TASTES = 240, 60, 4
HELD_OUT = 30


def small(name: str) -> DataSet:
    """The data set with its protocol scaled to the small files."""
    whole = dataset(name)
    if whole.is_pair:
        return whole
    options = whole.options
    if name == "msd":
        options = options.model_copy(update={"min_user_items": 8, "min_item_users": 12})
    protocol = replace(whole.protocol, held_out_users=HELD_OUT)
    return replace(whole, options=options, protocol=protocol)


def events() -> pd.DataFrame:
    """Columns user, item, rating (1 … 5), time; most of a user's items are of one taste."""
    generator = np.random.default_rng(5)
    rows = []
    for user in range(1, USERS + 1):
        own = np.arange(ITEMS) % TASTES == user % TASTES
        weight = np.where(own, 8.0, 1.0) / (2 + np.arange(ITEMS) // TASTES)
        n = int(generator.integers(6, 26))
        chosen = np.sort(generator.choice(ITEMS, n, replace=False, p=weight / weight.sum()))
        for item in chosen:
            liked = 4 if own[item] else 2
            rating = int(min(5, liked + generator.integers(0, 2)))
            rows.append((user, int(item) + 1, rating, 10**9 + int(generator.integers(10**8))))
    return pd.DataFrame(rows, columns=["user", "item", "rating", "time"])


def write_raw(name: str, folder: Path) -> tuple[Path, pd.DataFrame]:
    """Write the raw files of a data set; where they are, and what they hold (with its ids)."""
    return RAW[name](folder, events())


def _ml_20m(folder: Path, frame: pd.DataFrame) -> tuple[Path, pd.DataFrame]:
    named = frame.set_axis(["userId", "movieId", "rating", "timestamp"], axis=1)
    named = named.assign(rating=named["rating"].astype(float))
    with zipfile.ZipFile(folder / "ml-20m.zip", "w") as archive:
        archive.writestr("ml-20m/ratings.csv", named.to_csv(index=False))
        titles = "".join(f"{item},Film {item} (2000),Drama\n" for item in range(1, ITEMS + 1))
        archive.writestr("ml-20m/movies.csv", "movieId,title,genres\n" + titles)
    return folder / "ml-20m.zip", frame


def _ml_1m(folder: Path, frame: pd.DataFrame) -> tuple[Path, pd.DataFrame]:
    rows = frame.itertuples(index=False, name=None)
    (folder / "ml-1m").mkdir()
    lines = "".join("::".join(map(str, row)) + "\n" for row in rows)
    (folder / "ml-1m" / "ratings.dat").write_text(lines)
    return folder / "ml-1m", frame


def _netflix(folder: Path, frame: pd.DataFrame) -> tuple[Path, pd.DataFrame]:
    target = folder / "netflix" / "training_set"
    target.mkdir(parents=True)
    for movie, rows in frame.groupby("item"):
        lines = "".join(f"{row.user},{row.rating},2005-01-01\n" for row in rows.itertuples())
        (target / f"mv_{movie:07d}.txt").write_text(f"{movie}:\n{lines}")
    return folder / "netflix", frame


def _msd(folder: Path, frame: pd.DataFrame) -> tuple[Path, pd.DataFrame]:
    frame = frame.assign(
        user=[f"{user:040x}" for user in frame["user"]],
        item=[f"SO{item:016d}" for item in frame["item"]],
    )
    lines = "".join(f"{row.user}\t{row.item}\t{row.rating}\n" for row in frame.itertuples())
    with zipfile.ZipFile(folder / "train_triplets.txt.zip", "w") as archive:
        archive.writestr("train_triplets.txt", lines)
    return folder / "train_triplets.txt.zip", frame


def _gowalla(folder: Path, frame: pd.DataFrame) -> tuple[Path, pd.DataFrame]:
    frame = frame.assign(is_test=frame.groupby("user").cumcount() % 5 == 4)
    (folder / "gowalla").mkdir()
    for name, part in (("train", False), ("test", True)):
        rows = frame[frame["is_test"] == part].groupby("user")["item"]
        lines = "".join(f"{user} {' '.join(map(str, items))}\n" for user, items in rows)
        (folder / "gowalla" / f"{name}.txt").write_text(lines)
    return folder / "gowalla", frame


RAW: dict[str, Callable[[Path, pd.DataFrame], tuple[Path, pd.DataFrame]]] = {
    "ml-20m": _ml_20m,
    "netflix": _netflix,
    "msd": _msd,
    "ml-1m": _ml_1m,
    "gowalla": _gowalla,
}
