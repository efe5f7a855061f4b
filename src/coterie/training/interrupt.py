"""Ctrl-C as a request: the loop finishes its step, writes a checkpoint, then stops."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block, the first SIGINT is only noted; a second one raises KeyboardInterrupt.

    Yields a function that says whether SIGINT came. If an error ends the block after one came, that
    is KeyboardInterrupt, so that whoever handles the error does not go on. Outside the main thread,
    where Python allows no signal handlers, it always says no.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = threading.Event()
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield requested.is_set
    except Exception as error:
        if requested.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
