"""A client of the server that comes back when it is told to, with the same events."""

import asyncio
import time
from types import TracebackType
from typing import Any, Self

import httpx2
from pydantic_core import from_json, to_json

from coterie.errors import ConfigError, ServerError

TIMEOUT = 30.0
AWAY_SECONDS = 5.0  # that a server may not answer, as while it is restarted
BUSY_SECONDS = 120.0  # that a server may say 503
PAUSE, LONGEST_PAUSE = 1.0, 10.0


class Client:
    """Speaks JSON with one server over kept connections.

    Parameters
    ----------
    url
        Its address, ``http://HOST:PORT``.
    key
        For a server that wants one.
    connections
        At most.

    Raises
    ------
    ConfigError
        The URL is none.
    """

    def __init__(self, url: str, *, key: str | None, connections: int) -> None:
        self.url, self._key = address(url), key
        self.retries = 0
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_connections=connections),
            timeout=TIMEOUT,
            trust_env=False,  # a proxy for the world is none for the server beside us
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str) -> Any:
        """The answer, as JSON; errors as for :meth:`post`."""
        return await self._ask("GET", path, b"")

    async def post(self, path: str, body: Any) -> Any:
        """The answer, as JSON. While the server is busy or away, the same body is sent again.

        Raises
        ------
        ServerError
            It refused, or did not answer in time.
        """
        return await self._ask("POST", path, to_json(body))

    async def _ask(self, method: str, path: str, body: bytes) -> Any:
        began = time.monotonic()
        while True:
            answer, why = await self._try(method, path, body)
            if answer is not None and answer.status_code == 200:
                return self._json(answer)
            if answer is not None and answer.status_code != 503:
                raise ServerError(f"{self._refusal(answer)} ({method} {path})")
            if time.monotonic() - began > (AWAY_SECONDS if answer is None else BUSY_SECONDS):
                raise ServerError(f"The server at {self.url} {why}.")
            self.retries += 1
            await asyncio.sleep(_pause(answer))

    async def _try(self, method: str, path: str, body: bytes) -> tuple[httpx2.Response | None, str]:
        """An answer if there is one, and what is the matter if there is none, or a 503."""
        try:
            answer = await self._http.request(method, self.url + path, content=body)
        except httpx2.TransportError as error:
            return None, f"does not answer: {str(error) or type(error).__name__}"
        return answer, f"is overloaded: {_detail(answer)}"

    def _json(self, answer: httpx2.Response) -> Any:
        try:
            return from_json(answer.content)
        except ValueError as error:
            raise ServerError(f"{self.url} is no server of coterie: no JSON came.") from error

    def _refusal(self, answer: httpx2.Response) -> str:
        if answer.status_code == 401:
            which = "the first key in COTERIE_API_KEYS" if self._key else "requests without a key"
            return (
                f"The server at {self.url} refuses {which}; put one of its keys into "
                "COTERIE_API_KEYS."
            )
        return f"The server at {self.url} answered {answer.status_code}: {_detail(answer)}"


def address(url: str) -> str:
    """The URL of a server, without a slash at its end.

    Raises
    ------
    ConfigError
        It is none.
    """
    try:
        parsed = httpx2.URL(url)
        if parsed.scheme in ("http", "https") and parsed.host:
            return url.rstrip("/")
    except httpx2.InvalidURL:
        pass
    raise ConfigError(f"{url!r} is no URL of a server, such as http://localhost:8080.")


def _pause(answer: httpx2.Response | None) -> float:
    asked = "" if answer is None else answer.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else PAUSE


def _detail(answer: httpx2.Response) -> str:
    try:
        found = from_json(answer.content)
    except ValueError:
        found = None
    detail = found.get("detail") if isinstance(found, dict) else None
    return str(detail or "no reason given")[:500].rstrip(".")
