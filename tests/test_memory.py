"""Freed memory stays with the process, and what is free is known."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from coterie import memory
from coterie.errors import ConfigError
from coterie.memory import available_bytes, require_bytes

SCRIPT = """
import ctypes, sys
import torch
from coterie.memory import keep_freed_memory

class Mallinfo(ctypes.Structure):
    _fields_ = [(f"field_{place}", ctypes.c_size_t) for place in range(10)]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo
if sys.argv[1] == "kept":
    keep_freed_memory()
mapped = mallinfo().field_4
block = torch.empty(20 << 18)
print(mallinfo().field_4 - mapped)
"""
BLOCK = 20 << 20


def newly_mapped(how: str) -> int:
    """Bytes mapped for one block of 20 MiB, in a process of its own."""
    command = [sys.executable, "-c", SCRIPT, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver() < ("glibc", "2.33"), reason="needs glibc's mallinfo2")
def test_large_blocks_come_from_the_heap() -> None:
    assert newly_mapped("as usual") >= BLOCK
    assert newly_mapped("kept") == 0


def fake_system(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, str]) -> None:
    """Let the kernel's files be these."""
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(memory, "_MEMINFO", folder / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", folder)


MEMINFO = "MemTotal:  4000 kB\nMemFree:  100 kB\nMemAvailable:  3000 kB\n"


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({"meminfo": MEMINFO}, 3000 << 10),
        ({"meminfo": MEMINFO, "memory.max": "max\n", "memory.current": "5\n"}, 3000 << 10),
        (
            {
                "meminfo": MEMINFO,
                "memory.max": "1000000\n",
                "memory.current": "700000\n",
                "memory.stat": "anon 1\ninactive_file 50000\n",
            },
            350_000,
        ),
        (
            {
                "meminfo": MEMINFO,
                "memory.max": "9000000\n",
                "memory.current": "0\n",
                "memory.stat": "inactive_file 0\n",
            },
            3000 << 10,
        ),
    ],
)
def test_available_is_what_the_kernel_and_the_control_group_leave(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], available: int
) -> None:
    fake_system(monkeypatch, tmp_path, files)
    assert available_bytes() == available


def test_without_the_kernels_files_it_is_all_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_system(monkeypatch, tmp_path, {})
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_bytes() == 7 * 4096


def test_what_does_not_fit_is_refused_with_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 << 30)
    require_bytes(3 << 30, "a model", "Do without.")
    with pytest.raises(ConfigError) as error:
        require_bytes((3 << 30) + 2**28, "a model", "Do without.")
    expected = "a model takes 3.2 GiB, and 3.0 GiB of memory are free. Do without."
    assert str(error.value) == expected
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    require_bytes(1 << 60, "a model", "Do without.")


GIVE_BACK = """
from pathlib import Path
from coterie.memory import give_back_freed_memory

def resident():
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS"))

blocks = [bytes(2000) for _ in range(50_000)]  # beyond Python's own pools, below mapped blocks
del blocks[:-1]  # the last one keeps the heap from shrinking by itself
kept = resident()
give_back_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_fragments_are_given_back():
    command = [sys.executable, "-c", GIVE_BACK]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(ended.stdout) > 70_000, "KiB of the 100 MB that were freed"
