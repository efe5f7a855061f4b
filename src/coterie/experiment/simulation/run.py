"""A simulated experiment: people come to a running server, see its lists, click and watch."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from coterie.errors import ConfigError, ServerError
from coterie.experiment.assignment import OUTSIDE, places_of
from coterie.experiment.events import SCHEMA
from coterie.experiment.moments import Floats
from coterie.experiment.settings import Experiment, Kind
from coterie.experiment.simulation.clicks import ClickModel
from coterie.experiment.simulation.client import Client
from coterie.experiment.simulation.settings import SimulateOptions
from coterie.experiment.simulation.tastes import Tastes
from coterie.experiment.simulation.truth import Expected, Truth, truths
from coterie.experiment.simulation.visits import DELAY, Visits, draw_before, draw_visits

ItemId = int | str
Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
KINDS: tuple[Kind, ...] = ("impression", "click", "watch")
MOVED = "A model was replaced meanwhile; the truth is that of the models at the beginning."


@dataclass(frozen=True, eq=False)
class Simulated:
    """What came of it.

    Parameters
    ----------
    events
        All that the server acknowledged, with the columns of a log.
    truths
        Every metric and treatment.
    people, visits, before
        How many took part, how often they came, and how often in the pre-period.
    duplicates
        Events that the server had already.
    retries
        Requests that were sent again.
    warnings
        What puts the truth in doubt.
    """

    events: pl.DataFrame
    truths: tuple[Truth, ...]
    people: int
    visits: int
    before: int
    duplicates: int
    retries: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class People:
    """Who takes part, and when they come.

    Parameters
    ----------
    ids
        Of the ``P`` people.
    taste
        Row of each one's taste, int64 ``[P]``.
    arm
        Name of each one's arm.
    visits, before
        Everybody's, in the experiment and in its pre-period.
    """

    ids: list[str]
    taste: NDArray[np.int64]
    arm: list[str]
    visits: Visits
    before: Visits


def invite(experiment: Experiment, n_tastes: int, options: SimulateOptions) -> People:
    """Draw the people and their visits; each taste is repeated as often as it takes.

    Raises
    ------
    ConfigError
        The experiment is too short, or an arm gets nobody.
    """
    ids = [f"simulated-{options.seed}-{person}" for person in range(options.users)]
    places = places_of(experiment, ids)
    inside = np.flatnonzero(places != OUTSIDE)
    arms = [experiment.arm_names[place] for place in places[inside]]
    for name in experiment.arm_names:
        if name not in arms:
            raise ConfigError(
                f"None of {options.users} people falls into the arm {name!r}; take more users."
            )
    rng = np.random.default_rng([options.seed, 0])
    visits = draw_visits(experiment, len(inside), options.visits, rng)
    before = draw_before(experiment, len(inside), options.visits, rng)
    return People([ids[at] for at in inside], inside % n_tastes, arms, visits, before)


async def simulate(
    client: Client,
    experiment: Experiment,
    tastes: Tastes,
    people: People,
    options: SimulateOptions,
    counting: Counting,
) -> Simulated:
    """Drive the server through all visits; what people see does not depend on what they did.

    A request carries the person's history as it is in the data, so that each arm gives a person
    one list, and the true lift follows from the lists. In the pre-period everybody sees the
    control's lists, and events carry no experiment.

    Parameters
    ----------
    client
        Of a server on which the experiment runs now.
    experiment
        As the server has it; its period may be another.
    tastes
        The people's.
    people
        Of :func:`invite`.
    options
        Length of the lists, clicks, concurrency, seed.
    counting
        From what is counted to a context with a function ``(done, all)``.

    Raises
    ------
    ServerError
        The server does not answer, or has another experiment.
    """
    await _check_server(client, experiment)
    run = _Run(client, experiment, tastes, options, people)
    with counting("asking what each arm shows") as tell:
        arms = {arm: await run.expected(arm, tell) for arm in experiment.arm_names}
    with counting("visits") as tell:
        await run.visit_all(tell)
    rows = sorted(run.rows, key=lambda row: (row[3], row[0]))
    return Simulated(
        events=pl.DataFrame(rows, schema=SCHEMA, orient="row"),
        truths=truths(experiment, arms, people.visits),
        people=len(people.ids),
        visits=len(people.visits),
        before=len(people.before),
        duplicates=run.duplicates,
        retries=client.retries,
        warnings=(MOVED,) if run.moved else (),
    )


async def _check_server(client: Client, experiment: Experiment) -> None:
    found = (await client.get("/v1/experiments")).get("experiments", [])
    there = {one["name"]: one for one in found}
    facts = there.get(experiment.name)
    if facts is None:
        names = ", ".join(there) or "none"
        raise ServerError(
            f"The server at {client.url} has no experiment {experiment.name!r}; it has: {names}. "
            "Start it with --experiment FILE."
        )
    if not facts["running"]:
        raise ServerError(
            f"On the server at {client.url} {experiment.name!r} runs from {facts['start']} to "
            f"{facts['end']}, so nobody is in an arm now. Give it a period that holds today."
        )
    arms = {arm["name"]: arm["share"] for arm in facts["arms"]}
    if arms != experiment.arms:
        raise ServerError(
            f"The server at {client.url} has the arms {arms} in {experiment.name!r}, the file "
            f"{experiment.arms}; both must have the same."
        )


class _Run:
    """One simulation under way."""

    def __init__(
        self,
        client: Client,
        experiment: Experiment,
        tastes: Tastes,
        options: SimulateOptions,
        people: People,
    ) -> None:
        self._client, self._experiment = client, experiment
        self._options, self._people = options, people
        self._clicks = ClickModel(options.position_bias, options.noise)
        self._versions: dict[str, str] = {}
        self._history = lru_cache(None)(tastes.history)
        self._relevance = lru_cache(None)(tastes.relevance)  # of each list once, not each visit
        self._plain: dict[int, tuple[ItemId, ...]] = {}  # the control's list for each taste
        self.rows: list[tuple[Any, ...]] = []  # acknowledged events
        self.duplicates = 0
        self.moved = False

    async def expected(self, arm: str, tell: Callable[[int, int], None]) -> Expected:
        """What the arm's lists bring if everybody gets them; asked for as one of its people."""
        asks_as = self._people.ids[self._people.arm.index(arm)]
        tastes = sorted(set(self._people.taste.tolist()))
        relevance: dict[int, Floats] = {}

        async def ask(taste: int) -> None:
            shown = await self._list(asks_as, arm, taste, None)
            relevance[taste] = self._relevance(taste, shown)
            if arm == self._experiment.arm_names[0]:
                self._plain[taste] = shown
            tell(len(relevance), len(tastes))

        await self._each(iter(tastes), ask)
        return Expected.of(self._clicks, [relevance[taste] for taste in self._people.taste])

    async def visit_all(self, tell: Callable[[int, int], None]) -> None:
        """Everybody comes; a person's visits one after the other, several people at once."""
        done, periods = 0, (self._people.before, self._people.visits)
        total = sum(map(len, periods))
        edges = [np.append(visits.first, len(visits)) for visits in periods]

        async def come(person: int) -> None:
            nonlocal done
            for inside, edge in enumerate(edges):
                for number, visit in enumerate(range(edge[person], edge[person + 1])):
                    await self._visit(person, number, visit, inside=bool(inside))
                    done += 1
                    tell(done, total)

        try:
            await self._each(iter(range(len(self._people.ids))), come)
        except ServerError as error:
            raise ServerError(
                f"{error} {done:,} of {total:,} visits had been acknowledged."
            ) from error

    async def _each(self, jobs: Iterator[int], work: Callable[[int], Any]) -> None:
        async def worker() -> None:
            for job in jobs:
                await work(job)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._options.concurrency):
                    group.create_task(worker())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _visit(self, person: int, number: int, visit: int, *, inside: bool) -> None:
        people, name = self._people, self._experiment.name
        visits = people.visits if inside else people.before
        user, arm, taste = people.ids[person], people.arm[person], int(people.taste[person])
        surface = visits.surfaces[visits.surface[visit]]
        shown = await self._list(user, arm, taste, surface) if inside else self._plain[taste]
        rng = np.random.default_rng([self._options.seed, 1 if inside else 2, person, number])
        stem = f"{name}-{user}-{number}" if inside else f"{name}-{user}-before-{number}"
        seconds = self._clicks.draw(self._relevance(taste, shown), rng, self._options.k)
        events = []
        for place, (item, watched) in enumerate(zip(shown, seconds.tolist(), strict=True)):
            for kind in KINDS[:1] if np.isnan(watched) else KINDS:
                second = int(visits.second[visit]) + DELAY[kind]
                events.append(
                    {
                        "event_id": f"{stem}-{place}-{kind}",
                        "user": user,
                        "kind": kind,
                        "time": self._experiment.start + timedelta(seconds=second),
                        "item": str(item),
                        "surface": surface,
                        "seconds": watched if kind == "watch" else None,
                        "experiment": name if inside else None,
                        "arm": arm if inside else None,
                    }
                )
        if events:
            answer = await self._client.post("/v1/events", {"events": events})
            self.duplicates += answer["duplicates"]
            self.rows += [tuple(event.values()) for event in events]

    async def _list(
        self, user: str, arm: str, taste: int, surface: str | None
    ) -> tuple[ItemId, ...]:
        answer = await self._client.post(
            "/v1/recommend",
            {
                "user": user,
                "history": self._history(taste),
                "k": self._options.k,
                "experiment": self._experiment.name,
                "surface": surface,
            },
        )
        if answer["arm"] != arm:
            raise ServerError(
                f"The server puts {user!r} into the arm {answer['arm']!r}, the file into {arm!r}: "
                "its salt, group, share of users or period is another."
            )
        if self._versions.setdefault(arm, answer["version"]) != answer["version"]:
            self.moved = True
        return tuple(item["item"] for item in answer["items"])
