"""One JSON object per line on standard error."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

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
        return json.dumps(facts, default=str, ensure_ascii=False)


def set_up() -> None:
    """Send what coterie's server and uvicorn say to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, level in (("coterie.serving", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
