"""``coterie split``: a data set to training, validation and test."""

import inspect
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import Field

from coterie.cli.app import new_app
from coterie.cli.options import (
    ConfigFile,
    Json,
    Overwrite,
    Section,
    Settings,
    accepts,
)
from coterie.cli.output import Output, facts_table
from coterie.cli.paths import (
    DATA_FORMAT,
    MODEL_FORMAT,
    SPLIT_FORMAT,
    format_of,
)
from coterie.config import HIGHEST_SEED, Config
from coterie.data import splits
from coterie.data.interactions import Interactions
from coterie.data.liang import is_liang, read_liang_split
from coterie.data.parts import HeldOut, Split
from coterie.data.raw import read_lightgcn
from coterie.data.readers import read_interactions
from coterie.errors import ConfigError, DataError
from coterie.files import free_folder
from coterie.repeats import Splits

EXAMPLES = """\
DATA is a folder of `coterie prepare`, or what it reads (then taken as it is).

Protocols:
  strong         users are held out, and a share of their history is the
                 fold-in (Liang et al. 2018)
  weak           each user's history is divided at random
  leave-one-out  one item per user for the test and one for validation
  temporal       by two points in time: --validation-from, --test-from
  temporal-user  each user's latest items are held out
  given          a published split: the folder of Liang et al., a folder in
                 the LightGCN form (Gowalla), or DATA to train on and --test

Examples:
  coterie split data --out split
  coterie split data --out split --test-users 600 --seed 7
  coterie split data --out split --protocol leave-one-out --by time
  coterie split data --out split --protocol temporal \\
    --validation-from 2024-05-01 --test-from 2024-06-01
  coterie split gowalla --out split --protocol given
"""

SHARE, LARGEST = 10, 10_000  # of the users: one in ten, as many as Liang et al. take of ML-20M


def _default(function: Callable[..., Any], name: str) -> Any:
    """The default of a function's parameter, which is written only there."""
    return inspect.signature(function).parameters[name].default


class Division(Config):
    """How to divide a data set, whatever the seed."""

    protocol: Literal["strong", "weak", "leave-one-out", "temporal", "temporal-user", "given"] = (
        Field("strong", description="How; see below.")
    )
    n_validation_users: int | None = Field(
        None, ge=0, description="strong: users to hold out; else a tenth of all, at most 10,000."
    )
    n_test_users: int | None = Field(
        None, ge=0, description="strong: users to hold out; else a tenth of all, at most 10,000."
    )
    fold_in_fraction: float = Field(
        _default(splits.strong_generalization, "fold_in_fraction"),
        description="strong: share of a held-out user's history that the model sees.",
    )
    validation_fraction: float = Field(
        _default(splits.weak_generalization, "validation_fraction"),
        description="weak, temporal-user, given: share of each history.",
    )
    test_fraction: float = Field(
        _default(splits.weak_generalization, "test_fraction"),
        description="weak, temporal-user: share of each history.",
    )
    by: Literal["random", "time"] = Field(
        _default(splits.leave_one_out, "by"), description="leave-one-out: which items."
    )
    validation_from: int | datetime | None = Field(
        None, description="temporal: Unix time or ISO date (UTC)."
    )
    test_from: int | datetime | None = Field(
        None, description="temporal: Unix time or ISO date (UTC)."
    )


class SplitOptions(Division):
    """How to divide a data set."""

    seed: int = Field(0, ge=0, le=HIGHEST_SEED, description="Determines everything that is drawn.")


MEANT_FOR = {
    "strong": {"n_validation_users", "n_test_users", "fold_in_fraction", "seed"},
    "weak": {"validation_fraction", "test_fraction", "seed"},
    "leave-one-out": {"by", "seed"},
    "temporal": {"validation_from", "test_from", "seed"},
    "temporal-user": {"validation_fraction", "test_fraction", "seed"},
    "given": {"validation_fraction", "seed"},
}
SECTION = Section(
    SplitOptions,
    "Options",
    at="split",
    flags={
        "n_validation_users": ("--n-validation-users", "--validation-users"),
        "n_test_users": ("--n-test-users", "--test-users"),
    },
    types={"validation_from": int | str | None, "test_from": int | str | None},
)
DIVISION = Section(Division, "Split", at="split", flags=SECTION.flags, types=SECTION.types)

app = new_app("split", EXAMPLES)


@app.default
@accepts(SECTION)
def split(
    data: Annotated[Path, Parameter(help="The data set.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")],
    settings: Settings,
    test: Annotated[Path | None, Parameter(help="given: the published test part.")] = None,
    config: ConfigFile = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Divide a data set into training, validation and test."""
    output = Output(as_json=json)
    options = settings.read(SplitOptions)
    _refuse_strange(options, settings.given(SplitOptions), test)
    free_folder(out, overwrite=overwrite)
    with output.stages() as stage:
        stage(f"reading {data}")
        divided = _given(data, test, options) if options.protocol == "given" else None
        divided = divided or divide(_open(data), options)
        stage("writing")
        divided.save(out, overwrite=overwrite)
    facts = split_facts(divided)
    output.result({"split": str(out), **facts}, facts_table(f"split: {out}", facts))


def divide(data: Interactions, options: SplitOptions) -> Split:
    """Split by one of the protocols that need only the data."""
    seed = options.seed
    fractions = {
        "validation_fraction": options.validation_fraction,
        "test_fraction": options.test_fraction,
    }
    if options.protocol == "strong":
        usual = min(data.n_users // SHARE, LARGEST)
        validation, test = options.n_validation_users, options.n_test_users
        return splits.strong_generalization(
            data,
            n_validation_users=usual if validation is None else validation,
            n_test_users=usual if test is None else test,
            fold_in_fraction=options.fold_in_fraction,
            rng=seed,
        )
    if options.protocol == "weak":
        return splits.weak_generalization(data, **fractions, rng=seed)
    if options.protocol == "temporal-user":
        return splits.temporal_per_user(data, **fractions, rng=seed)
    if options.protocol == "leave-one-out":
        return splits.leave_one_out(data, by=options.by, rng=seed)
    if options.validation_from is None or options.test_from is None:
        raise ConfigError("A temporal split needs both --validation-from and --test-from.")
    return splits.temporal(
        data, validation_from=options.validation_from, test_from=options.test_from
    )


def data_of_seeds(data: Path, options: Division, given: set[str]) -> tuple[Splits, bool]:
    """The split of a seed, and whether each seed has its own.

    Parameters
    ----------
    data
        A data set, which each seed divides; or a split, which is the same for all.
    options
        How to divide a data set.
    given
        The options that the user set: none of them is for a split.

    Raises
    ------
    DataError
        Nothing that can be read is there.
    ConfigError
        Options are given for a split, or some that the protocol has no use for.
    """
    if not data.exists():
        raise DataError(f"{data} does not exist; --data is a data set or a split.")
    found = format_of(data)
    if found == MODEL_FORMAT:
        raise DataError(f"{data} is a model; --data is a data set or a split.")
    if found == SPLIT_FORMAT:
        if given:
            raise ConfigError(f"{data} is a split already: {_flags(given)} are for data sets.")
        split = Split.open(data, verify=True)
        return (lambda seed: split), False
    _refuse_strange(options, given)
    if options.protocol == "given":
        raise ConfigError(
            "A published split is the same for all seeds: make it once, with `coterie split "
            "--protocol given`, and pass that folder."
        )
    whole = _open(data)

    @lru_cache(maxsize=1)
    def of_seed(seed: int) -> Split:
        return divide(whole, SplitOptions(**options.model_dump(), seed=seed))

    return of_seed, True


def split_facts(divided: Split) -> dict[str, object]:
    """Sizes of the parts."""

    def part(held_out: HeldOut) -> dict[str, int]:
        return {
            "users": held_out.n_users,
            "fold_in": held_out.fold_in.nnz,
            "held_out": held_out.held_out.nnz,
        }

    train = divided.train
    return {
        "protocol": divided.protocol,
        "items": train.n_items,
        "train": {"users": train.n_users, "interactions": train.nnz},
        "validation": part(divided.validation),
        "test": part(divided.test),
        "settings": divided.settings,
    }


def _open(path: Path) -> Interactions:
    if format_of(path) == DATA_FORMAT:
        return Interactions.open(path, verify=True)
    return read_interactions(path)


def _given(data: Path, test: Path | None, options: SplitOptions) -> Split:
    if test is None and data.is_dir() and is_liang(data):
        return read_liang_split(data)
    if test is not None:
        train, held_out = _open(data), _open(test)
    else:
        pair = read_lightgcn(data)
        train, held_out = pair.train, pair.test
    return splits.given_split(
        train, held_out, validation_fraction=options.validation_fraction, rng=options.seed
    )


def _refuse_strange(options: Division, given: set[str], test: Path | None = None) -> None:
    """A setting that the protocol does not use is a mistake, not something to ignore."""
    strange = sorted(given - {"protocol"} - MEANT_FOR[options.protocol])
    if test is not None and options.protocol != "given":
        strange.append("test")
    if strange:
        raise ConfigError(f"The protocol {options.protocol!r} has no use for {_flags(strange)}.")


def _flags(names: Iterable[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in sorted(names))
