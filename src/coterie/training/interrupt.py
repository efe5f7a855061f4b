"""SIGINT (Ctrl-C) and SIGTERM as requests: work stops where it can go on later."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # of a person, and of what runs programs for people


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block, SIGINT and SIGTERM raise KeyboardInterrupt.

    So does a SIGINT that the process was started to ignore, as scripts' shells start what ends with
    ``&``: whoever sends one to a program that can go on later wants it to stop.
    """
    with _handled_by(signal.default_int_handler):
        yield


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block, the first signal is only noted; a second one raises KeyboardInterrupt.

    Yields a function that says whether one came. If an error ends the block after that, it is
    KeyboardInterrupt, so that whoever handles the error does not go on. Outside the main thread,
    where Python allows no signal handlers, it always says no.
    """
    requested = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    with _handled_by(note):
        try:
            yield requested.is_set
        except Exception as error:
            if requested.is_set():
                raise KeyboardInterrupt from error
            raise


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
