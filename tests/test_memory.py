"""Freed memory stays with the process: large blocks come from the heap, not from new maps."""

import platform
import subprocess
import sys

import pytest

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
