"""How much memory there is, and keeping what was freed with the process."""

import ctypes
import os
import sys
from pathlib import Path

import torch

from coterie.errors import ConfigError

_MOST_KEPT = 31 << 20  # bytes; glibc never keeps blocks of more than 32 MiB
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def keep_freed_memory() -> None:
    """Let the C library reuse blocks of up to 31 MiB instead of giving them back to the system.

    glibc maps blocks above a threshold anew each time, and every page of a new map costs a fault:
    about a sixth of a training step (measured). Freeing one large block raises that threshold for
    good, which is documented behaviour (mallopt(3), M_MMAP_THRESHOLD). Elsewhere this does nothing.
    """
    torch.empty(_MOST_KEPT, dtype=torch.uint8)


def give_back_freed_memory() -> None:
    """Return to the system what the C library keeps of freed blocks, after something large.

    ``malloc_trim`` is glibc's; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def available_bytes() -> int | None:
    """Memory that may still be taken; all there is where that is unknown, None where that is too.

    On Linux what the kernel calls available, or what is left of the control group's limit.
    """
    try:
        rows = (line.split() for line in _MEMINFO.read_text().splitlines())
        free = next(int(row[1]) << 10 for row in rows if row[0] == "MemAvailable:")
    except (OSError, StopIteration, ValueError, IndexError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None
    try:
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        rows = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        cached = next(int(row[1]) for row in rows if row[0] == "inactive_file")  # given back
    except (OSError, StopIteration, ValueError, IndexError):  # no limit, or other control groups
        return free
    return min(free, limit - used + cached)


def require_bytes(needed: int, what: str, instead: str) -> None:
    """Raise :class:`ConfigError` unless ``needed`` bytes are available.

    ``what`` says what takes them, ``instead`` what to do.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise ConfigError(
            f"{what} takes {_gib(needed)}, and {_gib(available)} of memory are free. {instead}"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
