"""Heads that come too slowly; those that are too long are with the server's process."""

import asyncio
import json

import pytest
import uvicorn

from coterie.serving import head

SECONDS = 0.3
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(4 * SECONDS)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


def talk(monkeypatch, conversation, **settings):
    """Run a server in this loop, and a client's conversation with it."""
    monkeypatch.setattr(head, "SECONDS", SECONDS)

    async def both():
        fixed = {"http": head.BoundedHead, "lifespan": "off", "port": 0, "log_config": None}
        config = uvicorn.Config(app, **fixed, **settings)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
        found = await asyncio.wait_for(conversation(reader, writer), 20)
        writer.close()
        server.should_exit = True
        await task
        return found

    return asyncio.run(both())


@pytest.mark.parametrize("before", [b"", WHOLE], ids=["first", "after another"])
def test_a_head_that_drips_is_408_and_the_connection_ends(before, monkeypatch):
    async def drip(reader, writer):
        if before:
            writer.write(before)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(WHOLE[:-2])
        answer = asyncio.ensure_future(reader.read())
        while not answer.done():  # each byte comes in time, the head does not
            writer.write(b"X")
            await asyncio.sleep(SECONDS / 10)
        return await answer

    first, _, body = talk(monkeypatch, drip).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 408 ")
    assert "over 0.3 s" in json.loads(body)["detail"]


def test_an_answer_under_way_is_not_cut_off_by_the_next_head(monkeypatch):
    async def pipelined(reader, writer):
        writer.write(WHOLE.replace(b"/ ", b"/slow ") + WHOLE[:-2])
        first = await reader.readuntil(b"\r\n\r\n")
        return first, await reader.read()

    first, second = talk(monkeypatch, pipelined)
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(("keep_alive", "closed"), [(1, True), (20, False)])
def test_a_connection_that_says_nothing_ends_with_keep_alive_only(keep_alive, closed, monkeypatch):
    async def say_nothing(reader, writer):
        await asyncio.sleep(4 * SECONDS)
        return reader.at_eof()

    assert talk(monkeypatch, say_nothing, timeout_keep_alive=keep_alive) is closed


def test_slow_answers_and_pauses_between_requests_are_none_of_its_business(monkeypatch):
    async def patient(reader, writer):
        for request in (WHOLE.replace(b"/ ", b"/slow "), WHOLE, WHOLE):
            writer.write(request)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(2 * SECONDS)
        return reader.at_eof()

    assert talk(monkeypatch, patient) is False
