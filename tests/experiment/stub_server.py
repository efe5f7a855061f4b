"""A server on loopback that speaks as ours does, as simply as can be, and errs as it is told to."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from coterie.experiment.assignment import arm_of

LISTS = {"control": 0, "pia": 1}  # the treatment's list begins one item later


class Stub:
    """Keeps events by id.

    Parameters
    ----------
    experiment
        The one that it has.
    n_items
        Items are 1000, 1001 and so on.
    fails
        Asked for each request with method, path and how many came before: None, or a function of
        the handler that answers instead; if that gives True, the events are stored all the same.
    """

    def __init__(self, experiment, n_items=60, fails=lambda method, path, n: None):
        self.experiment, self.n_items, self.fails = experiment, n_items, fails
        self.events, self.requests, self.lock = {}, [], threading.Lock()
        self.facts = {
            "name": experiment.name,
            "running": True,
            "start": "2026-03-01",
            "end": "2026-04-01",
            "arms": [{"name": name, "share": share} for name, share in experiment.arms.items()],
        }

    def answer(self, path, body):
        if path == "/v1/experiments":
            return {"experiments": [self.facts]}
        if path == "/v1/recommend":
            arm = arm_of(self.experiment, body["user"])
            seen = set(body["history"])
            items = [1000 + at for at in range(LISTS[arm], self.n_items) if 1000 + at not in seen]
            shown = [{"item": item} for item in items[: body["k"]]]
            return {"items": shown, "arm": arm, "version": "1"}
        assert path == "/v1/events"
        new = [one for one in body["events"] if one["event_id"] not in self.events]
        self.events |= {one["event_id"]: one for one in new}
        return {"stored": len(new), "duplicates": len(body["events"]) - len(new)}


def problem(status, detail, **headers):
    """What :attr:`Stub.fails` may give: a refusal."""

    def refuse(handler):
        reply(handler, status, {"detail": detail}, headers)
        return False

    return refuse


def reply(handler, status, body, headers=()):
    data = json.dumps(body).encode()
    handler.send_response(status)
    for name, value in dict(headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@contextmanager
def listening(stub):
    """The stub's URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            self.do("GET")

        def do_POST(self):
            self.do("POST")

        def do(self, method):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = json.loads(body) if body else None
            with stub.lock:
                failure = stub.fails(method, self.path, len(stub.requests))
                stub.requests.append((self.path, asked, self.headers.get("Authorization")))
                if failure is None:
                    answer = stub.answer(self.path, asked)
                elif failure(self):
                    stub.answer(self.path, asked)
            if failure is None:
                reply(self, 200, answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
