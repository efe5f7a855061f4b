"""From per-user sums to verdicts: every metric of an experiment, with its curve over the days."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from coterie.experiment import sequential
from coterie.experiment.effect import Effect, Indices, Interval, estimates
from coterie.experiment.log import LogFacts, UserLog
from coterie.experiment.mismatch import Mismatch, sample_ratio
from coterie.experiment.moments import Floats, Moments
from coterie.experiment.multiplicity import benjamini_hochberg, holm
from coterie.experiment.settings import Experiment, Metric, Term, Verdict

Role = Literal["primary", "guardrail", "secondary"]


@dataclass(frozen=True)
class Comparison:
    """One metric of one treatment against the control, at one time.

    Parameters
    ----------
    metric, arm
        Names.
    effect
        Values and standard errors, adjusted by CUPED where there is a pre-period.
    once
        Interval of the lift for a single look at the end, level 1 − α.
    anytime
        Always-valid interval of the lift, level 1 − α over all looks.
    p_once, p_anytime
        Of no difference, likewise.
    variance_reduction
        Share of the difference's variance that CUPED removed; None without pre-period.
    """

    metric: Metric
    arm: str
    effect: Effect
    once: Interval
    anytime: Interval
    p_once: float
    p_anytime: float
    variance_reduction: float | None


@dataclass(frozen=True)
class Result:
    """A comparison, and what to make of it.

    Parameters
    ----------
    comparison
        The figures.
    role
        Primary metrics decide, guardrails must hold, the rest informs.
    interval, p_uncorrected
        Those that the experiment's ``decision`` goes by, for this metric and arm alone.
    p_value
        Corrected for the others; the verdict goes by it. Primary: Holm over the treatments.
        Secondary: Benjamini–Hochberg over all secondary metrics and treatments. Guardrails: not
        corrected, because all of them must hold.
    verdict
        In two words at most.
    margin
        Of a guardrail.
    """

    comparison: Comparison
    role: Role
    interval: Interval
    p_uncorrected: float
    p_value: float
    verdict: Verdict
    margin: float | None = None


@dataclass(frozen=True)
class Point:
    """The lift at the end of a day, with the interval that is valid at all of them together."""

    day: int
    metric: str
    arm: str
    lift: float
    anytime: Interval
    once: Interval
    users: int


@dataclass(frozen=True)
class Analysis:
    """All that is known of an experiment.

    Parameters
    ----------
    experiment
        What was planned.
    mismatch
        Whether the arms got their share of users; if not, no verdict is valid.
    results
        Primary first, then guardrails, then the rest; treatments in order.
    curve
        Every metric and treatment at the end of each day.
    days
        Days that the log covers.
    facts
        What was read and left out.
    finished
        Whether the experiment has ended, and the log was read up to its end.
    """

    experiment: Experiment
    mismatch: Mismatch
    results: tuple[Result, ...]
    curve: tuple[Point, ...]
    days: int
    facts: LogFacts
    finished: bool


def analyze(log: UserLog, experiment: Experiment, *, now: datetime | None = None) -> Analysis:
    """Compare every treatment with the control on every metric.

    Parameters
    ----------
    log
        Of :func:`~coterie.experiment.log.summarize` for the same experiment.
    experiment
        What was planned.
    now
        The time, with a zone; without it, the clock's. An experiment that is decided at its end is
        finished when both it and the log's ``through`` have reached the end, whether or not
        anybody came on the last day.
    """
    now = datetime.now(UTC) if now is None else now
    finished = min(now, log.facts.through or now) >= experiment.end
    terms = tuple(
        dict.fromkeys(t for metric in experiment.every_metric.values() for t in metric.terms)
    )
    before = log.values(terms, log.before)
    curve: list[Point] = []
    found: tuple[Comparison, ...] = ()
    for day, entered, sums in log.by_day():
        values = np.hstack([log.values(terms, sums[entered]), before[entered]])
        moments = Moments.by_arm(values, log.arm[entered], log.n_arms)
        found = compare(moments, experiment, terms)
        curve += [_point(day, one) for one in found]
    mismatch = sample_ratio(log.users_by_arm(), experiment.shares)
    results = _judged(found, experiment, alarm=mismatch.alarm, finished=finished)
    return Analysis(experiment, mismatch, results, tuple(curve), log.days, log.facts, finished)


def compare(
    arms: Sequence[Moments], experiment: Experiment, terms: Sequence[Term]
) -> tuple[Comparison, ...]:
    """Every metric and treatment, from the arms' moments.

    Parameters
    ----------
    arms
        Moments of each arm, of ``2 T`` values: the terms since entry, then before the start.
    experiment
        Metrics, α and smallest effects.
    terms
        The ``T`` terms, in the moments' order.
    """
    found = []
    for metric in experiment.every_metric.values():
        plain, adjusted = _indices(metric, terms, arms)
        raw = estimates(arms, plain)
        better = estimates(arms, adjusted) if adjusted.covariates else raw
        for place, arm in enumerate(experiment.arm_names[1:], start=1):
            effect = Effect(better[0], better[place])
            reduced = None
            if adjusted.covariates:
                reduced = 1 - _ratio(effect.se, Effect(raw[0], raw[place]).se) ** 2
            found.append(_comparison(metric, arm, effect, reduced, experiment))
    return tuple(found)


def _indices(
    metric: Metric, terms: Sequence[Term], arms: Sequence[Moments]
) -> tuple[Indices, Indices]:
    """Where the metric's values are: alone, and with its own pre-period values that vary."""
    at = [terms.index(term) for term in metric.terms]
    plain = Indices(at[0], at[1] if len(at) > 1 else None)
    varying = tuple(
        len(terms) + place
        for place in at
        if any(arm.n > 1 and arm.cov[len(terms) + place, len(terms) + place] > 0 for arm in arms)
    )
    return plain, Indices(plain.numerator, plain.denominator, varying)


def _comparison(
    metric: Metric, arm: str, effect: Effect, reduced: float | None, experiment: Experiment
) -> Comparison:
    alpha, smallest = experiment.alpha, experiment.effect_of(metric)
    relative = effect.relative_se
    return Comparison(
        metric=metric,
        arm=arm,
        effect=effect,
        once=effect.lift_interval(effect.multiplier(alpha)),
        anytime=effect.lift_interval(sequential.multiplier(relative, smallest, alpha)),
        p_once=effect.p_value(),
        p_anytime=sequential.p_value(effect.z, relative, smallest),
        variance_reduction=reduced,
    )


def _judged(
    found: Sequence[Comparison], experiment: Experiment, *, alarm: bool, finished: bool
) -> tuple[Result, ...]:
    margins = {guardrail.metric: guardrail.margin for guardrail in experiment.guardrails}
    groups: dict[Role, list[Comparison]] = {"primary": [], "guardrail": [], "secondary": []}
    for one in found:
        name = one.metric.name
        role: Role = "guardrail" if name in margins else "secondary"
        groups["primary" if name == experiment.primary else role].append(one)
    results = []
    for role, members in groups.items():
        chosen = [_chosen(one, experiment) for one in members]
        p_values = [p for _, p in chosen]
        corrected: Floats = np.asarray(p_values)
        if role == "primary":
            corrected = holm(p_values)
        elif role == "secondary":
            corrected = benjamini_hochberg(p_values)
        for one, (interval, p), p_value in zip(members, chosen, corrected, strict=True):
            margin = margins.get(one.metric.name) if role == "guardrail" else None
            verdict = _blocked(one, experiment, alarm=alarm, finished=finished) or (
                _direction(one, float(p_value), experiment.alpha)
                if margin is None
                else _guarded(one.metric, interval, margin)
            )
            results.append(Result(one, role, interval, p, float(p_value), verdict, margin))
    return tuple(results)


def _chosen(one: Comparison, experiment: Experiment) -> tuple[Interval, float]:
    if experiment.decision == "anytime":
        return one.anytime, one.p_anytime
    return one.once, one.p_once


def _blocked(
    one: Comparison, experiment: Experiment, *, alarm: bool, finished: bool
) -> Verdict | None:
    """Why nothing can be said, if so."""
    if alarm:
        return "not valid"
    effect = one.effect
    if min(effect.control.n, effect.treatment.n) < experiment.least_users:
        return "too early"
    if not (math.isfinite(effect.lift) and effect.se > 0):
        return "no data"
    return "too early" if experiment.decision == "end" and not finished else None


def _direction(one: Comparison, p: float, alpha: float) -> Verdict:
    if not p < alpha:
        return "undecided"
    return "better" if (one.effect.difference > 0) == (one.metric.better == "higher") else "worse"


def _guarded(metric: Metric, interval: Interval, margin: float) -> Verdict:
    sign = 1 if metric.better == "higher" else -1
    worst, best = sorted((sign * interval.low, sign * interval.high))
    if worst > -margin:
        return "held"
    return "violated" if best < -margin else "open"


def _point(day: int, one: Comparison) -> Point:
    users = one.effect.control.n + one.effect.treatment.n
    return Point(day, one.metric.name, one.arm, one.effect.lift, one.anytime, one.once, users)


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan
