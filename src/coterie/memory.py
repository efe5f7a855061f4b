"""Keep freed memory with the process, so that each step finds its pages where it left them."""

import torch

_MOST_KEPT = 31 << 20  # bytes; glibc never keeps blocks of more than 32 MiB


def keep_freed_memory() -> None:
    """Let the C library reuse blocks of up to 31 MiB instead of giving them back to the system.

    glibc maps blocks above a threshold anew each time, and every page of a new map costs a fault:
    about a sixth of a training step (measured). Freeing one large block raises that threshold for
    good, which is documented behaviour (mallopt(3), M_MMAP_THRESHOLD). Elsewhere this does nothing.
    """
    torch.empty(_MOST_KEPT, dtype=torch.uint8)
