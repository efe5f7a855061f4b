"""README's Python example and its command lines run as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.data.synthetic import SyntheticConfig, synthetic

README = Path(__file__).parents[1] / "README.md"


def block(language: str) -> str:
    """The block of this language that README marks as executed."""
    marked = re.search(
        rf"<!-- executed by tests/test_readme.py -->\n```{language}\n(.*?)```",
        README.read_text(),
        re.DOTALL,
    )
    assert marked is not None
    return marked[1]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``ratings.csv`` in a working folder, small but with enough users to hold out 300 + 300."""
    config = SyntheticConfig(
        n_users=1000, n_items=120, n_communities=4, n_niches=5, mean_history=15
    )
    path = tmp_path / "ratings.csv"
    synthetic(config, 0).interactions.to_frame().write_csv(path)
    monkeypatch.chdir(tmp_path)
    return path


def test_the_python_example(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), str(README), "exec"), {})
    printed = capsys.readouterr().out
    assert 0 < float(printed.splitlines()[0]) < 1
    assert "item_id" in printed
    assert (log.parent / "model" / "manifest.json").is_file()


def test_the_command_lines(log: Path) -> None:
    lines = block("console").splitlines()
    assert len(lines) >= 6
    for line in lines:
        _, *arguments = shlex.split(line)
        done = subprocess.run(
            [sys.executable, "-m", "coterie", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout, line
