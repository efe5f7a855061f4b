"""A small log, and what the commands make of it, once for all tests of the command line."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from command_line import HERE, SMALL, Ended, Workspace

from coterie.cli import main

Coterie = Callable[..., Ended]


@pytest.fixture
def coterie(capsys: pytest.CaptureFixture[str]) -> Coterie:
    """Run a command through the entry point."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return run


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Made by the commands themselves."""
    folder = tmp_path_factory.mktemp("workspace")
    made = Workspace(*(folder / name for name in ("log.csv", "titles.csv", "data", "split", "run")))
    rng = np.random.default_rng(0)
    users, items = 200, 60
    lengths = rng.integers(6, 20, users)
    pairs = [
        (100 + user, 1000 + int(item), int(rng.integers(1, 6)), int(rng.integers(10**9, 2 * 10**9)))
        for user in range(users)
        for item in rng.choice(items, lengths[user], replace=False, p=_skew(items))
    ]
    names = ["user_id", "item_id", "rating", "timestamp"]
    pl.DataFrame(pairs, schema=names, orient="row").write_csv(made.log)
    titles = {"item_id": range(1000, 1000 + items), "title": [f"Title {i}" for i in range(items)]}
    pl.DataFrame(titles).write_csv(made.titles)
    commands = (
        ("prepare", made.log, "--items", made.titles, "--out", made.data, "--threshold", 2),
        ("split", made.data, "--out", made.split, "--seed", 3),
        ("train", made.split, "--out", made.run, "--epochs", 2, "--lambda-a", 0.5, *SMALL, *HERE),
    )
    for command in commands:
        assert main(list(map(str, command))) == 0
    return made


def _skew(items: int) -> np.ndarray:
    weights = 1.0 / np.arange(1, items + 1)
    return weights / weights.sum()
