"""The HTTP interface: what is answered, what is refused, and what hostile text cannot do."""

import asyncio
import gc
import json
import logging
import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.exceptions import RequestValidationError
from httpx2 import ASGITransport, AsyncClient
from served_models import FIRST, N_ITEMS, SCRIPT, save, small_community, small_model
from starlette.responses import Response
from starlette.testclient import TestClient

from coterie.errors import ConfigError
from coterie.experiment.assignment import arm_of
from coterie.experiment.settings import Experiment
from coterie.serving import wire
from coterie.serving.app import create_app
from coterie.serving.fleet import Fleet
from coterie.serving.guard import NO_ANSWER, Guard
from coterie.serving.keys import Keys
from coterie.serving.metrics import Metrics
from coterie.serving.service import Service
from coterie.serving.settings import ItemFilter, ServeConfig
from coterie.serving.store import Store, StoreUnavailable

KEY = "a-key-that-is-long-enough"
NOW = datetime.now(UTC)
PIA = Experiment(
    name="pia",
    start=NOW - timedelta(days=1),
    end=NOW + timedelta(days=1),
    arms={"control": 0.5, "treated": 0.5},
    exposed=0.9,
)
OVER = Experiment(
    name="over", start=NOW - timedelta(days=2), end=NOW, arms={"control": 0.5, "treated": 0.5}
)
EVENT = {"event_id": "e1", "user": "ann", "kind": "click", "item": "1003", "time": NOW.isoformat()}
HOSTILE = [
    "'; DROP TABLE events; --",
    "1' OR '1'='1",
    "../../../../etc/passwd",
    "/etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "\r\nSet-Cookie: a=b",
    "a\0b",
    "\u202e\ufeff",
    "𝄞" * 200,
    "%00",
    "nan",
]  # fmt: skip


@contextmanager
def client(tmp_path, *, keys=(), settings=None, **fleet):
    folder = save(tmp_path / "model")
    folders = {"default": folder}
    if "experiments" in fleet:
        folders["treated"] = save(tmp_path / "treated", 1)
    config = ServeConfig(watch_seconds=0, **(settings or {}))
    service = Service(
        config, Fleet(folders, **fleet), Store(f"sqlite:///{tmp_path}/store.db"), Metrics()
    )
    app = create_app(service, Keys(keys))
    with TestClient(app, raise_server_exceptions=False) as opened:
        opened.service = service
        yield opened


@pytest.fixture
def api(tmp_path):
    settings = {
        "filters": {"first": ItemFilter(allow=tuple(range(FIRST, FIRST + 10)))},
        "experiments": (PIA, OVER),
        "community": small_community(),
    }
    with client(tmp_path, **settings) as opened:
        yield opened


def recommend(api, **asked):
    return api.post("/v1/recommend", json=asked)


def ids(answer):
    return [item["item"] for item in answer["items"]]


def test_a_history_is_answered_as_the_library_answers(api):
    answer = recommend(api, history=[1001, "1002", "nope", 5], k=4, surface="home").json()
    expected = small_model().recommend([[1001, 1002]], k=4)
    assert ids(answer) == expected.to_lists()[0]
    assert [item["score"] for item in answer["items"]] == pytest.approx(
        expected.scores[0].tolist(), rel=1e-4
    )
    assert [item["title"] for item in answer["items"]] == expected.to_frame()["title"].to_list()
    version = api.service.fleet["default"].version
    del answer["items"]
    assert answer == {
        "unknown": ["nope", 5],
        "fallback": False,
        "model": "default",
        "version": version,
        "experiment": None,
        "arm": None,
        "surface": "home",
    }


def test_everything_that_restricts_a_list(api):
    every = recommend(api, history=[1001], k=60).json()
    assert len(ids(every)) == N_ITEMS - 1
    assert 1001 in ids(recommend(api, history=[1001], k=60, exclude_seen=False).json())
    some = recommend(api, history=[1001], allow=[1001, 1002, "1003", "?"], deny=[1003, "!"]).json()
    assert (ids(some), some["unknown"]) == ([1002], ["!", "?"])
    assert set(ids(recommend(api, history=[1001], filter="first").json())) == {
        *range(FIRST, FIRST + 10)
    } - {1001}
    assert ids(recommend(api, history=[1001], allow=[]).json()) == []


def test_without_a_known_item_the_most_popular_ones(api):
    for asked in ({"history": []}, {"history": ["?"]}, {"user": "nobody"}):
        answer = recommend(api, **asked, k=3).json()
        assert answer["fallback"] is True
        assert ids(answer) == [FIRST, FIRST + 1, FIRST + 2]
        assert answer["items"][0] == {"item": FIRST, "score": 60.0, "title": SCRIPT}


def test_a_users_history_is_what_the_events_made_it(api):
    assert api.post("/v1/events", json=EVENT).json() == {"stored": 1, "duplicates": 0}
    more = [{**EVENT, "event_id": "e2", "item": 1010}, EVENT]
    assert api.post("/v1/events", json={"events": more}).json() == {"stored": 1, "duplicates": 1}
    by_user = recommend(api, user="ann", k=20).json()
    by_history = recommend(api, history=[1003, 1010], k=20).json()
    assert by_user == by_history
    assert (
        recommend(api, user="ann", history=[1001], k=20).json()["items"]
        == (recommend(api, history=[1001], k=20).json()["items"])
    ), "a history that is given counts instead of the stored one"
    assert recommend(api, user=12, k=1).status_code == 200
    api.post("/v1/events", json={**EVENT, "event_id": "e3", "item": "gone"})
    unknown = recommend(api, user="ann", deny=["?"]).json()["unknown"]
    assert unknown == ["?"], "of the request, not of what is stored"


def test_a_batch_is_its_requests(api):
    api.post("/v1/events", json=EVENT)
    requests = [
        {"history": [1001, 1002], "k": 3},
        {"user": "ann", "k": 5},
        {"user": "nobody"},
        {"history": [1001], "deny": [1002], "k": 2},
        {"user": "ann", "experiment": "pia", "filter": "first"},
    ]
    answers = api.post("/v1/recommend/batch", json={"requests": requests}).json()["answers"]
    for one, answer in zip(requests, answers, strict=True):
        alone = recommend(api, **one).json()
        assert ids(answer) == ids(alone)
        assert [item["score"] for item in answer["items"]] == pytest.approx(
            [item["score"] for item in alone["items"]], rel=1e-4
        )
        assert {**answer, "items": 0} == {**alone, "items": 0}


def test_users_of_an_experiment_get_their_arm_and_its_model(api):
    seen = set()
    for user in range(60):
        answer = recommend(api, user=user, history=[1001, 1002], experiment="pia", k=4).json()
        arm = arm_of(PIA, user)
        seen.add(arm)
        assert (answer["experiment"], answer["arm"]) == ("pia", arm)
        seed = 1 if arm == "treated" else 0
        assert answer["model"] == ("treated" if seed else "default")
        assert ids(answer) == small_model(seed).recommend([[1001, 1002]], k=4).to_lists()[0]
    assert seen == {None, "control", "treated"}
    assert recommend(api, user=1, experiment="over").json()["arm"] is None


def test_experiments_are_listed(api):
    one, other = api.get("/v1/experiments").json()["experiments"]
    fleet = api.service.fleet
    assert (one["name"], one["running"], one["exposed"]) == ("pia", True, 0.9)
    assert datetime.fromisoformat(one["start"]) == PIA.start
    assert [(arm["name"], arm["share"], arm["model"], arm["version"]) for arm in one["arms"]] == [
        ("control", 0.5, "default", fleet["default"].version),
        ("treated", 0.5, "treated", fleet["treated"].version),
    ]
    assert (other["name"], other["running"]) == ("over", False)


def test_similar_items_are_the_librarys(api):
    answer = api.get("/v1/items/1005/similar", params={"k": 3}).json()
    expected = small_model().similar_items([1005], k=3)
    assert ids(answer) == expected.to_frame()["similar_item_id"].to_list()
    assert (answer["item"], answer["title"], answer["source"]) == (1005, "Title 5", "decoder")
    assert len(api.get("/v1/items/1005/similar").json()["items"]) == 10
    assert api.get("/v1/items/nope/similar").status_code == 404
    assert api.get("/v1/items/a/b/similar").json()["detail"].endswith("the item 'a/b'.")


def test_an_explanation_is_the_librarys_and_nobody_helps_themselves(api):
    data = small_community()
    api.service._store.import_histories(data)
    answer = api.get("/v1/users/41/explain", params={"k": 80, "item": ["1001", "zz"]})
    if 1 in data.row(41):
        pytest.fail("choose a user without the item")
    facts = answer.json()
    assert answer.status_code == 200, facts
    assert (facts["user"], facts["history_items"]) == ("41", len(data.row(41)))
    assert [item["item_id"] for item in facts["items"]] == [1001]
    assert facts["unknown"][0]["item_id"] == "zz"
    helpers = {row["user_id"] for row in facts["neighbours"]}
    assert helpers
    assert 41 not in helpers
    assert facts["sample"]["available"] == data.n_users - 1
    assert facts["sentence"]
    assert api.get("/v1/users/41/explain").json()["items"], "else the best"
    seen = str(data.item_ids.ids[int(data.row(41)[0])])
    for path, status, expected in (
        ("/v1/users/nobody/explain", 404, "'nobody' has no history"),
        (f"/v1/users/41/explain?item={seen}", 422, "in the history already"),
        ("/v1/users/41/explain?item=zz", 422, "none of the items"),
    ):
        refused = api.get(path)
        assert (refused.status_code, expected in refused.json()["detail"]) == (status, True)


def test_without_a_community_nothing_is_explained(tmp_path):
    with client(tmp_path) as api:
        refused = api.get("/v1/users/41/explain")
        assert refused.status_code == 404
        assert "--community" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "give history or user"),
        ({"history": None}, "give history or user"),
        ({"history": [1], "k": 0}, "k: "),
        ({"history": [1], "k": 2001}, "k is at most 1000 here"),
        ({"history": [1], "k": True}, "k: "),
        ({"history": [1], "k": "5"}, "k: "),
        ({"history": [1.5]}, "history.0"),
        ({"history": [True]}, "history.0"),
        ({"history": [None]}, "history.0"),
        ({"history": [[1]]}, "history.0"),
        ({"history": {"a": 1}}, "history: "),
        ({"history": "1001"}, "history: "),
        ({"history": [""]}, "history.0"),
        ({"history": ["x" * 513]}, "history.0"),
        ({"history": [1] * 10_001}, "history: "),
        ({"history": [1], "hystory": [1]}, "hystory: "),
        ({"history": [1], "filter": "none"}, "There is no filter 'none'; there are: first."),
        ({"history": [1], "surface": "a b"}, "surface: "),
        ({"history": [1], "experiment": "pia"}, "experiment needs user"),
        ({"user": 1, "experiment": "pai"}, "There is no experiment 'pai'; there are: pia, over."),
        ({"user": "a\0b"}, "NUL"),
        ([], "body: Input should be an object"),
        ("text", "body: Input should be an object"),
    ],
)
def test_requests_that_are_not_what_they_should_be(asked, expected, api):
    refused = api.post("/v1/recommend", content=json.dumps(asked).encode())
    assert refused.status_code == 422
    assert expected in refused.json()["detail"]
    assert refused.headers["x-request-id"] == refused.json()["request_id"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"history": [1,]}', b"[" * 100_000, b'{"history": [NaN]}',
     b'{"history": ["\\ud800"]}', b'{"history": [' + b"9" * 5000 + b"]}", b"\0", b'{"k":1e999}'],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/recommend/batch", "/v1/events"])
def test_malformed_json(body, path, api):
    assert api.post(path, content=body).status_code == 422


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"event_id": None}, "event_id"),
        ({"kind": "buy"}, "kind"),
        ({"kind": "watch"}, "a watch has seconds"),
        ({"seconds": 4}, "a watch has seconds"),
        ({"kind": "watch", "seconds": -1}, "seconds"),
        ({"kind": "watch", "seconds": 1e999}, "seconds"),
        ({"time": "2026-03-01T10:00:00"}, "time"),
        ({"time": "yesterday"}, "time"),
        ({"arm": "pia"}, "experiment and arm come together"),
        ({"experiment": "pia", "arm": "other"}, "no arm 'other'; there are: control, treated"),
        ({"user": "a\0b"}, "no NUL"),
        ({"item": "é" * 300}, "512 bytes"),
        ({"usr": "x"}, "did you mean 'user'?"),
    ],
)
def test_events_that_are_not_what_they_should_be(change, expected, api):
    for body in ({**EVENT, **change}, {"events": [EVENT, {**EVENT, **change}]}):
        text = json.dumps(body).replace("Infinity", "1e999")
        refused = api.post("/v1/events", content=text.encode())
        assert refused.status_code == 422, refused.text
        detail = refused.json()["detail"]
        assert expected in detail
        assert not {"function-after", "EventBatch"} & set(re.findall("[A-Za-z-]+", detail)), detail
    assert recommend(api, user="ann").json()["fallback"], "nothing of a refused batch is stored"


def test_limits_of_a_batch(tmp_path):
    with client(tmp_path, settings={"most_requests": 3}) as api:
        requests = [{"history": [1001]}] * 4
        assert api.post("/v1/recommend/batch", json={"requests": requests[:3]}).status_code == 200
        events = [{**EVENT, "event_id": str(at)} for at in range(4)]
        for path, body in (
            ("/v1/recommend/batch", {"requests": requests}),
            ("/v1/events", {"events": events}),
        ):
            refused = api.post(path, json=body)
            assert (refused.status_code, "At most 3" in refused.json()["detail"]) == (422, True)
        for path, body in (
            ("/v1/recommend/batch", {"requests": []}),
            ("/v1/events", {"events": []}),
        ):
            assert api.post(path, json=body).status_code == 422


def test_oversized_bodies_announced_or_not(tmp_path):
    with client(tmp_path, settings={"most_bytes": 2048}) as api:
        large = json.dumps({"history": ["x" * 400] * 10}).encode()
        assert api.post("/v1/recommend", content=large).status_code == 413
        chunked = api.post("/v1/recommend", content=iter([large[:1000], large[1000:]]))
        assert "content-length" not in chunked.request.headers
        assert chunked.status_code == 413
        assert chunked.json()["detail"] == "A request may have 2,048 bytes."
        lying = api.post("/v1/recommend", content=b"{}", headers={"content-length": "9" * 30})
        assert lying.status_code == 413
        assert recommend(api, history=[1001]).status_code == 200


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_every_string_is_inert(text, api):
    before = recommend(api, history=[1001]).json()["items"]
    bodies = [
        ("/v1/recommend", {"history": [text]}),
        ("/v1/recommend", {"user": text}),
        ("/v1/recommend", {"history": [1001], "allow": [text], "deny": [text]}),
        ("/v1/recommend", {"history": [1001], "filter": text}),
        ("/v1/recommend", {"history": [1001], "surface": text}),
        ("/v1/recommend", {"user": text, "experiment": text}),
        ("/v1/recommend", {text: text, "history": [1001]}),
        ("/v1/recommend/batch", {"requests": [{"user": text}]}),
        *(("/v1/events", {**EVENT, "event_id": text, key: text}) for key in (*EVENT, "surface")),
        ("/v1/events", {**EVENT, "experiment": text, "arm": text}),
        ("/v1/events", {"events": [{**EVENT, "user": text, "item": text, "event_id": text}]}),
        ("/v1/explain", {"history": [1001, text], "user": text, "items": [text]}),
        ("/v1/map", {"history": [1001, text]}),
    ]
    answers = [api.post(path, json=body) for path, body in bodies]
    for path in ("/v1/items/{}/similar", "/v1/users/{}/explain"):
        encoded = "".join(f"%{byte:02X}" for byte in text.encode())
        answers.append(api.get(path.format(encoded)))
    answers.append(api.get("/v1/items/1001/similar", params={"k": text}))
    answers.append(api.get("/v1/items", params={"query": text}))
    answers.append(api.get("/v1/users/41/explain", params={"item": text}))
    for answer in answers:
        assert answer.status_code in (200, 404, 422), answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in answer.headers
        assert "root:" not in answer.text
    assert recommend(api, history=[1001]).json()["items"] == before
    assert api.get("/readyz").status_code == 200


def test_what_the_loop_has_no_room_for_is_refused_at_once():
    config = ServeConfig(queue_size=2, batch_size=2, most_requests=2)
    begun, metrics = [], Metrics()

    async def test():
        go_on = asyncio.Event()

        async def slow(scope, receive, send):
            begun.append(scope["path"])
            await go_on.wait()
            await Response("done")(scope, receive, send)

        guard = Guard(slow, keys=Keys(()), config=config, metrics=metrics)
        async with AsyncClient(transport=ASGITransport(guard), base_url="http://test") as asking:
            waiting = [asyncio.ensure_future(asking.get("/v1/experiments")) for _ in range(4)]
            while len(begun) < 4:
                await asyncio.sleep(0)
            refused = await asking.post("/v1/recommend", content=b"never read")
            healthy = asyncio.ensure_future(asking.get("/healthz"))
            while len(begun) < 5:
                await asyncio.sleep(0)
            go_on.set()
            answers = await asyncio.gather(*waiting, healthy)
            again = await asking.get("/v1/experiments")
        return refused, [*answers, again]

    refused, answers = asyncio.run(asyncio.wait_for(test(), 20))
    assert [one.status_code for one in answers] == [200] * 6
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "under way" in refused.json()["detail"]
    assert b'status="503"' in metrics.text()


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events"])
def test_a_body_that_drips_is_given_up(path, tmp_path, monkeypatch):
    monkeypatch.setattr("coterie.serving.guard.BODY_SECONDS", 0.1)
    sent, received = [], []

    async def receive():
        await asyncio.sleep(0.02)
        received.append(1)
        return {"type": "http.request", "body": b" ", "more_body": len(received) < 50}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    with client(tmp_path) as api:
        asyncio.run(api.app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert b"took over 0.1 s" in sent[1]["body"]


def test_pages_of_other_sites_may_not_post(api):
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        answer = api.post("/v1/events", json=EVENT, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status
        if status == 403:
            assert "another site" in answer.json()["detail"]
            assert recommend(api, user="ann").json()["fallback"], "nothing was stored"
        asked = api.post(
            "/v1/recommend", json={"history": [1001]}, headers={"Sec-Fetch-Site": site}
        )
        assert asked.status_code == status
    assert api.get("/v1/about", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_why_the_store_is_away_is_logged_once_and_not_told(api, monkeypatch, caplog):
    causes = iter(["disk full", "disk full", "locked", "disk full"])

    async def away(events):
        raise StoreUnavailable(next(causes))

    monkeypatch.setattr(api.service, "add_events", away)
    with caplog.at_level(logging.WARNING, logger="coterie.serving"):
        answers = [api.post("/v1/events", json=EVENT) for _ in range(4)]
    assert {(one.status_code, one.json()["detail"]) for one in answers} == {
        (503, "The store does not answer.")
    }
    assert [record.why for record in caplog.records] == ["disk full", "locked", "disk full"]


def test_readiness_asks_the_store_once_a_second(api, monkeypatch):
    asked = []
    histories = api.service._store.histories
    monkeypatch.setattr(
        api.service._store, "histories", lambda *more: asked.append(1) or histories(*more)
    )
    assert {api.get("/readyz").json()["status"] for _ in range(20)} == {"ready"}
    assert len(asked) == 1
    api.service._looked -= 1
    api.get("/readyz")
    assert len(asked) == 2
    api.service.stop()
    refused = api.get("/readyz")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert set(refused.json()) == {"detail", "request_id"}


def test_a_wrong_key_is_401_everywhere_and_health_is_open(tmp_path):
    with client(tmp_path, keys=[KEY]) as api:
        paths = [
            ("POST", "/v1/recommend"), ("POST", "/v1/recommend/batch"), ("POST", "/v1/events"),
            ("GET", "/v1/items/1/similar"), ("GET", "/v1/users/1/explain"), ("GET", "/metrics"),
            ("GET", "/v1/experiments"), ("GET", "/openapi.json"), ("GET", "/nothing"),
            ("DELETE", "/v1/events"), ("GET", "/v1/items"), ("GET", "/v1/about"),
            ("GET", "/v1/map"), ("POST", "/v1/map"), ("POST", "/v1/explain"),
        ]  # fmt: skip
        for method, path in paths:
            for key in (None, "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x"):
                headers = {} if key is None else {"Authorization": key}
                refused = api.request(method, path, headers=headers, content=b"[" * 99)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert KEY not in refused.text
        right = {"Authorization": f"Bearer {KEY}"}
        assert api.get("/metrics", headers=right).status_code == 200
        assert api.post("/v1/recommend", json={"history": [1]}, headers=right).status_code == 200
        assert api.get("/openapi.json", headers=right).json()["security"] == [{"key": []}]
        assert api.get("/healthz").json() == {"status": "alive"}
        assert api.get("/readyz").json() == {"status": "ready"}


def test_request_ids_are_kept_if_they_are_harmless(api):
    given = api.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"})
    assert given.headers["x-request-id"] == "abc-1.2_3"
    for odd in ("a b", "x" * 65, "<b>", "é".encode()):
        made = api.get("/healthz", headers={"X-Request-ID": odd}).headers["x-request-id"]
        assert len(made) == 16
        assert int(made, 16) >= 0


def test_a_fault_is_500_in_our_form_and_in_the_log(api, monkeypatch, caplog):
    async def broken(requests):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(api.service, "recommend", broken)
    with caplog.at_level(logging.ERROR, logger="coterie.serving.faults"):
        answer = recommend(api, history=[1])
    assert answer.status_code == 500
    assert "secret" not in answer.text
    (record,) = caplog.records
    assert record.request_id == answer.json()["request_id"]
    assert "ZeroDivisionError: secret" in record.exc_text


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events"])
@pytest.mark.parametrize("before", [[], [b'{"hist'], [b'{"hist', b'ory": [1001']])
def test_a_client_that_goes_before_its_request_is_whole_is_noted(before, path, api):
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in before]
    coming, sent = iter([*parts, {"type": "http.disconnect"}]), []

    async def receive():
        return next(coming)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    asyncio.run(api.app(scope, receive, send))
    assert sent[0]["status"] == NO_ANSWER
    text = api.service.metrics.text().decode()
    assert f'coterie_requests_total{{method="POST",route="{path}",status="499"}} 1.0' in text


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/recommend/batch"])
def test_a_body_may_come_in_parts(path, api):
    asked = {"history": [1001, 1002], "k": 3}
    body = json.dumps({"requests": [asked]} if path.endswith("batch") else asked).encode()
    parts = api.post(path, content=iter([body[:1], body[1:9], b"", body[9:]]))
    assert parts.status_code == 200
    assert parts.content == api.post(path, content=body).content


@pytest.mark.parametrize(
    "asked", [{"history": ["x" * 2000]}, {"history": [1], "k": 10**6}, {"history": [1], "k": 0}]
)
def test_a_refusal_leaves_nothing_that_only_a_collection_would_free(asked, api):
    """Its error holds the body: a few thousand of them would fill the memory."""

    def errors():
        return sum(type(one) in (ConfigError, RequestValidationError) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = errors()
        for _ in range(5):
            assert recommend(api, **asked).status_code == 422
        assert errors() == before
    finally:
        gc.enable()


def test_metrics_count_what_happened(api):
    recommend(api, history=[1001])
    recommend(api, history=[])
    api.post("/v1/events", json=[1])
    api.post("/v1/events", json=EVENT)
    api.post("/v1/events", json=EVENT)
    api.get("/no/such/path")
    assert api.get("/openapi.json").headers["content-type"] == "application/json"
    lines = api.get("/metrics").text.splitlines()
    version = api.service.fleet["default"].version
    for line in (
        'coterie_requests_total{method="POST",route="/v1/recommend",status="200"} 2.0',
        'coterie_requests_total{method="POST",route="/v1/events",status="422"} 1.0',
        'coterie_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'coterie_requests_total{method="GET",route="/openapi.json",status="200"} 1.0',
        'coterie_recommendations_total{fallback="no",model="default"} 1.0',
        'coterie_recommendations_total{fallback="yes",model="default"} 1.0',
        'coterie_events_total{kind="click",new="yes"} 1.0',
        'coterie_events_total{kind="click",new="no"} 1.0',
        'coterie_batch_size_count{lane="score"} 2.0',
        'coterie_waiting{lane="score"} 0.0',
        f'coterie_model{{model="default",version="{version}"}} 1.0',
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


@pytest.mark.parametrize(
    ("method", "path", "unknown", "known"),
    [
        ("GET", "/v1/items/1005/similar?n=3&k=2", "n", "k"),
        ("GET", "/v1/items?q=title", "q", "query, limit"),
        ("GET", "/v1/users/41/explain?k=2&items=1001", "items", "k, item"),
        ("GET", "/v1/experiments?name=pia", "name", "none"),
        ("POST", "/v1/recommend?k=3", "k", "none"),
        ("POST", "/v1/recommend/batch?k=3", "k", "none"),
        ("GET", "/v1/about?" + "x" * 500, "x" * 100, "none"),
    ],
)
def test_unknown_query_parameters_are_refused(method, path, unknown, known, api):
    answer = api.request(method, path, json={"history": [1001]} if method == "POST" else None)
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        f"There is no query parameter {unknown!r} here; known: {known}."
    )
    assert api.get("/healthz?verbose=1").status_code == 200


def test_openapi_describes_every_route_with_examples(api):
    schema = api.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/recommend", "/v1/recommend/batch", "/v1/items/{item_id}/similar",
        "/v1/users/{user_id}/explain", "/v1/events", "/v1/experiments", "/v1/about", "/v1/items",
        "/v1/experiments/{name}", "/v1/explain", "/v1/map", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    text = json.dumps(schema)
    known = set(schema["components"]["schemas"])
    assert {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]} <= known
    for name, model in schema["components"]["schemas"].items():
        bare = [field for field, it in model["properties"].items() if not it.get("description")]
        assert not bare, name
    examples = schema["components"]["schemas"]["RecommendRequest"]["examples"]
    for example in examples:
        assert recommend(api, **example).status_code == 200
    for path in ("/v1/recommend/batch", "/v1/events"):
        content = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert api.post(path, json=content["example"]).status_code == 200
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            for parameter in route.get("parameters", []):
                assert parameter["schema"]["examples"], (path, parameter["name"])
                assert parameter["description"], (path, parameter["name"])
            if path == "/metrics":
                continue
            assert ("403" in route["responses"]) is (method == "post")
            for status, answer in route["responses"].items():
                name = answer["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
                (example,) = schema["components"]["schemas"][name]["examples"]
                getattr(wire, name).model_validate_json(json.dumps(example))
                assert (name == "Problem") is (status != "200")
    assert api.get("/docs").status_code == 404, "no page that loads from elsewhere"
