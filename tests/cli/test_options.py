"""Flags and files out of the settings' models: precedence, names, and errors."""

from typing import Annotated, Literal

import pytest
from cyclopts import App, Parameter
from pydantic import Field

from coterie.cli.options import (
    SECTIONS,
    ConfigFile,
    Section,
    Settings,
    accepts,
    flag_names,
    leaves,
    read_config,
)
from coterie.cli.train import CONTEXT, EXPERIMENT
from coterie.config import Config
from coterie.errors import ConfigError, DataError
from coterie.training.config import Experiment, RunContext


class Weight(Config):
    kind: Literal["flat", "rising"] = "flat"
    end: float = Field(1.0, ge=0, description="The last value.")


class Loss(Config):
    beta: Weight = Field(Weight(kind="rising", end=0.2), description="Of KL.")


class Size(Config):
    widths: tuple[int, ...] = (6, 2)
    patience: Annotated[int, Field(gt=0)] | None = Field(10, description="Epochs.")
    tied: bool = True


class Whole(Config):
    model: Size = Size()
    objective: Loss = Loss()


class Place(Config):
    device: str = "auto"


SECTION = Section(Whole, "Whole", flags={"objective.beta.end": ("--beta.end", "--beta")})


def read(tmp_path, *flags, file="", base=None):
    """The settings that a command with these flags and this file gets."""
    got = []
    app = App(exit_on_error=False, print_error=False, result_action="return_value")

    @app.default
    @accepts(SECTION, Section(Place, "Place", at="run"))
    def command(
        *, settings: Settings, config: ConfigFile = None, other: Annotated[int, Parameter()] = 1
    ) -> None:
        got.extend([settings.read(Whole, base), settings.read(Place), settings.given(Place)])

    path = tmp_path / "c.toml"
    path.write_text(file)
    app([*flags, "--config", str(path)])
    return got


def test_defaults(tmp_path):
    assert read(tmp_path) == [Whole(), Place(), set()]


def test_flag_over_file_over_base_over_default(tmp_path):
    file = "[model]\nwidths = [4]\npatience = 5\n"
    base = {"model": {"widths": (9,), "patience": 9, "tied": False}}
    whole = read(tmp_path, "--patience", "3", file=file, base=base)[0]
    assert whole.model == Size(widths=(4,), patience=3, tied=False)


def test_one_key_of_a_weight_leaves_the_others(tmp_path):
    """β rises by default; another end must not make it flat, as Weight's own default is."""
    for options in ({"file": "[objective.beta]\nend = 0.5"}, {"file": "objective.beta.end = 0.5"}):
        assert read(tmp_path, **options)[0].objective.beta == Weight(kind="rising", end=0.5)
    for flag in ("--beta", "--beta.end"):
        assert read(tmp_path, flag, "0.5")[0].objective.beta == Weight(kind="rising", end=0.5)


def test_flags_of_a_weight_do_not_hide_each_other(tmp_path):
    whole = read(tmp_path, "--beta.kind", "flat", "--beta", "3")[0]
    assert whole.objective.beta == Weight(kind="flat", end=3)


def test_types(tmp_path):
    whole, place, given = read(
        tmp_path, "--widths", "3", "4", "--patience", "none", "--no-tied", "--device", "cpu"
    )
    assert whole.model == Size(widths=(3, 4), patience=None, tied=False)
    assert (place, given) == (Place(device="cpu"), {"device"})


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("[modle]\nwidths = [1]", "'modle'; did you mean 'model'"),
        ("[model]\nwidhts = [1]", "'widhts'; did you mean 'widths'"),
        ("[objective.beta]\nkidn = 'flat'", "'kidn'; did you mean 'kind'"),
        ("[objective.beta]\nend = -1", "objective.beta.end: Input should be greater"),
        ("[objective.beta]\nkind = 'steep'", "got 'steep'"),
        ("model = 3", "model"),
        ("run = 3", "must be a table, got 3"),
        ("[run]\ndevcie = 'cpu'", "'devcie'; did you mean 'device'"),
        ("[model", "is not valid: "),
    ],
)
def test_mistakes_in_the_file(tmp_path, file, expected):
    with pytest.raises(ConfigError, match=expected):
        read(tmp_path, file=file)


def test_all_mistakes_are_named_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "--beta", "-1", "--patience", "0")
    assert len(str(caught.value).splitlines()) == 2


def test_no_file(tmp_path):
    (tmp_path / "nine.toml").touch()
    with pytest.raises(DataError, match=r"none\.toml does not exist; .* holds: nine\.toml"):
        read_config(tmp_path / "none.toml")


def test_json_file(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"model": {"widths": [1]}}')
    assert read_config(path) == {"model": {"widths": [1]}}


def test_train_has_one_flag_for_each_setting():
    names = [
        name
        for section in (EXPERIMENT, CONTEXT)
        for leaf in leaves(section.model)
        for name in flag_names(section, leaf)
    ]
    assert len(names) == len(set(names))
    assert {"--latent-dim", "--epochs", "--keep-probability", "--beta", "--beta.kind"} <= set(names)
    assert set(EXPERIMENT.flags) <= {".".join(leaf.path) for leaf in leaves(Experiment)}


def test_flags_show_the_defaults_of_the_models(coterie):
    shown = " ".join(coterie("train", "--help").out.replace("│", " ").split())
    assert f"[default: {Experiment().objective.beta.end}]" in shown
    assert f"[default: {Experiment().training.learning_rate}]" in shown
    for leaf in (*leaves(Experiment), *leaves(RunContext)):
        assert leaf.description, f"{leaf.path} has no description"


def test_tables_of_the_file_are_those_of_the_commands():
    assert {*EXPERIMENT.tables, *CONTEXT.tables} < set(SECTIONS)


@pytest.mark.parametrize(
    ("command", "table", "read", "expected"),
    [
        ("split", "n_test_users = 7", lambda facts: facts["test"]["users"], 7),
        ("evaluate", "on = 'validation'", lambda facts: facts["on"], "validation"),
        ("recommend", "k = 3", lambda facts: len(facts["items"]), 3),
    ],
)
def test_a_file_is_followed(command, table, read, expected, coterie, workspace, tmp_path):
    words = {
        "split": (workspace.data, "--out", tmp_path / "s"),
        "evaluate": (workspace.run, workspace.split),
        "recommend": (workspace.run, "--history", "1001"),
    }[command]
    (tmp_path / "c.toml").write_text(f"[{command}]\n{table}\n")
    ended = coterie(command, *words, "--config", tmp_path / "c.toml", "--json")
    assert read(ended.json()) == expected


def test_a_flag_wins_over_the_file(coterie, workspace, tmp_path):
    (tmp_path / "c.toml").write_text("[evaluate]\non = 'validation'\nks = [5]\n")
    flags = ("--config", tmp_path / "c.toml", "--ks", 7, "--json")
    facts = coterie("evaluate", workspace.run, workspace.split, *flags).json()
    assert facts["on"] == "validation"
    assert {name.partition("@")[2] for name in facts["metrics"]} == {"7"}
