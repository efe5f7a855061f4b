"""Which processor to use, and whether it multiplies bf16.

PyTorch is imported where it is asked: that takes seconds, and a server need not.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coterie.errors import ConfigError

if TYPE_CHECKING:
    import torch

_CORES = Path("/sys/devices/system/cpu")
_ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA's, AMD's, those of WSL 2


def pick_device(name: str) -> "torch.device":
    """The device called ``cpu``, ``cuda`` or ``mps``; for ``auto`` the fastest that is there.

    Raises
    ------
    ConfigError
        The device is not available; the message lists those that are.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(known for known, there in available.items() if there))
    if not available.get(name):
        there = ", ".join(known for known, ok in available.items() if ok)
        raise ConfigError(f"Device {name!r} is not available here; available: {there}.")
    return torch.device(name)


def has_bf16_units(device: "torch.device") -> bool:
    """Whether bf16 products run on units of their own (elsewhere they are emulated, and slow)."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def may_have_accelerator() -> bool:
    """Whether :func:`pick_device` could find more than the CPU; the system tells without PyTorch.

    On Linux a driver has a device file; elsewhere it is always possible.
    """
    return sys.platform != "linux" or any(map(os.path.exists, _ACCELERATORS))


def n_cores() -> int:
    """Cores that this process may use; hardware threads where the system does not tell cores."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
    try:
        of_each = (_CORES / f"cpu{cpu}/topology/thread_siblings_list" for cpu in usable)
        return len({file.read_text() for file in of_each})
    except OSError:
        return len(usable)
