"""What the server can do, without HTTP: one method per question."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from coterie.data.ids import NO_ITEM
from coterie.errors import ConfigError, DataError
from coterie.experiment.events import Event
from coterie.experiment.settings import Experiment
from coterie.serving.explaining import Why, explain_each
from coterie.serving.exploring import NO_COMMUNITY, Exploring, NotFound
from coterie.serving.fleet import DEFAULT, Fleet
from coterie.serving.lanes import Lane, Overloaded
from coterie.serving.metrics import Metrics
from coterie.serving.outcomes import Outcomes
from coterie.serving.reloader import Reloader
from coterie.serving.scoring import Ask, Best, answer
from coterie.serving.served import ExternalItem, ServedModel
from coterie.serving.settings import ServeConfig
from coterie.serving.store import Store, storable
from coterie.serving.wire import RecommendRequest

SLOW_QUEUE = 16  # explanations, and questions for similar items, that may wait
NOBODY = ""  # no user's id; asked for to see whether the store answers
READY_SECONDS = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class _Plan:
    """A request resolved: what the model is asked, and what the answer repeats."""

    request: RecommendRequest
    ask: Ask
    unknown: list[ExternalItem]
    arm: str | None


@dataclass(frozen=True, eq=False, slots=True)
class _Similar:
    model: ServedModel
    index: int
    k: int


class Service:
    """Answers questions; each kind has its lane (queue and thread).

    Parameters
    ----------
    config
        Sizes and limits.
    fleet
        Models and experiments.
    store
        Histories and events.
    metrics
        Where it counts.
    """

    def __init__(self, config: ServeConfig, fleet: Fleet, store: Store, metrics: Metrics) -> None:
        self.config, self.fleet, self.metrics = config, fleet, metrics
        self.stopping = False
        limits: dict[str, Any] = {
            "queue_size": config.queue_size,
            "timeout": config.timeout_seconds,
            "observe": metrics.batch,
        }
        slow = {**limits, "queue_size": SLOW_QUEUE}
        self._store = store
        self._scores: Lane[Ask, Best] = Lane(
            "score", answer, batch_size=config.batch_size, **limits
        )
        self._histories: Lane[str, list[str]] = Lane(
            "histories",
            lambda users: store.histories(users, config.most_history),
            batch_size=config.most_requests,
            **limits,
        )
        self._events: Lane[Event, bool] = Lane(
            "events", store.add, batch_size=config.queue_size, **limits
        )
        self._similar: Lane[_Similar, dict[str, Any]] = Lane(
            "similar", _similar_each, batch_size=SLOW_QUEUE, **slow
        )
        self._why: Lane[Why, dict[str, Any]] = Lane("explain", explain_each, batch_size=1, **slow)
        self.exploring = Exploring(fleet, slow)
        self._outcomes = Outcomes(store, config, metrics.batch)
        self._lanes: tuple[Lane[Any, Any], ...] = (
            self._scores,
            self._histories,
            self._events,
            self._similar,
            self._why,
            *self.exploring.lanes,
            self._outcomes.lane,
        )
        for lane in self._lanes:
            metrics.watch_queue(lane.name, lambda lane=lane: lane.waiting)  # type: ignore[misc]
        for model in fleet.models.values():
            metrics.model(model.name, model.version)
        self.reloader = Reloader(fleet, metrics, config.watch_seconds)
        self._looking: asyncio.Task[list[str]] | None = None
        self._looked = 0.0

    def stop(self) -> None:
        """Say that the end comes; what may take long is ended now. May be called by a signal."""
        self.stopping = True
        self._outcomes.stop()

    async def close(self) -> None:
        """Answer what was accepted, then end all threads and give the store's connections back."""
        self.stop()
        if self._looking is not None:
            self._looking.cancel()
        await self.reloader.close()
        await asyncio.gather(*(lane.close() for lane in self._lanes))
        self._store.close()

    async def ready(self) -> None:
        """Return if requests are welcome; the store is asked once a second at the most.

        Raises
        ------
        Overloaded, StoreUnavailable
            The server is stopping, or the store does not answer.
        """
        if self.stopping:
            raise Overloaded("The server is stopping.")
        now = time.monotonic()
        if self._looking is None or (self._looking.done() and now - self._looked >= READY_SECONDS):
            self._looked = now
            self._looking = asyncio.get_running_loop().create_task(self._histories.ask(NOBODY))
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._looking)  # others may wait for the same

    async def recommend(self, requests: Sequence[RecommendRequest]) -> list[dict[str, Any]]:
        """The lists, in order; all or none.

        Raises
        ------
        DataError, ConfigError
            A request asks for what there is not.
        Overloaded, StoreUnavailable
            Not now.
        """
        if len(requests) > self.config.most_requests:
            raise ConfigError(f"At most {self.config.most_requests} requests at once.")
        stored = [request for request in requests if request.history is None]
        found = await self._histories.ask_all([_user(request) for request in stored])
        histories = iter(found)
        plans = [
            self._plan(one, next(histories) if one.history is None else one.history)
            for one in requests
        ]
        best = await self._scores.ask_all([plan.ask for plan in plans])
        return [self._answer(plan, one) for plan, one in zip(plans, best, strict=True)]

    async def similar(self, item: str, k: int) -> dict[str, Any]:
        """Items like one, of the default model.

        Raises
        ------
        NotFound
            The model does not know the item.
        NotFittedError
            The model cannot tell.
        """
        self._check_k(k)
        model = self.fleet[DEFAULT]
        found, _ = model.find([item])
        if not len(found):
            raise NotFound(f"The model does not know the item {item!r}.")
        return await self._similar.ask(_Similar(model, int(found[0]), k))

    async def find(self, query: str, limit: int) -> dict[str, Any]:
        """Items by the words of their titles, or by id, of the default model."""
        self._check_k(limit, "limit")
        return await self.exploring.find(query, limit)

    async def explain(self, user: str, k: int, items: Sequence[str] | None) -> dict[str, Any]:
        """Who helps a user, and what its items' scores rest on, by the default model.

        Raises
        ------
        NotFound
            The user has no history, or the server no community.
        DataError
            The history or an item to explain is unknown to the model.
        """
        self._check_explains()
        history = await self._histories.ask(user)
        if not history:
            raise NotFound(f"The user {user!r} has no history.")
        return await self.explain_history(history, k, items, user=user)

    async def explain_history(
        self,
        history: Sequence[ExternalItem],
        k: int,
        items: Sequence[ExternalItem] | None,
        *,
        user: str | None = None,
    ) -> dict[str, Any]:
        """As :meth:`explain`, of anyone's history; ``user``, if known, does not help itself."""
        self._check_k(k)
        self._check_explains()
        model, seconds = self.fleet[DEFAULT], self.config.explain_seconds
        return await self._why.ask(Why(model, user, history, items, k, seconds))

    async def add_events(self, events: Sequence[Event]) -> dict[str, int]:
        """Store events; they are on disk when this returns.

        Raises
        ------
        DataError
            An id cannot be stored, or an experiment here has no arm of the event's name; none is
            stored.
        Overloaded, StoreUnavailable
            Not acknowledged; sending the same events again is safe.
        """
        if len(events) > self.config.most_requests:
            raise ConfigError(f"At most {self.config.most_requests} events at once.")
        for event in events:
            storable(event)
            self._check_arm(event)
        fresh = await self._events.ask_all(events)
        for event, new in zip(events, fresh, strict=True):
            self.metrics.event(event.kind, new=new)
        return {"stored": sum(fresh), "duplicates": len(fresh) - sum(fresh)}

    def experiments(self) -> list[dict[str, Any]]:
        """The experiments that requests may name."""
        now = datetime.now(UTC)
        return [
            {
                "name": one.name,
                "start": one.start,
                "end": one.end,
                "running": one.start <= now < one.end,
                "exposed": one.exposed,
                "primary": one.primary,
                "arms": [
                    {"name": arm, "share": share, **self._served(one, arm)}
                    for arm, share in one.arms.items()
                ],
            }
            for one in self.fleet.experiments.values()
        ]

    async def experiment(self, name: str) -> dict[str, Any]:
        """Exposures and figures of one experiment so far, some seconds old at the most.

        Raises
        ------
        NotFound
            There is no such experiment.
        Overloaded, StoreUnavailable
            Not now, or the log is too long.
        """
        experiment = self.fleet.experiments.get(name)
        if experiment is None:
            names = ", ".join(self.fleet.experiments) or "none"
            raise NotFound(f"There is no experiment {name!r}; there are: {names}.")
        found = await self._outcomes.of(experiment)
        arms = [{**arm, **self._served(experiment, arm["name"])} for arm in found["arms"]]
        return {"name": name, **found, "arms": arms}

    def _served(self, experiment: Experiment, arm: str) -> dict[str, str]:
        model = self.fleet[self.fleet.model_of(experiment.name, arm)]
        return {"model": model.name, "version": model.version}

    def _plan(self, request: RecommendRequest, history: Sequence[ExternalItem]) -> _Plan:
        self._check_k(request.k)
        name, arm = self._arm(request)
        model = self.fleet[name]
        known, unknown = model.find(history)
        if request.history is None:  # the answer names unknown ids of the request
            unknown = []
        excluded, allowed, barred = known if request.exclude_seen else known[:0], None, None
        if request.deny:
            denied, more = model.find(request.deny)
            excluded, unknown = np.concatenate([excluded, denied]), unknown + more
        if request.allow is not None:
            allowed, more = model.find(request.allow)
            unknown = unknown + more
        if request.filter is not None:
            barred = model.barred.get(request.filter)
            if barred is None:
                names = ", ".join(model.barred) or "none"
                raise ConfigError(f"There is no filter {request.filter!r}; there are: {names}.")
        ask = Ask(model, known, request.k, excluded, allowed, barred)
        return _Plan(request, ask, unknown, arm)

    def _arm(self, request: RecommendRequest) -> tuple[str, str | None]:
        """The model's name, and the arm."""
        if request.experiment is None:
            return DEFAULT, None
        experiment = self.fleet.experiments.get(request.experiment)
        if experiment is None:
            names = ", ".join(self.fleet.experiments) or "none"
            raise ConfigError(f"There is no experiment {request.experiment!r}; there are: {names}.")
        arm = self.fleet.assign(experiment, _user(request), datetime.now(UTC))
        return (DEFAULT if arm is None else self.fleet.model_of(experiment.name, arm)), arm

    def _answer(self, plan: _Plan, best: Best) -> dict[str, Any]:
        model, request = plan.ask.model, plan.request
        self.metrics.list_given(model.name, fallback=best.fallback)
        return {
            "items": _items(model, best.index, best.scores),
            "unknown": list(dict.fromkeys(plan.unknown)),
            "fallback": best.fallback,
            "model": model.name,
            "version": model.version,
            "experiment": request.experiment,
            "arm": plan.arm,
            "surface": request.surface,
        }

    def _check_explains(self) -> None:
        if self.fleet[DEFAULT].community is None:
            raise NotFound(NO_COMMUNITY)

    def _check_arm(self, event: Event) -> None:
        """One event of an arm that there is not would void the experiment's analysis."""
        experiment = self.fleet.experiments.get(event.experiment or "")
        if experiment is not None and event.arm not in experiment.arms:
            raise DataError(
                f"{event.event_id}: the experiment {experiment.name!r} has no arm {event.arm!r}; "
                f"there are: {', '.join(experiment.arms)}."
            )

    def _check_k(self, k: int, name: str = "k") -> None:
        if k > self.config.most_items:
            raise ConfigError(f"{name} is at most {self.config.most_items} here, got {k}.")


def _user(request: RecommendRequest) -> str:
    user = str(request.user)
    if "\0" in user:
        raise DataError("user: an id holds no NUL.")
    return user


def _items(
    model: ServedModel, index: Sequence[int], scores: Sequence[float]
) -> list[dict[str, Any]]:
    ids, titles = model.ids, model.titles
    return [
        {"item": ids[place], "score": score, "title": titles[place]}
        for place, score in zip(index, scores, strict=True)
    ]


def _similar_each(asked: Sequence[_Similar]) -> list[dict[str, Any] | Exception]:
    return [_similar(one) for one in asked]


def _similar(asked: _Similar) -> dict[str, Any]:
    model = asked.model
    source: str
    if model.similar is not None:
        source = model.similar.source
        index, scores = model.similar.of(asked.index, asked.k)
    else:
        recommender = model.require_recommender()
        found = recommender.similar_items([model.ids[asked.index]], k=asked.k)
        there = found.item_index[0] != NO_ITEM
        source, index, scores = found.source, found.item_index[0][there], found.scores[0][there]
    return {
        "item": model.ids[asked.index],
        "title": model.titles[asked.index],
        "source": source,
        "items": _items(model, index.tolist(), scores.tolist()),
        "model": model.name,
        "version": model.version,
    }
