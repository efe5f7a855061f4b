"""A server on loopback and clients that load it: what the benchmarks of serving share."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def make_model(n_items: int) -> Any:
    """A Multi-VAE 600-200-600, trained a little on invented data."""
    import coterie
    from coterie.data.ids import IdMap
    from coterie.data.synthetic import SyntheticConfig, synthetic
    from coterie.recommender import Recommender
    from coterie.training.config import Experiment

    shape = SyntheticConfig(n_users=4000, n_items=n_items, mean_history=min(70.0, n_items / 4))
    settings = Experiment.read({"training": {"epochs": 10, "batch_size": 500}})
    data = synthetic(shape, rng=0).interactions
    trained = coterie.train(data, None, settings).recommender
    return Recommender(trained.model, IdMap(range(n_items)), trained.item_counts)


def made_histories(n_items: int, median: int, count: int = 2000) -> list[list[int]]:
    """Histories of log-normal length with the wished median, popular items more often."""
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.lognormal(np.log(median), 0.8, count), 5, n_items // 4)
    popular = (n_items * rng.random((count, 2 * int(lengths.max()))) ** 2).astype(int)
    return [
        list(dict.fromkeys(row.tolist()))[: int(length)]
        for row, length in zip(popular, lengths, strict=True)
    ]


@contextmanager
def running(command: list[str], port: int) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A server, and the seconds that it took to be ready."""
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while not answers(port):
                if process.poll() is not None or time.perf_counter() - began > 120:
                    log.seek(0)
                    raise RuntimeError(f"The server did not start: {log.read()[-2000:]!r}")
                time.sleep(0.02)
            yield process, time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def answers(port: int) -> bool:
    """Whether ``/readyz`` says 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def mib(pid: int) -> float:
    """Resident memory of a process, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    head: bytes
    body: bytes


class Client(asyncio.Protocol):
    """A keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.gone = False
        self._answer: asyncio.Future[Answer] | None = None
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[Answer]":
        """Send a request."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the answer."""
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end or self._answer is None:
            return
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self._got = b""
            self._answer.set_result(Answer(int(head[9:12]), head, body))

    def connection_lost(self, error: Exception | None) -> None:
        """A server that hangs up on a waiting request has not answered: status 0, a fault."""
        self.gone = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(0, b"", repr(error).encode()))


def as_http(method: bytes, path: bytes, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    return (
        b"%b %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (method, path, len(body), body)
    )


@dataclass
class Postgres:
    """A PostgreSQL server of our own, on loopback; it flushes to disk as in production."""

    binaries: Path
    folder: Path
    port: int

    @classmethod
    def at(cls, folder: Path) -> "Postgres | None":
        """One whose files are in ``folder``; None if PostgreSQL is not installed."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if on_path := shutil.which("initdb"):
            found.append(Path(on_path).resolve())
        return cls(found[-1].parent, folder, free_port()) if found else None

    def run(self, name: str, *arguments: str) -> None:
        """One of its programs, as the user that it insists on."""
        who: dict[str, Any] = {}
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            who = {"user": owner.pw_uid, "group": owner.pw_gid}
        command = [str(self.binaries / name), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **who)

    def start(self) -> None:
        """Return when it answers."""
        settings = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        log = str(self.folder / "log")
        data = str(self.folder / "data")
        self.run("pg_ctl", "start", "-w", "-D", data, "-l", log, "-o", settings)

    def stop(self) -> None:
        """Cut all connections and end."""
        self.run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self.folder / "data"))
