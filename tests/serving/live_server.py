"""A real server: its own process, its own port, spoken to over loopback."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 60


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running server and the lines that it has logged."""

    process: subprocess.Popen[str]
    port: int
    lines: list[dict[str, Any]] = field(default_factory=list)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own; ``body`` is bytes, or becomes JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, named, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("POST", path, body, headers)

    def recommend(self, **asked: Any) -> Answer:
        return self.post("/v1/recommend", asked)

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(sig)
        return self.process.wait(PATIENCE)

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]


@contextmanager
def serving(model: Path, database: str, *flags: object, **environment: str) -> Iterator[Server]:
    """A server that is ready; it is stopped at the end if it still runs."""
    command = [sys.executable, "-m", "coterie", "serve", str(model), "--port", "0"]
    command += ["--database", database, *map(str, flags)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert process.stderr is not None
    notes: list[str] = []
    try:
        for line in process.stderr:
            if line.startswith("{"):
                break
            notes.append(line)
        else:
            raise AssertionError(f"The server ended: {notes}")
        first = json.loads(line)
        server = Server(process, 0, [first])
        while server.lines[-1]["message"] != "ready":
            server.lines.append(json.loads(process.stderr.readline()))
        server.port = server.lines[-1]["port"]
        reader = threading.Thread(target=_read, args=(process, server.lines), daemon=True)
        reader.start()
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(PATIENCE)
        if "reader" in locals():
            reader.join(PATIENCE)
        process.stderr.close()


def _read(process: subprocess.Popen[str], lines: list[dict[str, Any]]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(json.loads(line) if line.startswith("{") else {"message": line})


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
