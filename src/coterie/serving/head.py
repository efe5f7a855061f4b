"""A bound on the head of a request; uvicorn's own protocol reads heads and trailers without one."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coterie.serving.problem import body_of

MOST_BYTES = 64 << 10  # of request line and headers
DETAIL = f"The head of a request may have {MOST_BYTES:,} bytes."


class BoundedHead(HttpToolsProtocol):
    """uvicorn's protocol, which refuses a longer head, or trailer, by 431 and hangs up.

    The bytes since the last end of a head or piece of a body are those of a head, or trailer. The
    one number costs a request nothing; it may lack what came in one read with that end.
    """

    _headed = 0

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._headed += len(data)
        super().data_received(data)
        if self._headed > MOST_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_headers_complete(self) -> None:
        """Begin to answer, unless the head, which came in one read with a body, is too long."""
        if self._headed > MOST_BYTES:
            lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if len(self.url) + lines > MOST_BYTES:
                raise ValueError(DETAIL)  # stops the parser; answered as a bad request is
        self._headed = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand it on."""
        self._headed = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or too long a one."""
        if self._headed > MOST_BYTES:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else it would be taken for that
            body = body_of(DETAIL)
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
        self.transport.close()
