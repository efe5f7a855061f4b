"""One JSON object per line on standard error, many lines at a time."""

import asyncio
import logging
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "taskName"}


class JsonLines(logging.Formatter):
    """Time, level, message, and whatever else the record was given."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; text from outside cannot begin a line of its own."""
        facts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        facts.update((key, value) for key, value in vars(record).items() if key not in PLAIN)
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return to_json(facts, fallback=str).decode()


class Gathering(logging.StreamHandler[Any]):
    """Writes what the event loop logs every tenth of a second; warnings and other threads at once.

    Each write lets another thread take the interpreter, and the loop wait to get it back.
    """

    SECONDS = 0.1

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's line, or write all that are kept and this one."""
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or record.levelno >= logging.WARNING:
            self.flush()
        elif len(self._lines) == 1:
            loop.call_later(self.SECONDS, self.flush)

    def flush(self) -> None:
        """Write the kept lines."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            self.stream.write("".join(lines))
            super().flush()


def set_up() -> None:
    """Send what coterie's server and uvicorn say to standard error."""
    handler = Gathering()
    handler.setFormatter(JsonLines())
    for name, level in (("coterie.serving", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
