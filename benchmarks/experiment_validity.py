"""Measures whether the statistics of online experiments keep their promises.

    python benchmarks/experiment_validity.py

Simulated users, as uneven as real ones: impressions per day Poisson with a log-normal rate, clicks
binomial with a beta-distributed taste, watch time gamma times a log-normal habit, entry spread
over the days, a pre-period for seven users in ten. Every A/A test has users, salt and assignment
of its own, goes through `analyze` as a real log would, and is looked at after each day.

returning  users come back every day, so that their totals grow
once       each user is active on the day of entry only, as the theory of sequential tests has it
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare

from coterie.experiment.analysis import Comparison, analyze, compare
from coterie.experiment.assignment import places_of
from coterie.experiment.effect import Indices, estimates
from coterie.experiment.log import LogFacts, UserLog, columns_of
from coterie.experiment.mismatch import sample_ratio
from coterie.experiment.moments import Moments
from coterie.experiment.power import plan
from coterie.experiment.settings import Column, Experiment

RESULTS = Path(__file__).parent / "results" / "experiment_validity.json"
DAYS = 14
HOME = "home"
START = datetime(2026, 3, 1, tzinfo=UTC)
ALPHA, POWER, LIFT = 0.05, 0.8, 0.12
NO_FACTS = LogFacts(0, 0, None, None)
COLUMNS = 5  # impressions and clicks of home, of elsewhere, and watch seconds

Floats = NDArray[np.float64]
Reals = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Results = dict[str, Any]


def experiment(name: str, **changes: Any) -> Experiment:
    """Two equal arms, the paper's metrics, one surface."""
    return Experiment.read(
        {
            "name": name,
            "start": START,
            "end": START + timedelta(days=DAYS),
            "arms": {"control": 0.5, "treatment": 0.5},
            "surfaces": [HOME],
            "minimum_effect": LIFT,
            "alpha": ALPHA,
            "power": POWER,
            **changes,
        }
    )


@dataclass(frozen=True)
class Population:
    """What makes users differ, each ``[U]``: rate, taste, habit, day of entry, known before."""

    rate: Floats
    taste: Floats
    habit: Floats
    entry: Ints
    known: NDArray[np.bool_]

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> "Population":
        """Half enter on the first days, the others spread over the rest."""
        early = rng.random(n) < 0.5
        entry = np.where(early, rng.integers(0, 3, n), rng.integers(0, DAYS, n))
        return cls(
            rate=rng.lognormal(0.5, 1.0, n),
            taste=rng.beta(0.8, 12.0, n),
            habit=rng.lognormal(6.0, 0.8, n),
            entry=entry,
            known=rng.random(n) < 0.7,
        )

    def sums(self, exposure: Reals, lift: Reals, rng: np.random.Generator) -> Floats:
        """Draw what users do in so many days ``[U, …]`` with the taste lifted: ``[U, …, 5]``."""
        wide = (slice(None), *(None,) * (exposure.ndim - 1))
        seen = rng.poisson(self.rate[wide] * exposure)
        home = rng.binomial(seen, 0.4)
        taste = np.minimum(self.taste * (1 + lift), 1.0)[wide]
        at_home, elsewhere = rng.binomial(home, taste), rng.binomial(seen - home, taste)
        clicks = at_home + elsewhere
        watched = rng.gamma(0.5 * clicks + (clicks == 0)) * (clicks > 0) * self.habit[wide]
        return np.stack([home, at_home, seen - home, elsewhere, watched], axis=-1).astype(
            np.float64
        )


def as_columns(sums: Floats, wanted: tuple[Column, ...]) -> Floats:
    """Simulated sums ``[…, 5]`` as the columns that the metrics need ``[…, C]``."""
    home_seen, home_clicks, seen, clicks, watched = np.moveaxis(sums, -1, 0)
    found = {
        Column("impression"): home_seen + seen,
        Column("click"): home_clicks + clicks,
        Column("impression", surface=HOME): home_seen,
        Column("click", surface=HOME): home_clicks,
        Column("watch", seconds=True): watched,
    }
    return np.stack([found[column] for column in wanted], axis=-1)


def a_log(
    plan_: Experiment, n: int, rng: np.random.Generator, *, returning: bool, lift: float = 0.0
) -> UserLog:
    """A simulated experiment, assigned by the hash."""
    people = Population.draw(n, rng)
    arm = places_of(plan_, rng.integers(0, 2**62, n))
    columns = columns_of(list(plan_.every_metric.values()))
    day = np.arange(DAYS)
    active = day >= people.entry[:, None] if returning else day == people.entry[:, None]
    sums = as_columns(people.sums(active.astype(np.float64), lift * arm, rng), columns)
    rows, days = np.nonzero(sums.any(axis=-1))
    daily = pl.DataFrame({"row": rows, "day": days}).with_columns(
        pl.Series(str(at), sums[rows, days, at]) for at in range(len(columns))
    )
    none = np.zeros(n)
    before = as_columns(people.sums(14.0 * people.known, none, rng), columns)
    return UserLog(
        users=pl.Series("user", np.arange(n).astype(str)),
        arm=arm,
        entry_day=people.entry,
        columns=columns,
        daily=daily.sort("day", "row"),
        before=before,
        days=DAYS,
        n_arms=2,
        facts=NO_FACTS,
    )


def a_a_tests(tests: int, users: int, seed: int, *, returning: bool) -> Results:
    """False alarms per metric: at the end, at any of the daily looks, by either interval."""
    once: dict[str, list[bool]] = {}
    peeked: dict[str, list[bool]] = {}
    anytime: dict[str, list[bool]] = {}
    mismatches = 0
    for at in range(tests):
        rng = np.random.default_rng([seed, at])
        plan_ = experiment(f"aa-{seed}-{at}")
        found = analyze(a_log(plan_, users, rng, returning=returning), plan_)
        mismatches += found.mismatch.alarm
        for metric in plan_.every_metric:
            looks = [point for point in found.curve if point.metric == metric]
            looks = [point for point in looks if point.users > 2 * plan_.least_users]
            fixed = [0.0 not in point.once for point in looks]
            once.setdefault(metric, []).append(fixed[-1])
            peeked.setdefault(metric, []).append(any(fixed))
            anytime.setdefault(metric, []).append(any(0.0 not in p.anytime for p in looks))
    return {
        "tests": tests,
        "users": users,
        "false_alarms_once": {name: float(np.mean(hits)) for name, hits in once.items()},
        "false_alarms_once_if_peeked_daily": {n: float(np.mean(h)) for n, h in peeked.items()},
        "false_alarms_anytime": {name: float(np.mean(hits)) for name, hits in anytime.items()},
        "sample_ratio_alarms": mismatches / tests,
    }


def at_the_end(
    plan_: Experiment, n: int, rng: np.random.Generator, lift: float
) -> Iterator[dict[str, Comparison]]:
    """One experiment's last day, without and with CUPED."""
    people = Population.draw(n, rng)
    arm = places_of(plan_, rng.integers(0, 2**62, n))
    metrics = plan_.every_metric.values()
    terms = tuple(dict.fromkeys(term for metric in metrics for term in metric.terms))
    columns = columns_of(list(metrics))
    exposure = (DAYS - people.entry).astype(np.float64)
    log = UserLog(
        pl.Series("user", [], dtype=pl.String), arm, people.entry, columns,
        pl.DataFrame(), np.zeros((0, 0)), DAYS, 2, NO_FACTS,
    )  # fmt: skip
    after = log.values(terms, as_columns(people.sums(exposure, lift * arm, rng), columns))
    none = np.zeros(n)
    pre = log.values(terms, as_columns(people.sums(14.0 * people.known, none, rng), columns))
    for before in (np.zeros_like(pre), pre):
        moments = Moments.by_arm(np.hstack([after, before]), arm, 2)
        yield {one.metric.name: one for one in compare(moments, plan_, terms)}


def true_lifts(plan_: Experiment, lift: float, seed: int) -> dict[str, float]:
    """Expected values with and without the lift, exact given a very large population."""
    people = Population.draw(2_000_000, np.random.default_rng([seed, 10**6]))
    exposure = people.rate * (DAYS - people.entry)

    def anyone(share: float, by: float) -> float:
        taste = np.minimum(people.taste * (1 + by), 1.0)
        return float(np.mean(-np.expm1(-exposure * share * taste)))

    clicks = np.mean(exposure * np.minimum(people.taste * (1 + lift), 1)) / np.mean(
        exposure * people.taste
    )
    return {
        "ctr_per_impression": float(clicks) - 1,
        f"ctr_per_impression.{HOME}": float(clicks) - 1,
        "ctr_per_user": anyone(1.0, lift) / anyone(1.0, 0.0) - 1,
        f"ctr_per_user.{HOME}": anyone(0.4, lift) / anyone(0.4, 0.0) - 1,
        "watch_seconds_per_user": float(clicks) - 1,
    }


def planted(tests: int, seed: int) -> Results:
    """Power against the plan, coverage, and bias, with a planted lift."""
    plan_ = experiment(f"planted-{seed}")
    baseline, variance = _now(plan_, np.random.default_rng([seed, 10**7]))
    planned = plan(plan_, baseline=baseline, variance=variance)
    truth = true_lifts(plan_, LIFT, seed)
    found: dict[str, dict[str, list[Comparison]]] = {"plain": {}, "cuped": {}}
    for at in range(tests):
        rng = np.random.default_rng([seed, at])
        both = at_the_end(replace_salt(plan_, f"planted-{seed}-{at}"), planned.total, rng, LIFT)
        for way, comparisons in zip(found, both, strict=True):
            for name, one in comparisons.items():
                found[way].setdefault(name, []).append(one)
    ways = {
        way: {name: _told(ones, truth[name]) for name, ones in by_name.items()}
        for way, by_name in found.items()
    }
    return {
        "tests": tests,
        "users": planned.total,
        "lift": LIFT,
        "planned_power": POWER,
        "found_plain": ways["plain"][plan_.primary]["found"],
        "found_cuped": ways["cuped"][plan_.primary]["found"],
        **ways,
    }


def replace_salt(plan_: Experiment, salt: str) -> Experiment:
    """The same experiment with another assignment."""
    return plan_.model_copy(update={"salt": salt})


def _now(plan_: Experiment, rng: np.random.Generator) -> tuple[float, float]:
    """The primary metric and a user's variance, of 400 000 users without treatment."""
    people = Population.draw(400_000, rng)
    exposure = (DAYS - people.entry).astype(np.float64)
    sums = people.sums(exposure, np.zeros(len(exposure)), rng)
    seen, clicked = sums[:, 0] + sums[:, 2], sums[:, 1] + sums[:, 3]
    moments = Moments.of(np.column_stack([clicked, seen]))
    (now,) = estimates([moments], Indices(0, 1))
    return now.value, now.se**2 * now.n


def _told(ones: list[Comparison], truth: float) -> Results:
    # A lift is a ratio, whose mean is a little above the truth for any estimator of its parts: what
    # has to have mean zero is treatment − (1 + truth) · control, which intervals are made of.
    values = [(one.effect.treatment.value, one.effect.control.value) for one in ones]
    pivots = np.array([treatment - (1 + truth) * control for treatment, control in values])
    error = pivots.std(ddof=1) / math.sqrt(len(ones))
    return {
        "true_lift": truth,
        "mean_lift": float(np.mean([one.effect.lift for one in ones])),
        "coverage": float(np.mean([truth in one.once for one in ones])),
        "found": float(np.mean([one.p_once < ALPHA for one in ones])),
        "bias_in_standard_errors": float(pivots.mean() / error),
        "variance_removed": None
        if ones[0].variance_reduction is None
        else float(np.mean([one.variance_reduction or 0.0 for one in ones])),
    }


def mismatches(tests: int, users: int, seed: int) -> Results:
    """How often an imbalance of 1 % is found, and none is reported."""
    rng = np.random.default_rng([seed, 10**8])

    def alarms(share: float) -> float:
        counts = rng.binomial(users, share, tests)
        found = [sample_ratio(np.array([n, users - n]), (0.5, 0.5)).alarm for n in counts]
        return float(np.mean(found))

    return {
        "users": users,
        "alarms_balanced": alarms(0.5),
        "found_one_arm_1_percent_larger": alarms(1.01 / 2.01),
        "found_50.5_to_49.5": alarms(0.505),
    }


def assignment(users: int) -> Results:
    """Chi-square p-values of uniformity and of independence."""
    number = np.arange(users)
    kinds: dict[str, Any] = {
        "integers": number,
        "padded": pl.Series([f"user-{n:09d}" for n in range(users)]),
        "hexadecimal": pl.Series([f"{n * 2654435761 % 2**64:016x}" for n in range(users)]),
    }
    hundred = {f"arm{at}": 0.01 for at in range(100)}
    ten = {f"arm{at}": 0.1 for at in range(10)}
    found: Results = {"users": users, "uniformity_p": {}, "independence_p": {}}
    for kind, ids in kinds.items():
        start = time.perf_counter()
        places = places_of(experiment("uniform", arms=hundred), ids)
        found["users_per_second"] = users / (time.perf_counter() - start)
        found["uniformity_p"][kind] = float(chisquare(np.bincount(places)).pvalue)
        one, other = (places_of(experiment(name, arms=ten), ids) for name in ("first", "second"))
        table = np.bincount(10 * one + other, minlength=100).reshape(10, 10)
        found["independence_p"][kind] = float(chi2_contingency(table).pvalue)
    ramped = experiment("first", arms=ten, exposed=0.5)
    inside = places_of(ramped, number) >= 0
    table = np.stack([np.bincount(one[inside]), np.bincount(one[~inside])])
    found["ramp_p"] = float(chi2_contingency(table).pvalue)
    return found


def verdicts(result: Results) -> dict[str, bool]:
    """Whether each bar is met."""
    tests = [result["a_a_returning"], result["a_a_once"]]
    plain, cuped = result["planted"]["plain"], result["planted"]["cuped"]
    ps = [*result["assignment"]["uniformity_p"].values(), result["assignment"]["ramp_p"]]
    ps += result["assignment"]["independence_p"].values()
    told = [*plain.values(), *cuped.values()]
    return {
        "A/A: each metric's false alarms are 5 % ± 1.4": all(
            abs(rate - ALPHA) <= 0.014
            for test in tests
            for rate in test["false_alarms_once"].values()
        ),
        "always-valid intervals, looked at daily: at most 5 %": all(
            rate <= ALPHA for test in tests for rate in test["false_alarms_anytime"].values()
        ),
        "coverage 95 ± 1.5 %": all(abs(one["coverage"] - 0.95) <= 0.015 for one in told),
        "power as planned ± 5 points": abs(result["planted"]["found_plain"] - POWER) <= 0.05,
        "CUPED: no bias beyond 3 standard errors": all(
            abs(one["bias_in_standard_errors"]) <= 3 for one in cuped.values()
        ),
        "1 % imbalance is found (95 % of the time, at least)": (
            result["mismatch"]["found_one_arm_1_percent_larger"] >= 0.95
        ),
        "assignment is uniform and independent (p > .001)": min(ps) > 0.001,
    }


def main() -> None:
    """Run everything, print it, write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--users", type=int, default=8000, help="per A/A test")
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    start = time.perf_counter()
    tests, users, seed = options.tests, options.users, options.seed
    result: Results = {
        "a_a_returning": a_a_tests(tests, users, seed + 1, returning=True),
        "a_a_once": a_a_tests(tests, users, seed + 2, returning=False),
        "planted": planted(tests, seed + 3),
        "mismatch": mismatches(tests, options.ids, seed + 4),
        "assignment": assignment(options.ids),
    }
    result["bars"] = verdicts(result)
    result["seconds"] = round(time.perf_counter() - start, 1)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
