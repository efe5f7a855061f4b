"""How an experiment stands, for a page or a dashboard: exposures, figures, and the days so far."""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from coterie.errors import DataError
from coterie.experiment.analysis import Analysis, Point, Result, analyze
from coterie.experiment.log import COUNTED, NobodyEntered, UserLog, summarize
from coterie.experiment.record import figures, point_figures
from coterie.experiment.settings import DAY, Experiment, Verdict
from coterie.experiment.verdict import warnings

CONCLUDING = ("lift", "low", "high", "p_value")


def standing(
    events: pl.LazyFrame, experiment: Experiment, *, now: datetime | None = None
) -> dict[str, Any]:
    """Everything of an experiment that its log tells so far, with None where it tells nothing.

    Lift, interval and p-value are None as long as no verdict may be given, and ``sentence`` says
    why. So are those of each day where that holds for all metrics (after a sample ratio mismatch,
    or before the end of an experiment that is decided there), and of a day at whose end an arm had
    too few users.

    Parameters
    ----------
    events
        A log, as for :func:`~coterie.experiment.log.summarize`.
    experiment
        Which one.
    now
        As for :func:`~coterie.experiment.analysis.analyze`.

    Returns
    -------
    dict
        ``arms``, ``sample_ratio_mismatch``, ``results`` and ``days``; the server's OpenAPI says
        what they hold. The days' intervals are the always-valid ones.
    """
    try:
        log = summarize(events, experiment)
    except NobodyEntered:
        why = "No verdict yet: nobody has entered the experiment."
        return _nothing(experiment, 0, "no data", why)
    except DataError as error:
        why = f"No verdict: the log cannot be used. {error}"
        return _nothing(experiment, None, "not valid", why)
    analysis = analyze(log, experiment, now=now)
    alarms = list(warnings(analysis))
    return {
        "arms": _arms(log, experiment),
        "sample_ratio_mismatch": {
            "p_value": analysis.mismatch.p_value,
            "warning": " ".join(alarms) or None,
        },
        "results": [_result(one, analysis) for one in analysis.results],
        "days": list(_days(log, analysis)),
    }


def _arms(log: UserLog, experiment: Experiment) -> list[dict[str, Any]]:
    shown, clicked = map(log.totals, COUNTED)
    return [
        {
            "name": name,
            "share": share,
            "users": int(users),
            "impressions": int(shown[place]),
            "clicks": int(clicked[place]),
        }
        for place, ((name, share), users) in enumerate(
            zip(experiment.arms.items(), log.users_by_arm(), strict=True)
        )
    ]


def _result(result: Result, analysis: Analysis) -> dict[str, Any]:
    said = result.verdict not in ("too early", "no data", "not valid")
    return _shown(figures(result, analysis), said)


def _days(log: UserLog, analysis: Analysis) -> Iterator[dict[str, Any]]:
    experiment = analysis.experiment
    control, least = experiment.arm_names[0], experiment.least_users
    shown = not analysis.mismatch.alarm and (analysis.finished or experiment.decision != "end")
    points: dict[int, list[Point]] = {}
    for point in analysis.curve:
        points.setdefault(point.day, []).append(point)
    for day in range(log.days):
        there = np.bincount(log.arm[log.entry_day <= day], minlength=log.n_arms)
        users = dict(zip(experiment.arm_names, map(int, there), strict=True))
        yield {
            "date": (experiment.start + day * DAY).date().isoformat(),
            "users": users,
            "results": [
                _shown(point_figures(one), shown and min(users[control], users[one.arm]) >= least)
                for one in points.get(day, [])
            ],
        }


def _nothing(
    experiment: Experiment, count: int | None, verdict: Verdict, why: str
) -> dict[str, Any]:
    return {
        "arms": [
            {"name": name, "share": share, "users": count, "impressions": count, "clicks": count}
            for name, share in experiment.arms.items()
        ],
        "sample_ratio_mismatch": {"p_value": None, "warning": why if count is None else None},
        "results": [
            {
                "metric": metric,
                "arm": arm,
                **dict.fromkeys(("control_mean", "mean", *CONCLUDING)),
                "verdict": verdict,
                "sentence": why,
            }
            for metric in experiment.every_metric
            for arm in experiment.arm_names[1:]
        ],
        "days": [],
    }


def _shown(found: dict[str, Any], said: bool) -> dict[str, Any]:
    """The figures, with None where there is no number; those that conclude only if ``said``."""
    hidden = {name for name in CONCLUDING if not said}
    hidden |= {n for n, one in found.items() if isinstance(one, float) and not math.isfinite(one)}
    return {name: None if name in hidden else value for name, value in found.items()}
