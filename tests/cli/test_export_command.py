"""``coterie export``: an ONNX file, or a message."""

import pytest

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow  # PyTorch's exporter takes seconds


def test_a_run_is_exported_and_checked(coterie, workspace, tmp_path):
    out = tmp_path / "new" / "m.onnx"
    ended = coterie("export", workspace.run, "--out", out, "--json")
    assert ended.code == 0
    facts = ended.json()
    assert facts["out"] == str(out)
    assert facts["n_items"] == 60
    assert facts["overlap"] > 0.999
    assert sorted(file.name for file in out.parent.iterdir()) == ["m.items.json", "m.onnx"]
    again = coterie("export", workspace.run, "--out", out)
    assert again.code == 2
    assert "--overwrite" in again.message()
    shown = coterie("export", workspace.run, "--out", out, "--overwrite")
    assert shown.code == 0
    assert "largest difference" in shown.out


def test_mistakes(coterie, workspace, tmp_path):
    for what in (tmp_path / "nowhere", workspace.data):
        ended = coterie("export", what, "--out", tmp_path / "m.onnx")
        assert ended.code == 2
        assert str(what) in ended.message()
    ended = coterie("export", workspace.run, "--out", tmp_path / "m.bin")
    assert (ended.code, ".onnx" in ended.message()) == (2, True)
    assert list(tmp_path.iterdir()) == []
