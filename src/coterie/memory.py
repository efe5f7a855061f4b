"""How much memory there is, how much to use at once, and keeping what was freed."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import numpy as np

from coterie.errors import ConfigError

_MOST_KEPT = 31 << 20  # bytes; glibc never keeps blocks of more than 32 MiB
_SCORES_AT_ONCE = 1 << 24  # of float32: 64 MiB
_MOST_ROWS_AT_ONCE = 1024
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def keep_freed_memory() -> None:
    """Let the C library reuse blocks of up to 31 MiB instead of giving them back to the system.

    glibc maps blocks above a threshold anew each time, and every page of a new map costs a fault:
    about a sixth of a training step (measured). Freeing one large block raises that threshold for
    good, which is documented behaviour (mallopt(3), M_MMAP_THRESHOLD). Elsewhere this does nothing.
    """
    np.empty(_MOST_KEPT, dtype=np.uint8)


def give_back_freed_memory() -> None:
    """Return to the system what the C library keeps of freed blocks, after something large.

    ``malloc_trim`` is glibc's; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def freeze_garbage() -> None:
    """Collect garbage, and look at what is left never again.

    Else each full collection looks at a million objects of libraries (measured).
    """
    gc.collect()
    gc.freeze()


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


def rows_at_once(n_items: int, asked: int | None = None) -> int:
    """Rows of scores ``[B, I]`` to hold at once: what is asked for, or 64 MiB of them.

    Raises
    ------
    ConfigError
        Less than one is asked for.
    """
    if asked is None:
        return max(1, min(_MOST_ROWS_AT_ONCE, _SCORES_AT_ONCE // max(n_items, 1)))
    if asked < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {asked}.")
    return asked


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
