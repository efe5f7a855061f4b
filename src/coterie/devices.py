"""Which processor to use, and whether it multiplies bf16."""

import torch

from coterie.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device called ``cpu``, ``cuda`` or ``mps``; for ``auto`` the fastest that is there.

    Raises
    ------
    ConfigError
        The device is not available; the message lists those that are.
    """
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


def has_bf16_units(device: torch.device) -> bool:
    """Whether bf16 products run on units of their own (elsewhere they are emulated, and slow)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
