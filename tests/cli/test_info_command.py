"""``coterie info``: says what each thing is."""

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("data", "data set"),
        ("split", "split"),
        ("split/train", "data set"),
        ("run", "run"),
        ("run/model", "model"),
        ("run/best.safetensors", "checkpoint"),
    ],
)
def test_kinds(name, kind, coterie, workspace):
    first, _, rest = name.partition("/")
    path = getattr(workspace, first) / rest
    assert coterie("info", path, "--verify", "--json").json()["kind"] == kind
    ended = coterie("info", path)
    assert ended.code == 0
    assert kind in ended.out


def test_figures(coterie, workspace):
    run = coterie("info", workspace.run, "--json").json()
    assert run["epochs"] == 2
    assert run["training"]["batch_size"] == 50
    assert run["trained_on"]["users"] == 160
    assert run["continue"] is None
    assert coterie("info", workspace.run / "model", "--json").json()["n_items"] > 40


@pytest.mark.parametrize("name", ["log.csv", ""])
def test_other_things(name, coterie, workspace, tmp_path):
    ended = coterie("info", workspace.log if name else tmp_path)
    assert ended.code == 2
    assert "nothing that coterie wrote" in ended.message()


def test_damaged_checkpoint(coterie, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"1234567890")
    ended = coterie("info", tmp_path / "x.safetensors")
    assert ended.code == 2
    assert "not a readable checkpoint" in ended.message()


@pytest.mark.parametrize(
    "rest", [{}, {"progress": "{}", "belongs_to": "[1]"}, {"progress": "{", "belongs_to": "{}"}]
)
def test_checkpoint_with_another_header(rest, coterie, tmp_path):
    header = {"format": "coterie-checkpoint", "version": "1", **rest}
    save_file({"x": np.zeros(3)}, tmp_path / "x.safetensors", header)
    ended = coterie("info", tmp_path / "x.safetensors")
    assert ended.code == 2
    assert "its header is not a checkpoint's" in ended.message()
