"""What is known of the processor before PyTorch is imported."""

import os
import subprocess
import sys

import pytest

from coterie import devices
from coterie.devices import may_have_accelerator, n_cores


@pytest.mark.parametrize(
    ("platform", "there", "expected"),
    [
        ("linux", [], False),
        ("linux", ["nvidiactl"], True),
        ("linux", ["other"], True),
        ("darwin", [], True),
        ("win32", [], True),
    ],
)
def test_an_accelerator_is_possible_where_a_driver_is(
    platform, there, expected, tmp_path, monkeypatch
):
    files = [tmp_path / name for name in ("nvidiactl", "other")]
    for name in there:
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "_ACCELERATORS", tuple(map(str, files)))
    monkeypatch.setattr(sys, "platform", platform)
    assert may_have_accelerator() == expected


def test_cores_are_counted_once_however_many_threads_they_have(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_CORES", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 4, 5}, raising=False)
    assert n_cores() == 4, "where the system tells no cores"
    for cpu, siblings in ((0, "0,4"), (1, "1,5"), (4, "0,4"), (5, "1,5"), (2, "2,6")):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings)
    assert n_cores() == 2


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert n_cores() == 1


def test_asking_imports_no_pytorch():
    code = (
        "import sys; from coterie.devices import *; n_cores(); may_have_accelerator(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
