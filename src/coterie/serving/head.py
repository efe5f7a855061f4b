"""Bounds on the head of a request; uvicorn's own protocol reads heads and trailers without any."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coterie.serving.problem import body_of

MOST_BYTES = 64 << 10  # of request line and headers
DETAIL = f"The head of a request may have {MOST_BYTES:,} bytes."
SECONDS = 10.0  # for a whole head


class BoundedHead(HttpToolsProtocol):
    """uvicorn's protocol, which refuses a longer head, or trailer, by 431 and hangs up.

    A head that is not whole in time is refused by 408. A new connection may be silent for as long
    as one between two requests.

    The bytes since the last end of a head or piece of a body are those of a head, or trailer. The
    one number costs a request nothing; it may lack what came in one read with that end.
    """

    _headed = 0
    _since: float | None = None  # when the head began that is not yet whole
    _alarm: asyncio.TimerHandle | None = None  # one per connection, which costs a request nothing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        self._alarm = self.loop.call_later(SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        if self._alarm is not None:
            self._alarm.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head."""
        self._since = self.loop.time()
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._headed += len(data)
        super().data_received(data)
        if self._headed > MOST_BYTES and not self.transport.is_closing():
            self._refuse(431, "Request Header Fields Too Large", DETAIL)

    def on_headers_complete(self) -> None:
        """Begin to answer, unless the head, which came in one read with a body, is too long."""
        if self._headed > MOST_BYTES:
            lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if len(self.url) + lines > MOST_BYTES:
                raise ValueError(DETAIL)  # stops the parser; answered as a bad request is
        self._headed, self._since = 0, None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand it on."""
        self._headed = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or too long a one."""
        if self._headed > MOST_BYTES:
            self._refuse(431, "Request Header Fields Too Large", DETAIL)
        else:
            super().send_400_response(msg)

    def _look(self) -> None:
        """See how long the head has taken, and come again when it may be too long."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._since is None or answering:  # an answer under way is not cut off
            due = SECONDS
        else:
            due = self._since + SECONDS - self.loop.time()
        if due > 0:
            self._alarm = self.loop.call_later(due, self._look)
        else:
            self._refuse(408, "Request Timeout", f"The head took over {SECONDS:g} s.")

    def _refuse(self, status: int, reason: str, detail: str) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else it would be taken for that
            body = body_of(detail)
            self.transport.write(
                b"HTTP/1.1 %d %b\r\nconnection: close\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (status, reason.encode(), len(body), body)
            )
        self.transport.close()
