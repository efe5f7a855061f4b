"""How an experiment stands over HTTP: from the store's log, apart from scoring, within limits."""

import asyncio
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from served_models import save
from starlette.testclient import TestClient

from coterie.experiment.assignment import arm_of
from coterie.experiment.events import Event
from coterie.experiment.log import summarize
from coterie.experiment.settings import Experiment
from coterie.experiment.standing import standing
from coterie.serving import outcomes
from coterie.serving.app import create_app
from coterie.serving.fleet import Fleet
from coterie.serving.keys import Keys
from coterie.serving.lanes import Overloaded
from coterie.serving.metrics import Metrics
from coterie.serving.outcomes import Outcomes
from coterie.serving.service import Service
from coterie.serving.settings import ServeConfig
from coterie.serving.store import Store, StoreUnavailable
from coterie.serving.wire import ExperimentAnswer

NOW = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
PIA = Experiment(
    name="pia",
    start=NOW - timedelta(days=2),
    end=NOW + timedelta(days=2),
    arms={"control": 0.5, "treated": 0.5},
    least_users=20,
    minimum_effect=0.5,
)


def observe(name, size, seconds):
    pass


def people(n=120):
    """Two thirds of the treated click, and one third of the control."""
    made = []
    for user in range(n):
        arm = arm_of(PIA, user)
        label = {"user": user, "experiment": "pia", "arm": arm, "item": "1003"}
        time = PIA.start + timedelta(hours=user % 40)
        made.append(Event(event_id=f"{user}-seen", kind="impression", time=time, **label))
        if user % 3 < (2 if arm == "treated" else 1):
            made.append(Event(event_id=f"{user}-clicked", kind="click", time=time, **label))
    return made


@contextmanager
def client(tmp_path, **settings):
    folders = {"default": save(tmp_path / "model"), "treated": save(tmp_path / "treated", 1)}
    store = Store(f"sqlite:///{tmp_path}/store.db")
    config = ServeConfig(watch_seconds=0, **settings)
    service = Service(config, Fleet(folders, experiments=(PIA,)), store, Metrics())
    with TestClient(create_app(service, Keys()), raise_server_exceptions=False) as opened:
        opened.store = store
        yield opened


def test_exposures_lifts_and_days(tmp_path):
    with client(tmp_path) as api:
        api.store.add(people())
        answer = api.get("/v1/experiments/pia")
    assert answer.status_code == 200
    found = answer.json()
    ExperimentAnswer.model_validate(found)
    treated = [user for user in range(120) if arm_of(PIA, user) == "treated"]
    control = [user for user in range(120) if user not in treated]
    clicks = {
        "control": sum(u % 3 < 1 for u in control),
        "treated": sum(u % 3 < 2 for u in treated),
    }
    for arm, users in zip(found["arms"], (control, treated), strict=True):
        assert (arm["users"], arm["impressions"]) == (len(users), len(users))
        assert arm["clicks"] == clicks[arm["name"]]
    assert [arm["model"] for arm in found["arms"]] == ["default", "treated"]
    first = found["results"][0]
    assert (first["metric"], first["arm"]) == ("ctr_per_impression", "treated")
    assert first["control_mean"] == pytest.approx(clicks["control"] / len(control))
    assert first["lift"] == pytest.approx(first["mean"] / first["control_mean"] - 1)
    assert first["low"] < first["lift"] < first["high"]
    assert [day["date"] for day in found["days"]] == [
        f"{PIA.start + timedelta(days=day):%Y-%m-%d}" for day in (0, 1)
    ]
    entered = [sum(user % 40 < 24 for user in users) for users in (control, treated)]
    assert list(found["days"][0]["users"].values()) == entered
    assert found["days"][-1]["results"][0] == {
        key: first[key] for key in ("metric", "arm", "lift", "low", "high")
    }


def test_nobody_yet_and_a_log_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "REST", 0)
    with client(tmp_path, keep_seconds=0) as api:
        empty = api.get("/v1/experiments/pia").json()
        odd = people(1)[0].model_copy(update={"arm": "typo"})
        api.store.add([odd])
        broken = api.get("/v1/experiments/pia").json()
    assert [arm["users"] for arm in empty["arms"]] == [0, 0]
    assert (empty["sample_ratio_mismatch"], empty["days"]) == (
        {"p_value": None, "warning": None},
        [],
    )
    assert "nobody has entered" in empty["results"][0]["sentence"]
    assert [arm["users"] for arm in broken["arms"]] == [None, None]
    assert "'typo'" in broken["sample_ratio_mismatch"]["warning"]
    assert [one["results"][0]["verdict"] for one in (empty, broken)] == ["no data", "not valid"]
    for one in (empty, broken):
        ExperimentAnswer.model_validate(one)
        assert one["results"][0]["lift"] is None


def test_unknown_experiments_and_hostile_names(tmp_path):
    with client(tmp_path) as api:
        for name in ("other", "<script>", "'; DROP TABLE events; --", "é" * 100):
            answer = api.get(f"/v1/experiments/{name}")
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/json"
            assert "pia" in answer.json()["detail"]
        described = api.get("/openapi.json").json()
    path = described["paths"]["/v1/experiments/{name}"]["get"]
    assert set(path["responses"]) >= {"200", "404", "503"}
    (example,) = described["components"]["schemas"]["ExperimentAnswer"]["examples"]
    ExperimentAnswer.model_validate(example)


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"most_log": 5}, "more than 5 events"), ({"analyze_seconds": 0.01}, "longer than 0.01 s")],
)
def test_a_log_that_is_too_long_is_refused_clearly_and_not_tried_again(tmp_path, settings, why):
    with client(tmp_path, keep_seconds=60, **settings) as api:
        api.store.add(people())
        answer = api.get("/v1/experiments/pia")
        assert answer.status_code == 503
        assert 1 < int(answer.headers["retry-after"]) <= 60, "as long as this is the answer"
        assert why in answer.json()["detail"]
        assert "coterie experiment analyze" in answer.json()["detail"]
        again = api.get("/v1/experiments/pia")
        assert again.json()["detail"] == answer.json()["detail"]
        batches = 'coterie_batch_size_count{lane="experiments"} 1.0'
        assert batches in api.get("/metrics").text


class Apart:
    """Stands in for the other process: counts, and waits until it is let go."""

    def __init__(self, monkeypatch, *results):
        self.calls, self.results, self.go = 0, list(results), threading.Event()
        monkeypatch.setattr(Outcomes, "_apart", lambda _, experiment: self(experiment))

    def __call__(self, experiment):
        self.calls += 1
        assert self.go.wait(10)
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


def made(**settings):
    return Outcomes(None, ServeConfig(**settings), observe)


def test_those_who_ask_together_get_one_analysis_which_is_kept(monkeypatch):
    apart = Apart(monkeypatch, {"at": 1}, {"at": 2})

    async def run():
        found = made(keep_seconds=0.2)
        asked = [asyncio.create_task(found.of(PIA)) for _ in range(10)]
        await asyncio.sleep(0)
        asked[0].cancel()  # hangs up; the others are served all the same
        apart.go.set()
        first = await asyncio.gather(*asked[1:])
        at_once = await found.of(PIA)
        await asyncio.sleep(0.5)
        later = await found.of(PIA)
        await found.lane.close()
        return first, at_once, later

    first, at_once, later = asyncio.run(run())
    assert first == [{"at": 1}] * 9
    assert (at_once, later, apart.calls) == ({"at": 1}, {"at": 2}, 2)


def test_what_failed_for_now_is_tried_again_at_once(monkeypatch):
    apart = Apart(monkeypatch, StoreUnavailable("away"), Overloaded("not now"), {"at": 3})
    apart.go.set()

    async def run():
        found = made(keep_seconds=60)
        for error in (StoreUnavailable, Overloaded):
            with pytest.raises(error):
                await found.of(PIA)
        assert await found.of(PIA) == {"at": 3}
        await found.lane.close()

    asyncio.run(run())


def test_a_stopping_server_ends_the_analysis(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/store.db")

    async def run():
        found = Outcomes(store, ServeConfig(), observe)
        asked = asyncio.create_task(found.of(PIA))
        await asyncio.sleep(0)
        found.stop()
        with pytest.raises(Overloaded, match="stopping"):
            await asked
        await found.lane.close()

    asyncio.run(run())
    store.close()


def test_a_process_that_dies_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "_calculate", dies)
    store = Store(f"sqlite:///{tmp_path}/store.db")
    with pytest.raises(Overloaded, match="exit code 7"):
        Outcomes(store, ServeConfig(), observe)._apart(PIA)
    store.close()


def dies(*_):
    import os

    os._exit(7)


def test_either_database_gives_what_the_log_itself_gives(database):
    store = Store(database)
    store.add(people())
    found = Outcomes(store, ServeConfig(), observe)._apart(PIA)
    log = pl.concat(store.log()).lazy()
    assert {
        key: found[key] for key in ("arms", "sample_ratio_mismatch", "results", "days")
    } == standing(log, PIA)
    assert summarize(log, PIA).facts.events == len(people()), "the whole log was read"
    store.close()
