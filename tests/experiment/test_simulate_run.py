"""A simulated experiment against servers on loopback: what is sent, sent again, and refused."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from made_up import START, experiment
from stub_server import Stub, listening, problem

from coterie.data.ids import IdMap
from coterie.errors import ConfigError, ServerError
from coterie.experiment.analysis import analyze
from coterie.experiment.assignment import OUTSIDE, places_of
from coterie.experiment.log import summarize
from coterie.experiment.settings import DAY, read_experiment
from coterie.experiment.simulation import client as client_module
from coterie.experiment.simulation import server
from coterie.experiment.simulation.client import Client
from coterie.experiment.simulation.run import MOVED, invite, simulate
from coterie.experiment.simulation.settings import SimulateOptions
from coterie.experiment.simulation.tastes import Tastes
from coterie.experiment.toml import to_toml
from coterie.histories import from_pairs
from coterie.models.config import ModelConfig
from coterie.models.vae import VAE
from coterie.recommender import Recommender

N_ITEMS = 60


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client_module, "AWAY_SECONDS", 0.2)
    monkeypatch.setattr(client_module, "PAUSE", 0.05)


def tastes(n=20):
    """People who know two items each and like every item from 1001 on by its distance."""
    users, items = np.repeat(np.arange(n), 2), np.tile([40, 50], n)
    known = from_pairs(users, items, IdMap(range(n)), IdMap(range(1000, 1000 + N_ITEMS)))
    return Tastes(known, lambda user, item: np.where(item > 0, 0.9, 0.1), "made up")


def silent(what):
    return nullcontext(lambda done, total: None)


def run(url, pia, *, key=None, people_like=None, **given):
    options = SimulateOptions.read({"users": 60, "visits": 2.0, "k": 4, "concurrency": 5, **given})
    people = invite(pia, 20, options)

    async def drive():
        async with Client(url, key=key, connections=5) as client:
            return await simulate(client, pia, people_like or tastes(), people, options, silent)

    return asyncio.run(drive())


def test_lists_are_asked_for_and_every_event_arrives():
    pia = experiment(surfaces=["home", "movie"], exposed=0.8)
    stub = Stub(pia)
    with listening(stub) as url:
        found = run(url, pia)
    assert set(found.events["event_id"]) == set(stub.events)
    ids = [f"simulated-0-{person}" for person in range(60)]
    places = places_of(pia, ids)
    assert found.people == (places != OUTSIDE).sum() < 60
    assert set(found.events["user"]) == {ids[at] for at in np.flatnonzero(places != OUTSIDE)}
    assert (found.duplicates, found.retries, found.warnings) == (0, 0, ())
    labelled = found.events.filter(pl.col("experiment").is_not_null())
    shown = labelled.filter(kind="impression")
    assert len(shown) == 4 * found.visits
    assert set(shown.filter(arm="control")["item"]) == {"1000", "1001", "1002", "1003"}
    assert set(shown.filter(arm="pia")["item"]) == {"1001", "1002", "1003", "1004"}
    assert shown["time"].min() >= START
    assert shown["time"].max() < pia.end
    assert set(shown["surface"]) == {"home", "movie"}
    clicks, watches = labelled.filter(kind="click"), labelled.filter(kind="watch")
    assert len(clicks) == len(watches) > 0
    assert watches["seconds"].min() > 0
    asked = [body for path, body, _ in stub.requests if path == "/v1/recommend"]
    assert {tuple(body["history"]) for body in asked} == {(1040, 1050)}


def test_before_the_start_people_see_the_controls_lists_in_no_experiment():
    pia = experiment(surfaces=["home", "movie"], pre_period_days=5)
    with listening(Stub(pia)) as url:
        found = run(url, pia, users=200)
    before = found.events.filter(pl.col("experiment").is_null())
    shown = before.filter(kind="impression")
    assert len(shown) == 4 * found.before
    assert found.before == pytest.approx(found.visits / 2, rel=0.15), "five days against ten"
    assert START - 5 * DAY <= before["time"].min() < before["time"].max() < START
    assert before["arm"].is_null().all()
    assert set(shown["item"]) == {"1000", "1001", "1002", "1003"}
    assert set(shown["surface"]) == {"home", "movie"}
    none = experiment(pre_period_days=0)
    with listening(Stub(none)) as url:
        assert run(url, none).before == 0
    with listening(Stub(pia)) as url:
        assert run(url, experiment(pre_period_days=300)).before < 200, "no more than in it"


def test_the_pre_period_narrows_the_interval_around_the_truth():
    """People like everything, or next to nothing; CUPED knows which from before."""
    known = tastes().known
    uneven = Tastes(known, lambda user, item: np.full(len(item), 0.1 + 0.8 * (user % 2)), "made up")
    pia = experiment(least_users=50)
    with listening(Stub(pia)) as url:
        found = run(url, pia, users=400, people_like=uneven)
    log = summarize(found.events.lazy(), pia)
    first = analyze(log, pia).results[0]
    assert first.comparison.variance_reduction > 0.3
    truth = next(one for one in found.truths if one.metric == "ctr_per_impression")
    assert truth.lift == 0
    assert abs(first.comparison.effect.lift) < 4 * first.comparison.effect.relative_se
    (watched,) = [one for one in found.truths if one.metric == "watch_seconds_per_user"]
    assert watched.lift == 0


def test_the_planted_truth_is_found():
    """First place .9 against .1 and the rest alike: the lift follows from the places alone."""
    pia = experiment(least_users=50)
    with listening(Stub(pia)) as url:
        found = run(url, pia, users=400, noise=0.0)
    truth = next(one for one in found.truths if one.metric == "ctr_per_impression")
    rest = 0.9 * (1 / 2 + 1 / 3 + 1 / 4)
    assert truth.lift == pytest.approx((0.9 + rest) / (0.1 + rest) - 1)
    analysis = analyze(summarize(found.events.lazy(), pia), pia)
    first = analysis.results[0]
    assert first.verdict == "better"
    assert truth.covered(first.interval)
    spread = (first.comparison.effect.lift - truth.lift) / first.comparison.effect.relative_se
    assert abs(spread) < 5


def test_the_same_seed_clicks_the_same_in_whatever_order():
    pia = experiment()
    with listening(Stub(pia)) as url:
        one, again, other = (
            run(url, pia, concurrency=1),
            run(url, pia, concurrency=8),
            run(url, pia, seed=1),
        )
    assert one.events.equals(again.events)
    assert (one.duplicates, again.duplicates) == (0, len(again.events))
    assert one.truths == again.truths
    assert set(one.events["event_id"]).isdisjoint(other.events["event_id"])
    assert other.duplicates == 0


def test_a_busy_server_is_asked_again_with_the_same_events():
    """Every third request is refused, and every sixth has been heard all the same."""
    pia = experiment()
    busy = problem(503, "overloaded", Retry_After="0")

    def fails(method, path, n):
        return (lambda handler: busy(handler) or n % 6 == 5) if n % 3 == 2 else None

    calm, stub = Stub(pia), Stub(pia, fails=fails)
    with listening(calm) as url:
        wanted = run(url, pia)
    with listening(stub) as url:
        found = run(url, pia)
    assert found.events.equals(wanted.events)
    assert stub.events == calm.events
    assert found.retries > 20
    assert found.duplicates > 0, "some events had been stored before they were sent again"
    sent = [body for path, body, _ in stub.requests if path == "/v1/events"]
    contents = {}
    for event in (one for body in sent for one in body["events"]):
        assert contents.setdefault(event["event_id"], event) == event


def test_a_connection_that_breaks_is_tried_again():
    pia = experiment()

    def hang_up(handler):
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True

    def fails(method, path, n):
        return hang_up if n in (3, 40, 41) else None

    with listening(Stub(pia, fails=fails)) as url:
        found = run(url, pia, concurrency=1)
    assert found.retries >= 2


def test_a_server_that_stays_busy_or_away_is_said(monkeypatch):
    pia = experiment()
    monkeypatch.setattr(client_module, "BUSY_SECONDS", 0.1)
    busy = problem(503, "score took longer than 5 s", Retry_After="0")
    with (
        listening(Stub(pia, fails=lambda method, path, n: busy if n > 50 else None)) as url,
        pytest.raises(ServerError, match=r"overloaded: score took longer than 5 s\. \d+ of"),
    ):
        run(url, pia)
    with pytest.raises(ServerError, match="does not answer"):
        run(url, pia)


def test_keys(monkeypatch):
    pia = experiment()
    stub = Stub(pia)
    with listening(stub) as url:
        run(url, pia, key="secret-of-sixteen", users=20)
    assert {key for _, _, key in stub.requests} == {"Bearer secret-of-sixteen"}
    refused = problem(401, "A key is needed")
    with listening(Stub(pia, fails=lambda *_: refused)) as url:
        for key, why in ((None, "without a key"), ("wrong", "the first key")):
            with pytest.raises(ServerError, match=why) as error:
                run(url, pia, key=key)
            assert "wrong" not in str(error.value)
            assert "COTERIE_API_KEYS" in str(error.value)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"name": "other"}, "no experiment 'pia'; it has: other"),
        ({"running": False}, "runs from 2026-03-01 to 2026-04-01"),
        ({"arms": [{"name": "control", "share": 1.0}]}, "both must have the same"),
    ],
)
def test_another_experiment_is_refused(facts, why):
    pia = experiment()
    stub = Stub(pia)
    stub.facts |= facts
    with listening(stub) as url, pytest.raises(ServerError, match=why):
        run(url, pia)
    assert stub.events == {}


def test_another_salt_is_noticed():
    pia = experiment()
    with (
        listening(Stub(pia.model_copy(update={"salt": "other"}))) as url,
        pytest.raises(ServerError, match="its salt"),
    ):
        run(url, pia)


def test_what_is_no_server_of_ours_is_said():
    pia = experiment()
    with (
        listening(Stub(pia, fails=lambda *_: problem(404, "no such page"))) as url,
        pytest.raises(ServerError, match="404: no such page"),
    ):
        run(url, pia)
    for url in ("localhost:8080", "ftp://localhost", "http://", ""):
        with pytest.raises(ConfigError, match="no URL"):
            run(url, pia)


def test_a_replaced_model_puts_the_truth_in_doubt():
    pia = experiment()

    class Changing(Stub):
        def answer(self, path, body):
            found = super().answer(path, body)
            return {**found, "version": "2"} if len(self.requests) > 60 else found

    with listening(Changing(pia)) as url:
        assert run(url, pia).warnings == (MOVED,)


def test_nobody_in_an_arm():
    with listening(Stub(experiment())) as url, pytest.raises(ConfigError, match="more users"):
        run(url, experiment(), users=1)


def test_lists_may_be_empty():
    pia = experiment()
    with listening(Stub(pia, n_items=1)) as url:  # the treatment has none
        found = run(url, pia)
    assert set(found.events["arm"].drop_nulls()) == {"control"}
    assert all(np.isnan(truth.treatment) for truth in found.truths)


@pytest.fixture
def model(tmp_path):
    return Recommender(
        VAE(ModelConfig(hidden_dims=(16,), latent_dim=8), N_ITEMS).initialized(0),
        tastes().known.item_ids,
        np.arange(N_ITEMS, 0, -1),
    ).save(tmp_path / "model")


@pytest.mark.slow
def test_a_server_killed_in_the_middle_is_said(model, tmp_path, monkeypatch):
    now = datetime.now(UTC)
    pia = experiment(start=now - DAY, end=now + DAY)
    (tmp_path / "pia.toml").write_text(to_toml(pia))
    started = []

    def start(*arguments, **settings):
        started.append(subprocess_popen(*arguments, **settings))
        return started[-1]

    subprocess_popen = subprocess.Popen
    monkeypatch.setattr(server.subprocess, "Popen", start)

    def counting(what):
        def tell(done, total):
            if what == "visits" and done == 10:
                started[0].send_signal(signal.SIGKILL)

        return nullcontext(tell)

    options = SimulateOptions(users=100, k=5)

    async def drive(url):
        async with Client(url, key=None, connections=5) as client:
            await simulate(client, pia, tastes(), invite(pia, 20, options), options, counting)

    with (
        server.own_server(model, {"pia": model}, tmp_path / "pia.toml", tmp_path) as url,
        pytest.raises(ServerError, match=r"does not answer: .* visits had been acknowledged"),
    ):
        asyncio.run(drive(url))
    assert started[0].poll() == -signal.SIGKILL


SERVES = """
import sys
from pathlib import Path
from coterie.experiment.simulation.server import own_server
model, folder = map(Path, sys.argv[1:])
with own_server(model, {"pia": model}, folder / "pia.toml", folder) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def test_the_server_ends_when_the_simulation_is_killed(model, tmp_path):
    (tmp_path / "pia.toml").write_text(to_toml(experiment()))
    words = [sys.executable, "-c", SERVES, str(model), str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as simulation:
        url = simulation.stdout.readline().strip()
        assert urllib.request.urlopen(f"{url}/readyz", timeout=30).status == 200
        simulation.kill()
    end = time.monotonic() + 60
    while '"stopped"' not in (tmp_path / "server.log").read_text():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_server_that_does_not_start_says_why(tmp_path):
    with (
        pytest.raises(ServerError, match=r"did not start: .*nowhere"),
        server.own_server(tmp_path / "nowhere", {}, tmp_path / "pia.toml", tmp_path),
    ):
        pass


def test_an_experiment_and_its_file_are_the_same(tmp_path):
    pia = experiment(
        surfaces=["home"],
        group={"name": "g", "slice": [0.0, 0.5]},
        metrics=[{"name": "m", "numerator": "clicks", "window_days": 2.0, "better": "lower"}],
        guardrails=[{"metric": "m", "margin": 0.1}],
        arms={"control": 0.5, "a.b": 0.25, "c-d": 0.25},
    )
    path = tmp_path / "pia.toml"
    path.write_text(to_toml(pia))
    assert read_experiment(path) == pia
    assert Counter(path.read_text())["\n"] == len(pia.model_dump(exclude_none=True))
