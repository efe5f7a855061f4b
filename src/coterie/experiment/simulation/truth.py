"""The true lift: every metric as it would be if everybody were in one arm, by expectation.

Nothing is sampled here. The lists that each arm gives to everybody are known, so the click model
says what each visit brings on average; visits do not depend on the arm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coterie.experiment.effect import Interval
from coterie.experiment.moments import Floats
from coterie.experiment.settings import Experiment, Term
from coterie.experiment.simulation.clicks import ClickModel, mean_seconds
from coterie.experiment.simulation.visits import Visits


@dataclass(frozen=True)
class Truth:
    """What a metric really is in the control and in a treatment."""

    metric: str
    arm: str
    control: float
    treatment: float

    @property
    def lift(self) -> float:
        """Relative difference; NaN where the control is zero."""
        return self.treatment / self.control - 1 if self.control else math.nan

    def covered(self, interval: Interval) -> bool | None:
        """Whether the interval holds the lift; None where one of them says nothing."""
        return self.lift in interval if math.isfinite(self.lift + interval.low) else None


@dataclass(frozen=True)
class Expected:
    """What one visit of each person brings on average, float64 ``[P]`` each.

    ``no_click`` is the probability of none.
    """

    shown: Floats
    clicks: Floats
    seconds: Floats
    no_click: Floats

    @classmethod
    def of(cls, model: ClickModel, relevance: Sequence[Floats]) -> "Expected":
        """Of the relevance of each person's list."""
        chances = [model.chances(one) for one in relevance]
        return cls(
            np.array([len(one) for one in relevance], dtype=np.float64),
            np.array([p.sum() for p in chances]),
            np.array([p @ mean_seconds(one) for p, one in zip(chances, relevance, strict=True)]),
            np.array([np.prod(1 - p) for p in chances]),
        )

    def value(self, term: Term, visits: Visits) -> Floats:
        """Of a term, for each person over all visits that count, ``[P]``."""
        count = visits.counting(term.column)
        if term.column.kind == "impression":
            shown: Floats = count * self.shown
            return (shown > 0).astype(np.float64) if term.any else shown
        if term.any:
            some: Floats = 1 - self.no_click**count
            return some
        return count * (self.seconds if term.column.seconds else self.clicks)


def truths(
    experiment: Experiment, arms: Mapping[str, Expected], visits: Visits
) -> tuple[Truth, ...]:
    """Every metric and treatment.

    Parameters
    ----------
    experiment
        Its metrics.
    arms
        What everybody's visits bring, by arm.
    visits
        Everybody's.
    """
    control, *treatments = experiment.arm_names
    return tuple(
        Truth(name, arm, *(_metric(metric.terms, arms[one], visits) for one in (control, arm)))
        for name, metric in experiment.every_metric.items()
        for arm in treatments
    )


def _metric(terms: Sequence[Term], expected: Expected, visits: Visits) -> float:
    entered = expected.shown > 0  # who is shown nothing never enters
    if not entered.any():
        return math.nan
    sums = [float(expected.value(term, visits)[entered].mean()) for term in terms]
    above, below = (*sums, 1.0)[:2]
    return above / below if below else math.nan
