"""One JSON object per line on standard error, many lines at a time."""

import asyncio
import logging
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "taskName"}


class JsonLines(logging.Formatter):
    """Time, level, message, and whatever else the record was given."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; text from outside cannot begin a line of its own."""
        facts = {key: value for key, value in vars(record).items() if key not in PLAIN}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json_line(record.created, record.levelname.lower(), record.getMessage(), facts)


def json_line(seconds: float, level: str, message: str, facts: dict[str, Any]) -> str:
    """One line, at a time in seconds since 1970."""
    at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    line = {"time": at, "level": level, "message": message, **facts}
    return to_json(line, fallback=str).decode()


class Gathering(logging.StreamHandler[Any]):
    """Writes what the event loop logs every tenth of a second; warnings and other threads at once.

    Each write lets another thread take the interpreter, and the loop wait to get it back.
    """

    SECONDS = 0.1

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._due: asyncio.AbstractEventLoop | None = None  # who writes the kept lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's line, or write all that are kept and this one."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        self.keep(line, urgent=record.levelno >= logging.WARNING)

    def keep(self, line: str, *, urgent: bool = False) -> None:
        """Keep a line for the next write; where that is now, write it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        with self.lock or nullcontext():
            self._lines.append(line + self.terminator)
            if loop is None or urgent:
                self.flush()
            elif loop is not self._due:  # another may have ended before its time came
                self._due = loop
                loop.call_later(self.SECONDS, self.flush)

    def flush(self) -> None:
        """Write the kept lines."""
        with self.lock or nullcontext():
            lines, self._lines, self._due = self._lines, [], None
            if lines:
                self.stream.write("".join(lines))
                super().flush()


_log = logging.getLogger("coterie.serving")
_handler: Gathering | None = None


def set_up() -> None:
    """Send what coterie's server and uvicorn say to standard error."""
    global _handler  # one process, one log
    _handler = Gathering()
    _handler.setFormatter(JsonLines())
    for logger, level in ((_log, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers, logger.propagate = [_handler], False
        logger.setLevel(level)


def log_request(facts: dict[str, Any]) -> None:
    """Log a request: by :func:`set_up`'s handler at once, past loggers and their levels.

    They take a tenth of a request's time. Where others set up the log, all is theirs.
    """
    if _handler is not None and _handler in _log.handlers:
        _handler.keep(json_line(time.time(), "info", "request", facts))
    else:
        _log.info("request", extra=facts)
