"""Lines of the log: gathered while the event loop works, none lost, one object each."""

import asyncio
import io
import json
import logging
import sys

import pytest

from coterie.serving import log as server_log
from coterie.serving.log import Gathering, JsonLines, log_request


@pytest.fixture
def log():
    handler = Gathering()
    handler.setStream(io.StringIO())
    handler.setFormatter(JsonLines())
    logger = logging.Logger("test", logging.INFO)
    logger.addHandler(handler)
    logger.lines = lambda: [json.loads(line) for line in handler.stream.getvalue().splitlines()]
    yield logger
    handler.close()


def test_the_loop_writes_many_lines_at_a_time(log):
    async def work():
        for at in range(3):
            log.info("request", extra={"at": at})
        assert log.lines() == []
        await asyncio.sleep(2 * Gathering.SECONDS)
        assert [line["at"] for line in log.lines()] == [0, 1, 2]
        log.info("more\nlines")
        await asyncio.sleep(2 * Gathering.SECONDS)
        assert log.lines()[3]["message"] == "more\nlines"

    asyncio.run(work())


def test_a_warning_is_written_at_once_after_what_came_before_it(log):
    async def work():
        log.info("first")
        log.warning("second")
        assert [line["message"] for line in log.lines()] == ["first", "second"]

    asyncio.run(work())


def test_without_a_loop_and_at_the_end_nothing_waits(log):
    log.info("now")
    assert [line["message"] for line in log.lines()] == ["now"]

    async def ends_early():
        log.info("last")

    asyncio.run(ends_early())
    log.handlers[0].flush()  # as logging.shutdown does
    assert [line["message"] for line in log.lines()] == ["now", "last"]


@pytest.mark.parametrize("ours", [True, False])
def test_a_request_has_the_line_that_the_logging_module_would_give(log, monkeypatch, ours):
    facts = {"request_id": "a\nb", "route": "/v1/recommend", "status": 200, "milliseconds": 1.25}
    monkeypatch.setattr(server_log, "_log", log)
    if ours:
        monkeypatch.setattr(server_log, "_handler", log.handlers[0])
    log_request(facts)
    log.info("request", extra=facts)
    one, other = log.lines()
    assert one.pop("time")[:19] <= other.pop("time")[:19]
    assert list(one.items()) == list(other.items())
    assert one == {"level": "info", "message": "request", **facts}


def test_each_server_has_a_log_of_its_own(monkeypatch):
    """Also where the last one's stream is closed by now."""
    loggers = [logging.getLogger(name) for name in ("coterie.serving", "uvicorn")]
    before = [(one.handlers, one.propagate, one.level) for one in loggers]
    try:
        for _ in range(2):
            monkeypatch.setattr("sys.stderr", io.StringIO())
            server_log.set_up()
            log_request({"status": 200})
            (line,) = sys.stderr.getvalue().splitlines()
            assert json.loads(line)["status"] == 200
            sys.stderr.close()
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def test_lines_kept_by_a_loop_that_ended_are_written_by_the_next(log):
    async def ends_early():
        log.info("first")

    async def goes_on():
        log.info("second")
        await asyncio.sleep(2 * Gathering.SECONDS)

    asyncio.run(ends_early())
    assert log.lines() == []
    asyncio.run(goes_on())
    assert [line["message"] for line in log.lines()] == ["first", "second"]
