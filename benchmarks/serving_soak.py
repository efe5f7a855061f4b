"""Whether a server stays right under load while everything around it goes wrong.

    python benchmarks/serving_soak.py --minutes 30 --out soak.json     # for the record
    python benchmarks/serving_soak.py --minutes 0.5 --items 500        # as the tests run it

Requests come at random times at 80 % of the saturation rate, which is measured first, of the same
mix: recommendations by history and by user, events, malformed requests, and clients that hang up
before their answer. Meanwhile a new
version of the model is put in place every minute, and the database is stopped and started again
(PostgreSQL, if it is installed; an SQLite file cannot go away). Acknowledged events are looked for
in the database at the end. The JSON record ends with the bars; a missed one makes the exit code 1.

- No answer of 5xx but 503 with Retry-After; those while the database is there are counted ("shed").
- Malformed requests are refused with 4xx, and nothing else is; every connection can be made.
- Every acknowledged event is in the database, every new version is served.
- Resident memory: the median of the last fifth is within 5 % of that of the second fifth.
- SIGTERM ends the server with exit code 0.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from coterie.files import atomic_folder
from coterie.serving.store import Store
from loopback import (
    Answer,
    Client,
    Postgres,
    as_http,
    free_port,
    made_histories,
    make_model,
    mib,
    running,
)

SHARE = 0.8  # of the saturation rate
GROWTH = 0.05
AWAY_SECONDS = 3.0  # of an outage
KINDS = {"history": 0.78, "user": 0.1, "event": 0.07, "malformed": 0.03, "hang up": 0.02}
MALFORMED = (
    b"", b"{", b"[]", b'{"history": 1}', b'{"history": [1], "k": 0}', b'{"k": 5}',
    b'{"history": [1], "more": 1}', b'{"history": ["\xff"]}', b'{"history": [1], "k": 1e9}',
)  # fmt: skip


def main() -> None:
    """Run, print the record, and say by the exit code whether all bars hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--median", type=int, default=60, help="items of a history")
    parser.add_argument("--reload-seconds", type=float, default=60.0)
    parser.add_argument("--outages", type=int, default=3)
    parser.add_argument("--rate", type=float, help="requests per second; else it is measured")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ending what was started
    args.k, args.seconds = 20, 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder, database(Path(folder)) as (url, postgres):
        record = soak(args, Path(folder), url, postgres)
    print(json.dumps(record, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=2) + "\n")
    if missed := [name for name, held in record["bars"].items() if not held]:
        raise SystemExit(f"missed: {', '.join(missed)}")


def soak(
    args: argparse.Namespace, folder: Path, url: str, postgres: "Postgres | None"
) -> dict[str, Any]:
    """All of it."""
    first = make_model(args.items)
    versions = [first.save(folder / "one")]
    first.metadata["again"] = True  # another manifest, so another version
    versions.append(first.save(folder / "other"))
    place(versions[0], folder / "model")
    port = free_port()
    command = [
        sys.executable, "-m", "coterie", "serve", str(folder / "model"), "--port", str(port),
        "--database", url, "--watch-seconds", "1", "--threads", str(args.threads),
    ]  # fmt: skip
    run = Run(args, port, folder, versions, postgres)
    with running(command, port) as (process, start_seconds):
        run.pid = process.pid
        asyncio.run(run.all())
    kept = {row for part in stored(url) for row in part}
    served = int(run.reloaded)
    statuses = {kind: dict(sorted(count.items())) for kind, count in run.statuses.items()}
    memory = [statistics.median(part.tolist()) for part in np.array_split(run.memory, 5)]
    p50, p99 = np.quantile(run.seconds, [0.5, 0.99]).tolist()
    return {
        "cores": os.cpu_count(),
        "database": url.partition(":")[0],
        "seconds": args.seconds,
        "start_seconds": start_seconds,
        "rate": run.rate,
        "statuses": statuses,
        "shed": run.shed,
        "outages": run.outages,
        "versions": {"put": run.put, "served": served},
        "events": {"acknowledged": len(run.acknowledged), "kept": len(kept)},
        "p50_ms": 1000 * p50,
        "p99_ms": 1000 * p99,
        "mib": {"fifths": memory, "most": max(run.memory)},
        "faults": run.faults[:20],
        "bars": {
            "answers": not run.faults,
            "asked_of_every_kind": set(statuses) == set(KINDS),
            "events_kept": bool(run.acknowledged) and run.acknowledged <= kept,
            "versions_served": served == run.put > 0,
            "outages": postgres is None or run.outages == args.outages,
            "memory": memory[4] <= (1 + GROWTH) * memory[1],
            "exit_code": process.returncode == 0,
        },
    }


@dataclass
class Run:
    """The load, what happens meanwhile, and what was seen."""

    args: argparse.Namespace
    port: int
    folder: Path
    versions: list[Path]
    postgres: "Postgres | None"
    pid: int = 0
    rate: float = 0.0
    away: bool = False  # the database, or it came back a moment ago
    shed: int = 0  # refusals while it was there
    outages: int = 0
    put: int = 0
    reloaded: float = 0.0
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    refused: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free: list[Client] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._histories = made_histories(self.args.items, self.args.median)
        self._rng = np.random.default_rng(3)
        self._count = 0

    async def all(self) -> None:
        """Measure saturation, then load with everything that goes wrong."""
        self.rate = self.args.rate or SHARE * await self._saturation()
        self.seconds.clear()
        self._end = time.monotonic() + self.args.seconds
        jobs = [self._load(), self._reload(), self._watch()]
        if self.postgres is not None:
            jobs.append(self._interrupt(self.postgres))
        await asyncio.gather(*jobs)
        await asyncio.gather(*self._asking)
        for at in [*self.refused]:  # sent again, as clients do; some may be there already
            await self._one("event", at)
        text = (await self._ask(b"GET", b"/metrics", b"")).body.decode()
        rows = [line for line in text.splitlines() if line.startswith("coterie_reloads_total")]
        self.reloaded = sum(float(line.split()[-1]) for line in rows if 'served="yes"' in line)

    async def _saturation(self) -> float:
        """Requests of the mix per second, of 64 clients that never wait."""
        lasting, began = min(30.0, self.args.seconds / 5), time.monotonic()
        first = self._count

        async def client() -> None:
            while time.monotonic() < began + lasting:
                await self._one(*self._next())

        await asyncio.gather(*(client() for _ in range(64)))
        return (self._count - first) / (time.monotonic() - began)

    def _next(self) -> tuple[str, int]:
        """The kind of the next request, and its number."""
        self._count += 1
        return str(self._rng.choice(list(KINDS), p=list(KINDS.values()))), self._count

    async def _load(self) -> None:
        """Requests of all kinds at random times."""
        due = time.monotonic()
        while due < self._end:
            due += float(self._rng.exponential(1 / self.rate))
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._try(*self._next()))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _try(self, kind: str, at: int) -> None:
        try:
            await self._one(kind, at)
        except OSError as error:  # no connection
            self.faults.append(f"{kind} {at}: {error}")
            if kind == "event":
                self.refused.append(at)

    async def _one(self, kind: str, at: int) -> None:
        began, away = time.monotonic(), self.away
        if kind == "hang up":
            await self._hang_up(at)
            self.statuses.setdefault(kind, Counter())[0] += 1
            return
        answer = await self._ask(b"POST", *self._request(kind, at))
        status = answer.status
        self.statuses.setdefault(kind, Counter())[status] += 1
        if kind == "history":
            self.seconds.append(time.monotonic() - began)
        if kind == "malformed":
            right = 400 <= status < 500
        elif status == 503:
            right = b"retry-after: " in answer.head.lower()
            self.shed += kind == "history" or not (away or self.away)  # history needs no store
        else:
            right = status == 200
        if kind == "event" and status == 200:
            self.acknowledged.add(f"e{at}")
        elif kind == "event":
            self.refused.append(at)
        if not right:
            self.faults.append(f"{kind} {at}: {status} {answer.body[:200]!r}")

    def _request(self, kind: str, at: int) -> tuple[bytes, bytes]:
        """A path, and a body."""
        if kind == "malformed":
            return b"/v1/recommend", MALFORMED[at % len(MALFORMED)]
        if kind == "event":
            event = {
                "event_id": f"e{at}",
                "user": f"u{at % 1000}",
                "kind": "click",
                "item": str(at % self.args.items),
                "time": datetime.now(UTC).isoformat(),
            }
            return b"/v1/events", json.dumps(event).encode()
        asked: dict[str, Any] = {"k": self.args.k, "user": f"u{at % 1000}"}
        if kind == "history":
            asked = {"k": self.args.k, "history": self._histories[at % len(self._histories)]}
        return b"/v1/recommend", json.dumps(asked).encode()

    async def _ask(self, method: bytes, path: bytes, body: bytes) -> "Answer":
        client = self._free.pop() if self._free else None
        if client is None or client.gone:
            client = await self._connect()
        answer = await client.ask(as_http(method, path, body))
        self._free.append(client)
        return answer

    async def _connect(self) -> "Client":
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Client, "127.0.0.1", self.port))[1]

    async def _hang_up(self, at: int) -> None:
        """Go in the middle of the request, or while it is answered."""
        client = await self._connect()
        request = as_http(b"POST", *self._request("history", at))
        client.transport.write(request[: len(request) // 2] if at % 2 else request)
        await asyncio.sleep(0.003)
        client.transport.abort()

    async def _reload(self) -> None:
        """Put versions in place, the last early enough to be served."""
        while time.monotonic() + self.args.reload_seconds + 5 < self._end:
            await asyncio.sleep(self.args.reload_seconds)
            self.put += 1
            new = self.versions[self.put % len(self.versions)]
            await asyncio.to_thread(place, new, self.folder / "model")

    async def _interrupt(self, postgres: "Postgres") -> None:
        """Stop the database and start it again, at even intervals."""
        pause = self.args.seconds / (self.args.outages + 1) - AWAY_SECONDS
        for _ in range(self.args.outages):
            await asyncio.sleep(pause)
            self.away = True
            await asyncio.to_thread(postgres.stop)
            await asyncio.sleep(AWAY_SECONDS)
            await asyncio.to_thread(postgres.start)
            await asyncio.sleep(1.0)
            self.away = False
            self.outages += 1

    async def _watch(self) -> None:
        """Note the server's memory, a hundred times or more."""
        while time.monotonic() < self._end:
            self.memory.append(mib(self.pid))
            await asyncio.sleep(min(10.0, self.args.seconds / 100))


def place(version: Path, at: Path) -> None:
    """Copy a model's folder to its place in one step."""
    with atomic_folder(at, overwrite=True) as aside:
        shutil.copytree(version, aside, dirs_exist_ok=True)


def stored(url: str) -> Iterator[list[str]]:
    """The ids of all events."""
    store = Store(url)
    try:
        for part in store.log():
            yield part["event_id"].to_list()
    finally:
        store.close()


@contextmanager
def database(folder: Path) -> Iterator[tuple[str, Postgres | None]]:
    """The URL of an empty database, and its server if it can be stopped."""
    home = Path(tempfile.mkdtemp(prefix="coterie-soak-"))
    server = Postgres.at(home)
    if server is None:
        home.rmdir()
        yield f"sqlite:///{folder}/soak.db", None
        return
    if os.getuid() == 0:
        shutil.chown(home, "postgres", "postgres")
    try:
        server.run("initdb", "-D", str(home / "data"), "-U", "coterie", "-A", "trust", "-E", "UTF8")
        server.start()
        try:
            yield f"postgresql://coterie@127.0.0.1:{server.port}/postgres", server
        finally:
            with suppress(subprocess.CalledProcessError):
                server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
