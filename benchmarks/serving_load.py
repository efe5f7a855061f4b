"""How many requests a server answers, how fast, and against a naive server of the same model.

One run measures, on one model (a Multi-VAE, trained a little on invented data):

- start-up: from the start of the process until ``/readyz`` answers 200;
- the saturation rate: as many connections as ``--connections`` always have a request under way;
- latency at 50 % and 80 % of it: requests come at random times (Poisson), whatever is unanswered,
  and the time of each counts from when it should have been sent;
- the same for a naive server: FastAPI, one PyTorch forward per request;
- the scoring rate without HTTP: the server's own batches, in this process;
- the server's memory after the first thousand requests and at the end.

The load generator is a process of its own and shares the machine.

    python benchmarks/serving_load.py                     # for the record: a quiet machine
    python benchmarks/serving_load.py --seconds 3 --requests 3000   # does it work?
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__)
SHARES = (0.5, 0.8)
WARM_UP = 1000  # requests


def main() -> None:
    """Run all of it, or one of the processes that it starts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("role", nargs="?", choices=("all", "generate", "naive"), default="all")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--median", type=int, default=60, help="items of a history")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--connections", type=int, default=128, help="at saturation")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--requests", type=int, default=100_000, help="until memory is read again")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch in the servers")
    parser.add_argument("--batch-size", type=int, default=64, help="requests scored at once")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--port", type=int, help="(of the processes)")
    parser.add_argument("--rate", type=float, default=0.0, help="(of the generator; 0: saturate)")
    parser.add_argument("--model", type=Path, help="(of the naive server)")
    args = parser.parse_args()
    if args.role == "generate":
        print(json.dumps(asyncio.run(generate(args))))
    elif args.role == "naive":
        serve_naively(args)
    else:
        figures = measure(args)
        print(json.dumps(figures, indent=2))
        if args.out is not None:
            args.out.write_text(json.dumps(figures, indent=2) + "\n")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make_model(args.items).save(model)
        threads = [] if args.threads is None else ["--threads", str(args.threads)]
        port = free_port()
        ours = [
            sys.executable, "-m", "coterie", "serve", str(model), "--port", str(port),
            "--database", f"sqlite:///{folder}/store.db", "--batch-size", str(args.batch_size),
            *threads,
        ]  # fmt: skip
        naive = [sys.executable, str(HERE), "naive", "--model", str(model), "--port", str(port)]
        figures: dict[str, Any] = {
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0],
            "settings": {
                name: getattr(args, name)
                for name in ("items", "median", "k", "connections", "threads", "batch_size")
            },
            "pure": pure_rate(args, model),
            "coterie": of_server(args, ours, port, memory=True),
            "naive": of_server(args, [*naive, *threads], port, memory=False),
        }
    saturation = figures["coterie"]["saturation"]["rate"]
    figures["times_naive"] = saturation / figures["naive"]["saturation"]["rate"]
    figures["share_of_pure"] = saturation / figures["pure"]["rate"]
    return figures


def of_server(
    args: argparse.Namespace, command: list[str], port: int, *, memory: bool
) -> dict[str, Any]:
    """Start-up, saturation, latency and memory of one server."""
    with running(command, port) as (process, seconds):
        load(args, port, rate=0.0, requests=WARM_UP)
        figures: dict[str, Any] = {"start_seconds": seconds, "mib_after_1k": mib(process.pid)}
        figures["saturation"] = load(args, port, rate=0.0)
        for share in SHARES:
            rate = share * figures["saturation"]["rate"]
            figures[f"at_{100 * share:.0f}_percent"] = load(args, port, rate=rate)
        if memory:
            load(args, port, rate=0.0, requests=args.requests)
            figures["mib_at_the_end"] = mib(process.pid)
    return figures


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


def made_histories(args: argparse.Namespace, count: int = 2000) -> list[list[int]]:
    """Histories of log-normal length with the wished median, popular items more often."""
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.lognormal(np.log(args.median), 0.8, count), 5, args.items // 4)
    popular = (args.items * rng.random((count, 2 * int(lengths.max()))) ** 2).astype(int)
    return [
        list(dict.fromkeys(row.tolist()))[: int(length)]
        for row, length in zip(popular, lengths, strict=True)
    ]


def pure_rate(args: argparse.Namespace, model: Path) -> dict[str, float]:
    """Requests per second of the server's own batches, without queue and HTTP."""
    import torch

    from coterie.serving.scoring import Ask, answer
    from coterie.serving.served import load as load_model

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    served = load_model(model, name="pure", filters={}, community=None)
    asks = []
    for history in made_histories(args):
        known, _ = served.find(history)
        asks.append(Ask(served, known, args.k, known))
    batches = [asks[at : at + args.batch_size] for at in range(0, len(asks), args.batch_size)]
    for batch in batches[:5]:
        answer(batch)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < args.seconds:
        for batch in batches:
            done += len(answer(batch))
    return {"rate": done / (time.perf_counter() - began)}


def load(args: argparse.Namespace, port: int, *, rate: float, requests: int = 0) -> dict[str, Any]:
    """What the generator, a process of its own, measures."""
    command = [sys.executable, str(HERE), "generate", "--port", str(port), "--rate", str(rate)]
    for name in ("items", "median", "k", "connections", "seconds"):
        command += [f"--{name}", str(getattr(args, name))]
    command += ["--requests", str(requests)]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


class Connection(asyncio.Protocol):
    """One keep-alive connection; answers are counted, not read."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.answered: asyncio.Future[int]
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[int]":
        """Send a request; the future gives the status."""
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answered

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the answer."""
        self._rest += data
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._rest[:end].lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._rest) >= end + 4 + length:
            self._rest = b""
            self.answered.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        """A server must not hang up on a waiting request."""
        if hasattr(self, "answered") and not self.answered.done():
            self.answered.set_exception(error or ConnectionError("the server hung up"))


async def generate(args: argparse.Namespace) -> dict[str, Any]:
    """Ask at saturation, or at a rate; for so many seconds, or so many requests."""
    requests = [request(history, args) for history in made_histories(args)]
    loop = asyncio.get_running_loop()
    size = args.connections if not args.rate else 4 * args.connections
    opened = [
        (await loop.create_connection(Connection, "127.0.0.1", args.port))[1] for _ in range(size)
    ]
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF)
    if args.rate:
        seconds, statuses = await at_rate(args, opened, requests)
    else:
        seconds, statuses = await saturated(args, opened, requests)
    elapsed = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    good = np.array(seconds)[np.array(statuses) == 200]
    p50, p95, p99 = (np.quantile(good, [0.5, 0.95, 0.99]) * 1000).tolist()
    return {
        "rate": len(good) / elapsed,
        "asked_rate": args.rate or None,
        "requests": len(statuses),
        "statuses": {str(one): statuses.count(one) for one in sorted(set(statuses))},
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": float(good.max() * 1000),
        "generator_cpu_share": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        / elapsed,
    }


async def saturated(
    args: argparse.Namespace, opened: list[Connection], requests: list[bytes]
) -> tuple[list[float], list[int]]:
    """Each connection asks again as soon as it has its answer."""
    seconds: list[float] = []
    statuses: list[int] = []
    stop = time.perf_counter() + args.seconds
    left = args.requests or sys.maxsize

    async def ask(connection: Connection, at: int) -> None:
        nonlocal left
        while left > 0 and (args.requests or time.perf_counter() < stop):
            left -= 1
            began = time.perf_counter()
            statuses.append(await connection.ask(requests[at % len(requests)]))
            seconds.append(time.perf_counter() - began)
            at += len(opened)

    await asyncio.gather(*(ask(connection, at) for at, connection in enumerate(opened)))
    return seconds, statuses


async def at_rate(
    args: argparse.Namespace, opened: list[Connection], requests: list[bytes]
) -> tuple[list[float], list[int]]:
    """Requests at random times; those for which no connection is free wait, and that counts."""
    rng = np.random.default_rng(2)
    count = round(args.rate * args.seconds)
    due = np.cumsum(rng.exponential(1 / args.rate, count)) + time.perf_counter() + 0.1
    seconds: list[float] = []
    statuses: list[int] = []
    free, waiting = list(opened), deque[tuple[float, bytes]]()
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(connection: Connection, when: float, body: bytes) -> None:
        def done(answer: "asyncio.Future[int]") -> None:
            if error := answer.exception():
                finished.set_exception(error)
                return
            seconds.append(time.perf_counter() - when)
            statuses.append(answer.result())
            if waiting:
                begin(connection, *waiting.popleft())
            else:
                free.append(connection)
            if len(statuses) == count:
                finished.set_result(None)

        connection.ask(body).add_done_callback(done)

    for at, when in enumerate(due.tolist()):
        while (ahead := when - time.perf_counter()) > 0:
            await asyncio.sleep(ahead if ahead > 0.001 else 0)
        body = requests[at % len(requests)]
        while free and free[-1].transport.is_closing():  # a server may close what is long idle
            free.pop()
        if free:
            begin(free.pop(), when, body)  # the one used last: none but the spare ones are idle
        else:
            waiting.append((when, body))
    await finished
    return seconds, statuses


def request(history: list[int], args: argparse.Namespace) -> bytes:
    """An HTTP request as it goes over the wire."""
    body = json.dumps({"history": history, "k": args.k}).encode()
    head = (
        "POST /v1/recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def serve_naively(args: argparse.Namespace) -> None:
    """What one writes in twenty lines: FastAPI, and a forward pass per request."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    from coterie.data.batches import UserBatch
    from coterie.recommender import Recommender

    class Body(BaseModel):
        history: list[int]
        k: int = 20

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    recommender = Recommender.load(args.model)
    api = FastAPI()

    @api.get("/readyz")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @api.post("/v1/recommend")
    def recommend(body: Body) -> dict[str, Any]:
        history = torch.tensor(body.history)
        one = UserBatch(
            torch.tensor([0, len(history)]),
            history,
            torch.tensor([len(history) ** -0.5]),
            recommender.n_items,
        )
        with torch.inference_mode():
            scores = recommender.model(one)
            scores[0, history] = -torch.inf
            best = scores[0].topk(body.k)
        items = [
            {"item": item, "score": score}
            for item, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return {"items": items}

    uvicorn.run(api, port=args.port, log_level="warning")


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


if __name__ == "__main__":
    main()
