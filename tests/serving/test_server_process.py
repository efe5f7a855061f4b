"""Real servers on loopback: load, signals, crashes, new versions, lost connections."""

import asyncio
import concurrent.futures
import http.client
import json
import signal
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from held_up import held_up
from live_server import serving, wait_until
from served_models import FIRST, N_ITEMS, save, small_model

from coterie.serving.process import listeners
from coterie.serving.store import Store

KEY = "a-key-that-is-long-enough"
pytestmark = pytest.mark.slow  # each test starts a server of its own


def event(event_id, **more):
    time = datetime.now(UTC).isoformat()
    return {"event_id": event_id, "user": "ann", "kind": "click", "item": "1003", "time": time} | (
        more
    )


@pytest.fixture(scope="module")
def shared(model, tmp_path_factory):
    """One server for the tests that leave it as it is."""
    store = tmp_path_factory.mktemp("store") / "store.db"
    with serving(model, f"sqlite:///{store}") as server:
        yield server


def test_concurrent_requests_are_batched_and_answered_as_if_alone(shared):
    histories = [[FIRST + at % N_ITEMS, FIRST + at * 7 % N_ITEMS] for at in range(200)]
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        shared.process.send_signal(signal.SIGSTOP)  # they gather in the kernel
        asked = [pool.submit(shared.recommend, history=history, k=7) for history in histories]
        time.sleep(0.5)
        shared.process.send_signal(signal.SIGCONT)
        answers = [one.result() for one in asked]
    expected = small_model().recommend(histories, k=7)
    for at, (answer, items) in enumerate(zip(answers, expected.to_lists(), strict=True)):
        assert answer.status == 200
        assert [item["item"] for item in answer.json()["items"]] == items
        scores = [item["score"] for item in answer.json()["items"]]
        assert scores == pytest.approx(expected.scores[at].tolist(), rel=1e-4)
    text = shared.get("/metrics").body.decode()
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    batches = float(figures['coterie_batch_size_count{lane="score"}'])
    assert batches < 150, "some requests were answered together"


def test_each_request_is_logged_as_json_without_ids_of_people(shared):
    shared.get("/v1/users/secret-user/explain", **{"X-Request-ID": "mine-1"})
    wait_until(lambda: any(line.get("request_id") == "mine-1" for line in shared.lines))
    (line,) = [line for line in shared.lines if line.get("request_id") == "mine-1"]
    assert line["route"] == "/v1/users/{user_id:path}/explain"
    assert (line["status"], line["method"], line["level"]) == (404, "GET", "info")
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert "secret-user" not in json.dumps(shared.lines)


def test_clients_that_hang_up_harm_nobody(shared):
    body = json.dumps({"history": [1001], "k": 5}).encode()
    head = b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for sent in (b"", b"POST /v1", head, head + body[:5], head + body):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", shared.port)) as one:
                one.sendall(sent)
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100):
        with socket.create_connection(("127.0.0.1", shared.port)) as one:
            one.sendall(garbage)
    assert shared.recommend(history=[1001]).status == 200
    assert shared.logged("a fault of the server") == []
    assert [line for line in shared.lines if "traceback" in line] == []


def said(port, *parts):
    """What the server says to some bytes, read until it hangs up or has answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
        for part in parts:
            try:
                one.sendall(part)
            except OSError:  # it has hung up
                break
            time.sleep(0.02)  # a read of its own
        with http.client.HTTPResponse(one) as answer:
            answer.begin()
            return answer.status, answer.headers, answer.read()


BEGIN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [BEGIN + b"X: " + b"x" * 66_000 + b"\r\n\r\n"],
        [BEGIN, *[b"X: " + b"x" * 997 + b"\r\n"] * 80],
        [BEGIN + b"X: ", *[b"x" * 20_000] * 5],
        [b"GET /" + b"x" * 66_000 + b" HTTP/1.1\r\n\r\n"],
    ],
    ids=["one read", "many lines", "one line", "path"],
)
def test_a_head_beyond_64_kib_is_refused_before_it_is_whole(parts, shared):
    status, headers, body = said(shared.port, *parts)
    assert (status, headers["connection"]) == (431, "close")
    assert "65,536 bytes" in json.loads(body)["detail"]


def test_trailers_beyond_64_kib_end_the_connection(shared):
    begun = CHUNKED + b"2\r\n{}\r\n0\r\n"
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        said(shared.port, begun, *[b"X: " + b"x" * 19_995 + b"\r\n"] * 5)
    assert said(shared.port, begun + b"X: " + b"x" * 19_995 + b"\r\n\r\n")[0] == 422


def test_heads_up_to_the_limit_and_bodies_of_any_size_pass(shared):
    line = b"X: " + b"x" * 60_000 + b"\r\n\r\n"
    assert said(shared.port, BEGIN + line)[0] == 200
    assert said(shared.port, BEGIN + line[:30_000], line[30_000:])[0] == 200
    body = json.dumps({"history": [1001] * 9_000, "deny": ["x" * 90] * 9_000}).encode()
    assert len(body) > 800_000
    head = POST + b"Content-Length: %d\r\n\r\n" % len(body)
    assert said(shared.port, head + body)[0] == 200
    assert said(shared.port, head, body[:1], body[1:])[0] == 200
    one = b"1\r\n \r\n"
    pieces = b"13\r\n" + b'{"history": [1001]}' + b"\r\n" + one * 20_000 + b"0\r\n\r\n"
    assert said(shared.port, CHUNKED + pieces)[0] == 200, "the framing of pieces is not a head"


def test_connections_that_come_at_once_are_let_in_several_per_turn_of_the_loop():
    uvloop = pytest.importorskip("uvloop")

    async def turns_until_all_are_in(count):
        loop, turns, accepted = asyncio.get_running_loop(), 0, 0

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport):
                nonlocal accepted
                accepted += 1

        with socket.create_server(("127.0.0.1", 0), backlog=count) as bound:
            servers = [await loop.create_server(Accepted, sock=one) for one in listeners(bound)]
            clients = [socket.create_connection(bound.getsockname()) for _ in range(count)]
            while accepted < count:
                turns += 1
                await asyncio.sleep(0)
            for each in [*servers, *clients]:
                each.close()
        return turns

    assert uvloop.run(turns_until_all_are_in(64)) < 64 / 2


def test_overload_is_503_with_retry_after_and_never_500(model, sqlite):
    flags = ("--queue-size", 8, "--batch-size", 1, "--most-requests", 8)
    with serving(model, sqlite, *flags) as server:
        batch = {"requests": [{"history": [1001, 1002], "k": 50}] * 8}
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            ask = lambda _: server.post("/v1/recommend/batch", batch)  # noqa: E731
            answers = list(pool.map(ask, range(150)))
        statuses = {answer.status for answer in answers}
        assert statuses == {200, 503}
        for answer in answers:
            if answer.status == 503:
                assert int(answer.headers["retry-after"]) >= 1
                assert "waiting for score already" in answer.json()["detail"]
            else:
                assert len(answer.json()["answers"]) == 8
        assert server.recommend(history=[1001]).status == 200
        assert server.get("/readyz").status == 200


def test_a_stopped_server_answers_what_it_accepted(model, sqlite):
    with serving(model, sqlite, "--timeout-seconds", 30) as server:
        with concurrent.futures.ThreadPoolExecutor(8) as pool, held_up(sqlite):
            asked = [pool.submit(server.post, "/v1/events", event(f"e{at}")) for at in range(8)]
            time.sleep(0.5)  # they wait in the lane
            assert not any(one.done() for one in asked)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert not any(one.done() for one in asked)
        assert [one.result().status for one in asked] == [200] * 8
        assert server.process.wait(20) == 0
        with pytest.raises(ConnectionRefusedError):
            server.get("/healthz")
    assert server.logged("stopped")


def test_interrupted_from_the_keyboard_is_a_success_too(model, sqlite):
    with serving(model, sqlite) as server:
        assert server.stop(signal.SIGINT) == 0


def asking(server, *asked):
    """Ask, and be sure that the server has begun to answer; the answer comes later."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    answer = pool.submit(server.ask, *asked)
    pool.shutdown(wait=False)
    time.sleep(0.5)
    assert not answer.done()
    return answer


def test_a_locked_table_does_not_keep_the_server_from_ending(model, postgres):
    """Neither the statement nor the request would be given up for a minute."""
    database = postgres.database()
    flags = ("--timeout-seconds", 60, "--stop-seconds", 1)
    with serving(model, database, *flags) as server, held_up(database):
        asked = [
            asking(server, "POST", "/v1/events", event("a")),
            asking(server, "POST", "/v1/recommend", {"user": "ann"}),
            asking(server, "GET", "/readyz"),
        ]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        for one in asked:
            assert one.result().status == 503
            assert one.result().headers["retry-after"] == "1"
    assert server.logged("stopped")


def test_a_second_signal_ends_the_server_at_once(model, sqlite):
    with serving(model, sqlite, "--timeout-seconds", 60, "--stop-seconds", 60) as server:
        with held_up(sqlite):
            asked = asking(server, "POST", "/v1/events", event("a"))
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert server.process.poll() is None, "the first one waits for the answer"
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(20) == -signal.SIGINT
        assert asked.exception()


EXPERIMENT = """
name = "pia"
start = 2026-03-01T00:00:00Z
end = 2126-03-29T00:00:00Z
[arms]
control = 0.5
treated = 0.5
"""


def test_a_stopping_server_ends_a_running_analysis(model, sqlite, tmp_path):
    file = tmp_path / "pia.toml"
    file.write_text(EXPERIMENT)
    flags = ("--experiment", file, "--arm", f"treated={model}")
    with serving(model, sqlite, *flags, "--analyze-seconds", 60) as server:
        with held_up(sqlite):  # the analysis waits for the store
            asked = asking(server, "GET", "/v1/experiments/pia")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
        assert asked.result().status == 503
        assert "the server is stopping" in asked.result().json()["detail"]


def test_what_can_give_nothing_is_said_at_the_start(model, sqlite, tmp_path):
    ended, settings = tmp_path / "pia.toml", tmp_path / "serve.toml"
    ended.write_text(EXPERIMENT.replace("2126-03-29", "2026-03-02"))
    settings.write_text('[filters.none]\nallow = ["zzz"]\n[filters.some]\nallow = [1001]\n')
    flags = ("--experiment", ended, "--arm", f"treated={model}", "--config", settings)
    with serving(model, sqlite, *flags) as server:
        (line,) = server.logged("nobody is in an arm now")
        assert (line["experiment"], line["end"]) == ("pia", "2026-03-02T00:00:00+00:00")
        lines = server.logged("a filter lets no item through")
        assert {(one["filter"], one["model"]) for one in lines} == {
            ("none", "default"),
            ("none", "treated"),
        }


def flood(server, acknowledged, stop, writer):
    """Send batches of events until told to stop; note those that were acknowledged."""
    at = 0
    while not stop.is_set():
        names = [f"{writer}-{at + more}" for more in range(3)]
        try:
            answer = server.post("/v1/events", {"events": [event(name) for name in names]})
        except (OSError, http.client.HTTPException):
            return
        if answer.status == 200:
            acknowledged.extend(names)
        at += 3


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_acknowledged_events_survive(sig, model, database):
    """Writers flood the server until it is gone; the store then has every acknowledged event."""
    acknowledged: list[str] = []
    stop = threading.Event()
    with serving(model, database) as server:
        writers = [
            threading.Thread(target=flood, args=(server, acknowledged, stop, writer))
            for writer in range(6)
        ]
        for writer in writers:
            writer.start()
        wait_until(lambda: len(acknowledged) > 300)
        assert server.stop(sig) == (-9 if sig == signal.SIGKILL else 0)
        stop.set()
        for writer in writers:
            writer.join()
    store = Store(database)
    stored = pl.concat(store.log())["event_id"].to_list()
    store.close()
    assert len(acknowledged) > 300
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))
    if sig == signal.SIGTERM:
        assert set(acknowledged) == set(stored), "what is not acknowledged was not accepted"


@pytest.mark.parametrize("how", ["watched", "hangup"])
def test_a_new_version_is_served_without_a_failed_request(how, tmp_path, sqlite):
    folder = save(tmp_path / "model", 0)
    expected = [small_model(seed).recommend([[1001, 1002]], k=5).to_lists()[0] for seed in (0, 1)]
    stop = threading.Event()
    seen: list[tuple[int, list[int]]] = []

    def ask(server):
        while not stop.is_set():
            answer = server.recommend(history=[1001, 1002], k=5)
            seen.append((answer.status, [item["item"] for item in answer.json()["items"]]))

    seconds = 0.1 if how == "watched" else 0
    with serving(folder, sqlite, "--watch-seconds", seconds) as server:
        askers = [threading.Thread(target=ask, args=(server,)) for _ in range(4)]
        for asker in askers:
            asker.start()
        before = server.recommend(history=[1]).json()["version"]
        for seed in (1, 0, 1):
            count = len(server.logged("new version"))
            save(folder, seed)
            if how == "hangup":
                server.process.send_signal(signal.SIGHUP)
            wait_until(lambda count=count: len(server.logged("new version")) > count)
        assert server.recommend(history=[1]).json()["version"] != before
        stop.set()
        for asker in askers:
            asker.join()
    assert {status for status, _ in seen} == {200}
    assert [expected[0] in (items for _, items in seen), expected[1] in (i for _, i in seen)] == [
        True,
        True,
    ]
    assert all(items in expected for _, items in seen)


def test_a_broken_version_is_not_served_and_said_once(tmp_path, sqlite):
    folder = save(tmp_path / "model", 0)
    with serving(folder, sqlite, "--watch-seconds", 0.1) as server:
        before = server.recommend(history=[1001]).json()
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        manifest = folder / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")
        wait_until(lambda: server.logged("the new version is not served"))
        time.sleep(0.5)
        (line,) = server.logged("the new version is not served")
        assert "truncated" in line["why"]
        assert server.recommend(history=[1001]).json() == before
        text = server.get("/metrics").body.decode()
        assert 'coterie_reloads_total{model="default",served="no"} 1.0' in text


def test_keys_come_from_the_environment_and_stay_out_of_the_log(model, sqlite):
    with serving(model, sqlite, COTERIE_API_KEYS=f"{KEY},{KEY}2") as server:
        assert server.recommend(history=[1001]).status == 401
        right = {"Authorization": f"Bearer {KEY}2"}
        assert server.ask("POST", "/v1/recommend", {"history": [1001]}, right).status == 200
        wrong = {"Authorization": "Bearer guess-guess-guess"}
        assert server.ask("POST", "/v1/recommend", {"history": [1001]}, wrong).status == 401
        assert server.stop() == 0
    text = json.dumps(server.lines)
    assert KEY not in text
    assert "guess" not in text


def test_a_database_that_stops_and_returns(model, postgres):
    with serving(model, postgres.database(), "--timeout-seconds", 2) as server:
        assert server.post("/v1/events", event("a")).status == 200
        postgres.stop()
        try:
            away = [
                server.post("/v1/events", event("b")),
                server.recommend(user="ann"),
                server.get("/readyz"),
            ]
            assert [answer.status for answer in away] == [503] * 3
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in away)
            assert server.recommend(history=[1001]).status == 200, "needs no store"
            assert server.get("/healthz").status == 200
        finally:
            postgres.start()
        wait_until(lambda: server.get("/readyz").status == 200)
        assert server.post("/v1/events", event("b", item="1005")).json()["stored"] == 1
        answer = server.recommend(user="ann", k=60, exclude_seen=True).json()
        assert {1003, 1005}.isdisjoint(item["item"] for item in answer["items"])
    assert [line for line in server.lines if "traceback" in line] == []


def test_memory_does_not_grow_with_requests(shared):
    def mib():
        lines = Path(f"/proc/{shared.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    batch = {"requests": [{"history": [FIRST + at % N_ITEMS], "k": 20} for at in range(200)]}

    def ask(count):
        for _ in range(count):
            assert shared.post("/v1/recommend/batch", batch).status == 200

    ask(10)
    before = mib()
    ask(60)
    assert mib() < 1.05 * before
