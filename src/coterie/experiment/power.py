"""How many users an experiment needs, and how many days: before it starts."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from coterie.errors import ConfigError
from coterie.experiment.effect import Indices, estimates
from coterie.experiment.log import UserLog
from coterie.experiment.moments import Moments
from coterie.experiment.sequential import price
from coterie.experiment.settings import Experiment

RECENT = 7  # days at the log's end from which the arrival of new users is carried on
LONGEST = 3650  # days; what takes longer is no plan


def required_users(
    relative_variance: float,
    effect: float,
    *,
    alpha: float,
    power: float,
    shares: tuple[float, float],
) -> int:
    """Users in both arms together that find a relative change ``effect`` with this power.

    The treatment's standard deviation is taken to grow with its mean, as it does where a change
    multiplies what users do; the test is two-sided.

    Parameters
    ----------
    relative_variance
        Variance of a user's (linearised) value, divided by the metric's square.
    effect
        Relative change to find.
    alpha, power
        Rate of false alarms, and chance to find the effect.
    shares
        Of the control and of the treatment among the two arms' users.
    """
    control, treatment = (sum(shares) / share for share in shares)
    spread = control + (1 + effect) ** 2 * treatment
    return math.ceil(relative_variance * spread * (_reach(alpha, power) / effect) ** 2)


def detectable_effect(
    relative_variance: float,
    users: float,
    *,
    alpha: float,
    power: float,
    shares: tuple[float, float],
) -> float:
    """The relative change that ``users`` in both arms find: :func:`required_users` inverted.

    Infinite if no increase can be found, because the treatment's spread grows as fast.
    """
    if not users > 0:
        return math.inf
    control, treatment = (sum(shares) / share for share in shares)
    # effect² = unit · (control + (1 + effect)² · treatment), solved for the effect
    unit = _reach(alpha, power) ** 2 * relative_variance / users
    slope = unit * treatment
    if slope >= 1:
        return math.inf
    root = math.sqrt(slope**2 + (1 - slope) * unit * (control + treatment))
    return (slope + root) / (1 - slope)


def _reach(alpha: float, power: float) -> float:
    """How many standard errors the effect has to be."""
    return float(norm.ppf(1 - alpha / 2) + norm.ppf(power))


@dataclass(frozen=True)
class Plan:
    """What it takes to find the primary metric's smallest effect.

    Parameters
    ----------
    metric, baseline
        The primary metric and its value now.
    relative_variance
        Of a user's value, at the required length.
    effect, alpha, power
        What is to be found; ``alpha`` is already divided among several treatments.
    users
        Users by arm for one decision at the end.
    price
        So many times the users if one decides at any time, at worst.
    days
        Until those users are there; None without traffic, or if that takes over ten years.
    users_at_end, effect_at_end
        Users of the control and the smallest treatment at the experiment's end, and what they
        find; None without traffic.
    beyond_log
        Whether the days go beyond the log, so that new users were carried on at the last rate.
    """

    metric: str
    baseline: float
    relative_variance: float
    effect: float
    alpha: float
    power: float
    users: dict[str, int]
    price: float
    days: int | None
    users_at_end: int | None
    effect_at_end: float | None
    beyond_log: bool

    @property
    def total(self) -> int:
        """Users in all arms."""
        return sum(self.users.values())

    def to_dict(self) -> dict[str, Any]:
        """All figures."""
        return {**asdict(self), "total": self.total}


def plan(
    experiment: Experiment,
    *,
    baseline: float,
    variance: float,
    users_per_day: float | None = None,
) -> Plan:
    """Plan from the metric's value and the variance of a user's value, and new users per day.

    Parameters
    ----------
    experiment
        Arms, traffic, α, power and smallest effect.
    baseline
        The primary metric now.
    variance
        Of one user's (linearised) value over the experiment's length.
    users_per_day
        New users per day on the whole site; the experiment gets its traffic's share.
    """
    if not baseline > 0 or not variance > 0:
        raise ConfigError(
            f"Baseline and variance must be above 0, got {baseline:g} and {variance:g}."
        )
    if users_per_day is not None and not users_per_day > 0:
        raise ConfigError(f"Users per day must be above 0, got {users_per_day:g}.")
    relative = variance / baseline**2
    curve = None
    if users_per_day is not None:
        days = np.arange(1, LONGEST + 1)
        curve = users_per_day * experiment.traffic * days, np.full(LONGEST, relative)
    return _planned(experiment, baseline, relative, curve, log_days=LONGEST)


def plan_from_log(experiment: Experiment, log: UserLog) -> Plan:
    """Plan from what users did, by day: who comes back makes later days worth less.

    Parameters
    ----------
    experiment
        Arms, traffic, α, power and smallest effect.
    log
        Of :func:`~coterie.experiment.log.everyone`: the site without the experiment.
    """
    metric = experiment.every_metric[experiment.primary]
    at = Indices(0, 1 if metric.denominator else None)
    users, relative, value = [], [], math.nan
    for _, entered, sums in log.by_day():
        found = Moments.of(log.values(metric.terms, sums[entered]))
        (estimate,) = estimates([found], at)
        value = estimate.value
        users.append(found.n * experiment.traffic)
        relative.append((estimate.se / value) ** 2 * found.n if value else math.nan)
    if not math.isfinite(relative[-1]) or relative[-1] == 0:
        raise ConfigError(
            f"The log says nothing about {metric.name!r}: it is {value:g} there, the same for all "
            "users. Another log, or --baseline-mean and --baseline-variance, are needed."
        )
    rate = (
        (users[-1] - users[-1 - RECENT]) / RECENT if len(users) > RECENT else users[-1] / len(users)
    )
    more = np.arange(1, LONGEST - len(users) + 1)
    curve = (
        np.concatenate([users, users[-1] + rate * more]),
        np.concatenate([relative, np.full(len(more), relative[-1])]),
    )
    return _planned(experiment, value, relative[-1], curve, log_days=log.days)


def _planned(
    experiment: Experiment,
    baseline: float,
    relative: float,
    curve: tuple[np.ndarray, np.ndarray] | None,
    *,
    log_days: int,
) -> Plan:
    """``curve``: users in all arms, and the relative variance, by day."""
    metric = experiment.every_metric[experiment.primary]
    effect = experiment.effect_of(metric)
    smallest = min(experiment.shares[1:])
    pair = experiment.shares[0], smallest
    alpha = experiment.alpha / (len(experiment.arms) - 1)
    days = at_end = found_at_end = None
    if curve is not None:
        users, variances = curve
        finds = np.array(
            [
                detectable_effect(
                    v, n * sum(pair), alpha=alpha, power=experiment.power, shares=pair
                )
                for n, v in zip(users, variances, strict=True)
            ]
        )
        enough = np.flatnonzero(finds <= effect)
        days = int(enough[0]) + 1 if len(enough) else None
        if days is not None:
            relative = float(variances[days - 1])
        last = min(experiment.days, LONGEST) - 1
        at_end, found_at_end = int(users[last] * sum(pair)), float(finds[last])
    needed = required_users(relative, effect, alpha=alpha, power=experiment.power, shares=pair)
    return Plan(
        metric=metric.name,
        baseline=baseline,
        relative_variance=relative,
        effect=effect,
        alpha=alpha,
        power=experiment.power,
        users={
            name: math.ceil(needed * share / sum(pair)) for name, share in experiment.arms.items()
        },
        price=price(alpha, experiment.power),
        days=days,
        users_at_end=at_end,
        effect_at_end=found_at_end,
        beyond_log=max(days or 0, experiment.days) > log_days,
    )
