"""Errors and exit codes, help, completion: what holds for all commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.cli import main
from coterie.cli.app import COMMANDS, app
from coterie.errors import ConfigError, DivergenceError


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples(command, coterie):
    ended = coterie(command, "--help")
    assert ended.code == 0
    assert COMMANDS[command].split(":")[0] in " ".join(ended.out.split())
    assert "Examples:" in ended.out
    assert f"coterie {command}" in ended.out.split("Examples:")[1]


def test_every_command_is_a_module_and_every_module_a_command():
    folder = Path(sys.modules["coterie.cli"].__file__ or "").parent
    shared = {"__init__", "app", "baseline", "contestants", "ids", "options", "output", "paths"}
    shared |= {"progress", "run_folder", "trial", "verdicts"}
    shared |= {"simulate", "simulation_folder"}  # within experiment
    assert {file.stem for file in folder.glob("*.py")} - shared == set(COMMANDS)


def test_help_does_not_import_torch():
    code = (
        "import sys; from coterie.cli import main; "
        "sys.exit(main(['--help']) or 'torch' in sys.modules or 'polars' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "prepare" in ended.stdout


def test_module_is_the_command_line():
    ended = subprocess.run(
        [sys.executable, "-m", "coterie", "info", "nothing-here"], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "coterie: nothing-here does not exist.\n"


def test_version(coterie):
    ended = coterie("--version")
    assert (ended.code, ended.out.strip()) == (0, "0.1.0")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], 'Did you mean "train"'),
        (["train", "x", "--out", "y", "--epoch", "3"], "Did you mean --epochs"),
        (["prepare", "x"], "--out"),
        (["train", "x", "--out", "y", "--epochs", "many"], "many"),
        (["split", "x", "--out", "y", "--protocol", "stong"], "strong"),
    ],
)
def test_wrong_command_line(arguments, expected, coterie):
    ended = coterie(*arguments)
    assert ended.code == 2
    assert expected in ended.message()


def failing_with(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("coterie.cli.app", fail)


def test_users_mistake(coterie, monkeypatch):
    failing_with(ConfigError("Say what."), monkeypatch)
    ended = coterie("info", ".")
    assert (ended.code, ended.message()) == (2, "Say what.")


def test_divergence(coterie, monkeypatch):
    failing_with(DivergenceError("NaN."), monkeypatch)
    assert coterie("info", ".").code == 1


def test_bug_is_one_line_that_says_how_to_see_more(coterie, monkeypatch):
    failing_with(ZeroDivisionError("no\nmore"), monkeypatch)
    ended = coterie("info", ".")
    assert ended.code == 1
    assert len(ended.message().splitlines()) == 1
    assert "ZeroDivisionError: no " in ended.err
    assert "COTERIE_TRACEBACK=1" in ended.err


def test_traceback_on_request(coterie, monkeypatch):
    failing_with(ZeroDivisionError("no"), monkeypatch)
    monkeypatch.setenv("COTERIE_TRACEBACK", "1")
    ended = coterie("info", ".")
    assert ended.code == 1
    assert "Traceback" in ended.err


def test_interrupted(coterie, monkeypatch):
    failing_with(KeyboardInterrupt(), monkeypatch)
    ended = coterie("info", ".")
    assert (ended.code, ended.message()) == (130, "interrupted")


def test_reader_of_the_output_goes_away(tmp_path):
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "coterie", "--help"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert ended.returncode == 1
    assert ended.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_flags(shell):
    script = app.generate_completion(shell=shell)
    assert "recommend" in script
    assert "lambda-a" in script


def test_install_completion(coterie, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert coterie("--install-completion", "--shell", "bash").code == 0
    assert any("lambda-a" in file.read_text() for file in tmp_path.rglob("coterie*"))


def test_main_without_arguments_shows_help(capsys):
    assert main([]) == 0
    assert "coterie prepare" in capsys.readouterr().out
