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
    python benchmarks/serving_load.py --seconds 3 --requests 3000 --rounds 1   # does it work?
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loopback import Answer, Client, as_http, free_port, made_histories, make_model, mib, running

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
    parser.add_argument("--threads", type=int, default=None, help="of the servers' products")
    parser.add_argument("--batch-size", type=int, default=64, help="requests scored at once")
    parser.add_argument("--rounds", type=int, default=3, help="each measures both servers in turn")
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
        print(json.dumps({**figures, "rounds": "above"}, indent=2))
        if args.out is not None:
            args.out.write_text(json.dumps(figures, indent=2) + "\n")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All rounds, their medians, and which bars hold."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make_model(args.items).save(model)
        rounds = []
        for number in range(args.rounds):
            rounds.append(one_round(args, model, Path(folder) / f"store-{number}.db"))
            print(f"round {number + 1} of {args.rounds}: {json.dumps(rounds[-1])}", flush=True)
    middle = medians(rounds)
    ours, half = middle["coterie"], middle["coterie"]["at_50_percent"]
    times_naive = ours["saturation"]["rate"] / middle["naive"]["saturation"]["rate"]
    share_of_pure = ours["saturation"]["rate"] / middle["pure"]["rate"]
    grown = ours["mib_at_the_end"] / ours["mib_after_1k"] - 1
    return {
        "cores": len(os.sched_getaffinity(0)),
        "settings": {
            name: getattr(args, name)
            for name in ("items", "median", "k", "connections", "threads", "batch_size", "seconds")
        },
        "medians": middle,
        "times_naive": times_naive,
        "share_of_pure": share_of_pure,
        "memory_grown": grown,
        "bars": {
            "p99 at half of saturation at most 25 ms": half["p99_ms"] <= 25,
            "saturation at least 3 times naive": times_naive >= 3,
            "saturation at least 60 % of the pure rate (an aim)": share_of_pure >= 0.6,
            "start under 3 s": ours["start_seconds"] < 3,
            "memory within 5 % of that after 1000 requests": grown <= 0.05,
            "every request answered": all(one["coterie"]["refused"] == 0 for one in rounds),
        },
        "rounds": rounds,
    }


def one_round(args: argparse.Namespace, model: Path, store: Path) -> dict[str, Any]:
    """The pure rate, our server and the naive one, in turn."""
    threads = [] if args.threads is None else ["--threads", str(args.threads)]
    port = free_port()
    ours = [
        sys.executable, "-m", "coterie", "serve", str(model), "--port", str(port),
        "--database", f"sqlite:///{store}", "--batch-size", str(args.batch_size), *threads,
    ]  # fmt: skip
    naive = [sys.executable, str(HERE), "naive", "--model", str(model), "--port", str(port)]
    return {
        "load_before": os.getloadavg()[0],
        "pure": pure_rate(args, model),
        "coterie": of_server(args, ours, port, memory=True),
        "naive": of_server(args, [*naive, *threads], port, memory=False),
    }


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
        figures["refused"] = sum(
            one["requests"] - one["answered"] for one in figures.values() if isinstance(one, dict)
        )
    return figures


def medians(rounds: Sequence[Any]) -> Any:
    """Of each figure over the rounds, tables within tables."""
    if isinstance(rounds[0], dict):
        return {name: medians([one[name] for one in rounds]) for name in rounds[0]}
    return None if rounds[0] is None else statistics.median(rounds)


def pure_rate(args: argparse.Namespace, model: Path) -> dict[str, float]:
    """Requests per second of the server's own batches, without queue and HTTP."""
    from coterie.serving.scoring import Ask, answer
    from coterie.serving.served import load as load_model

    served = load_model(model, name="pure", filters={}, community=None, threads=args.threads)
    asks = []
    for history in made_histories(args.items, args.median):
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


async def generate(args: argparse.Namespace) -> dict[str, Any]:
    """Ask at saturation, or at a rate; for so many seconds, or so many requests."""
    requests = [request(history, args.k) for history in made_histories(args.items, args.median)]
    loop = asyncio.get_running_loop()
    size = args.connections if not args.rate else 4 * args.connections
    opened = [
        (await loop.create_connection(Client, "127.0.0.1", args.port))[1] for _ in range(size)
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
        "answered": len(good),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": float(good.max() * 1000),
        "generator_cpu_share": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        / elapsed,
    }


async def saturated(
    args: argparse.Namespace, opened: list[Client], requests: list[bytes]
) -> tuple[list[float], list[int]]:
    """Each connection asks again as soon as it has its answer."""
    seconds: list[float] = []
    statuses: list[int] = []
    stop = time.perf_counter() + args.seconds
    left = args.requests or sys.maxsize

    async def ask(connection: Client, at: int) -> None:
        nonlocal left
        while left > 0 and (args.requests or time.perf_counter() < stop):
            left -= 1
            began = time.perf_counter()
            statuses.append((await connection.ask(requests[at % len(requests)])).status)
            seconds.append(time.perf_counter() - began)
            at += len(opened)

    await asyncio.gather(*(ask(connection, at) for at, connection in enumerate(opened)))
    return seconds, statuses


async def at_rate(
    args: argparse.Namespace, opened: list[Client], requests: list[bytes]
) -> tuple[list[float], list[int]]:
    """Requests at random times; those for which no connection is free wait, and that counts."""
    rng = np.random.default_rng(2)
    count = round(args.rate * args.seconds)
    due = np.cumsum(rng.exponential(1 / args.rate, count)) + time.perf_counter() + 0.1
    seconds: list[float] = []
    statuses: list[int] = []
    free, waiting = list(opened), deque[tuple[float, bytes]]()
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(connection: Client, when: float, body: bytes) -> None:
        def done(answer: "asyncio.Future[Answer]") -> None:
            seconds.append(time.perf_counter() - when)
            statuses.append(answer.result().status)
            if waiting:
                begin(connection, *waiting.popleft())
            else:
                free.append(connection)
            if len(statuses) == count:
                finished.set_result(None)

        connection.ask(body).add_done_callback(done)

    for at, when in enumerate(due.tolist()):
        while (ahead := when - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)  # up to 1 ms late; spinning would take the server's time
        body = requests[at % len(requests)]
        while free and free[-1].gone:  # a server may close what is long idle
            free.pop()
        if free:
            begin(free.pop(), when, body)  # the one used last: none but the spare ones are idle
        else:
            waiting.append((when, body))
    await finished
    return seconds, statuses


def request(history: list[int], k: int) -> bytes:
    """A request for a list, as it goes over the wire."""
    return as_http(b"POST", b"/v1/recommend", json.dumps({"history": history, "k": k}).encode())


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


if __name__ == "__main__":
    main()
