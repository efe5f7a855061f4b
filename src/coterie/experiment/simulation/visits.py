"""When people come, and where on the site: drawn before anybody is shown anything."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.errors import ConfigError
from coterie.experiment.settings import DAY, Column, Experiment, Kind

SHORTEST = 3600  # seconds of an experiment
LAST = 60  # seconds before the end in which nobody comes, so that what follows still counts
DELAY: dict[Kind, int] = {"impression": 0, "click": 1, "watch": 2}
"""Seconds from a visit to its events; whoever clicks, watches at once."""
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Visits:
    """All visits, in order of people and then of time.

    Parameters
    ----------
    person, second, surface
        Whose, when (since the experiment's start, below 0 before it) and where (place in
        ``surfaces``), int64 ``[V]``.
    surfaces
        Where one can be; None if the experiment names no surface.
    n_people
        Of the experiment; each comes at least once in it.
    """

    person: NDArray[np.int64]
    second: NDArray[np.int64]
    surface: NDArray[np.int64]
    surfaces: tuple[str | None, ...]
    n_people: int

    def __len__(self) -> int:
        return len(self.person)

    @property
    def first(self) -> NDArray[np.int64]:
        """Place of each person's first visit, or where it would be, int64 ``[P]``."""
        return np.searchsorted(self.person, np.arange(self.n_people))

    def counting(self, column: Column) -> NDArray[np.int64]:
        """Visits of each person whose events count for a column, int64 ``[P]``."""
        counts = np.ones(len(self), dtype=bool)
        if column.surface is not None:
            counts &= np.array([name == column.surface for name in self.surfaces])[self.surface]
        if column.window_days is not None:
            entry = self.second[self.first][self.person]
            since = self.second + DELAY[column.kind] - entry
            counts &= since < column.window_days * DAY_SECONDS
        return np.bincount(self.person[counts], minlength=self.n_people)


def draw_visits(
    experiment: Experiment, n_people: int, mean: float, rng: np.random.Generator
) -> Visits:
    """Everyone comes once, and a Poisson number of times more, at any time of the experiment.

    Raises
    ------
    ConfigError
        The experiment lasts less than an hour.
    """
    seconds = int((experiment.end - experiment.start).total_seconds())
    if seconds < SHORTEST:
        raise ConfigError(
            f"{experiment.name} lasts {seconds} s; an experiment of an hour or more can be "
            "simulated."
        )
    times = 1 + rng.poisson(mean - 1, n_people)
    return _drawn(experiment, times, (0, seconds - LAST), rng)


def draw_before(
    experiment: Experiment, n_people: int, mean: float, rng: np.random.Generator
) -> Visits:
    """Visits of the pre-period, as many by day as in the experiment but no more in all.

    Some people do not come: CUPED knows nothing of them, as of new users.
    """
    period = experiment.pre_period_days * DAY
    share = min(1.0, period / (experiment.end - experiment.start))
    times = rng.poisson(mean * share, n_people)
    return _drawn(experiment, times, (-int(period.total_seconds()), -LAST), rng)


def _drawn(
    experiment: Experiment,
    times: NDArray[np.int64],
    period: tuple[int, int],
    rng: np.random.Generator,
) -> Visits:
    """So many visits of each person, at any second of a period and on any surface."""
    person = np.repeat(np.arange(len(times)), times)
    second = rng.integers(*period, len(person)) if len(person) else np.zeros(0, dtype=np.int64)
    surfaces = experiment.surfaces or (None,)
    surface = rng.integers(0, len(surfaces), len(person))
    order = np.lexsort((second, person))
    return Visits(person, second[order], surface, surfaces, len(times))
