"""``coterie download``: the list, the file, and the commands to go on with."""

import pytest

from coterie.cli.download import next_steps
from coterie.data.datasets import DATASETS, DataSet


def test_list(coterie):
    assert coterie("download", "--json").json()["datasets"].keys() == DATASETS.keys()
    assert "MovieLens 20M" in coterie("download").out


def test_file(coterie, tmp_path, monkeypatch):
    path = tmp_path / "ml-1m" / "ml-1m.zip"
    monkeypatch.setattr(DataSet, "fetch", lambda *_, **__: path)
    facts = coterie("download", "ml-1m", "--to", tmp_path, "--json").json()
    assert facts["path"] == str(path)
    assert "--dataset ml-1m" in coterie("download", "ml-1m").out


def test_unknown(coterie):
    ended = coterie("download", "ml-3m")
    assert ended.code == 2
    assert "ml-1m" in ended.message()


@pytest.mark.parametrize("name", DATASETS)
def test_next_steps_are_commands_that_parse(name, tmp_path):
    from coterie.cli.app import app

    for step in next_steps(DATASETS[name], tmp_path):
        app.parse_args(step.split()[1:])
