"""What every request passes first: room, id, key, size, time; and what is noted when it ends."""

import asyncio
import logging
import random
import re
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coterie.serving.keys import Keys
from coterie.serving.lanes import RETRY_SECONDS
from coterie.serving.log import log_request
from coterie.serving.metrics import Metrics
from coterie.serving.page import PATHS
from coterie.serving.problem import body_of, problem
from coterie.serving.settings import ServeConfig

OPEN = frozenset({"/healthz", "/readyz"}) | PATHS  # pages hold no data
ALWAYS = OPEN | {"/metrics"}  # answered under any load
NO_ROOM = body_of("Too many requests are under way; come back later.")
NO_ROOM_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(NO_ROOM)),
    (b"retry-after", b"%d" % RETRY_SECONDS),
    (b"x-content-type-options", b"nosniff"),
]
FOREIGN = "A browser sent this from a page of another site, which may only read."
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
BODY_SECONDS = 10.0
NO_ANSWER = 499  # what proxies note when the client has gone
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
ids = random.Random()  # of requests: they need not be secret, and the system's take a call each
faults = logging.getLogger("coterie.serving.faults")


class Guard:
    """ASGI middleware around the whole application.

    Parameters
    ----------
    app
        What is guarded.
    keys
        Who may ask; health, readiness and the files of the pages are open to all.
    config
        Largest body; whether to log each request, by route, so that no user's id gets into the
        log; and the length of the queues. Of twice as many requests under way, the event loop
        itself is behind, and what comes then is refused before it costs anything.
    metrics
        Told about each request.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, config: ServeConfig, metrics: Metrics) -> None:
        self._app, self._keys, self._metrics = app, keys, metrics
        self._most_bytes, self._access_log = config.most_bytes, config.access_log
        self._most_under_way, self._under_way = 2 * config.queue_size, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._under_way < self._most_under_way or scope["path"] in ALWAYS:
            self._under_way += 1
            try:
                await self._pass(scope, receive, send)
            finally:
                self._under_way -= 1
        else:
            self._metrics.request("refused", _method(scope), 503, 0.0)
            await send({"type": "http.response.start", "status": 503, "headers": NO_ROOM_HEADERS})
            await send({"type": "http.response.body", "body": NO_ROOM})

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else b"%016x" % ids.getrandbits(64)
        scope["request_id"] = request_id.decode()
        added = [(b"x-request-id", request_id), (b"x-content-type-options", b"nosniff")]
        status = NO_ANSWER

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            if scope["method"] == "POST" and headers.get(b"sec-fetch-site") == b"cross-site":
                await problem(scope, 403, FOREIGN)(scope, receive, noted)
            elif scope["path"] in OPEN or self._keys.admit(headers.get(b"authorization")):
                limited = _Limited(receive, self._most_bytes, headers.get(b"content-length"))
                await self._app(scope, limited, noted)
            else:
                refused = problem(scope, 401, "A key is needed: Authorization: Bearer KEY.")
                refused.headers["WWW-Authenticate"] = "Bearer"
                await refused(scope, receive, noted)
        except asyncio.CancelledError:  # the time to stop is over; uvicorn would say 500
            if status == NO_ANSWER:
                await problem(scope, 503, "The server is stopping.")(scope, receive, noted)
        except Exception:
            faults.exception("a fault of the server", extra={"request_id": scope["request_id"]})
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = _method(scope)
        self._metrics.request(route, method, status, seconds)
        if self._access_log:
            facts = {
                "request_id": scope["request_id"],
                "method": method,
                "route": route,
                "status": status,
                "milliseconds": round(1000 * seconds, 2),
            }
            log_request(facts)


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in METHODS else "other"


class _Limited:
    """The body as it comes, until it is too long or too slow."""

    def __init__(self, receive: Receive, most: int, announced: bytes | None) -> None:
        self._receive, self._most = receive, most
        self._got = 0
        self._more = True
        self._due: float | None = None
        if announced is not None and announced.isdigit():
            self._too_long = int(announced[:20]) > most
        else:
            self._too_long = False

    async def __call__(self) -> Message:
        if not self._more:
            return await self._receive()  # how the application learns that the client has gone
        if not self._too_long:
            if self._due is None:
                self._due = asyncio.get_running_loop().time() + BODY_SECONDS
            try:
                async with asyncio.timeout_at(self._due):
                    message = await self._receive()
            except TimeoutError:
                raise HTTPException(408, f"The body took over {BODY_SECONDS:g} s.") from None
            self._got += len(message.get("body", b""))
            self._more = message.get("more_body", False)
            self._too_long = self._got > self._most
        if self._too_long:
            raise HTTPException(413, f"A request may have {self._most:,} bytes.")
        return message
