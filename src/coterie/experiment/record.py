"""An analysis as plain figures, for machines."""

from dataclasses import asdict
from typing import Any

from coterie.experiment.analysis import Analysis, Point, Result
from coterie.experiment.verdict import sentence, warnings

TIMES = ("first", "last", "through")  # of the log's facts


def record(analysis: Analysis) -> dict[str, Any]:
    """Everything, with NaN and infinity where there is no number."""
    facts = asdict(analysis.facts)
    return {
        "experiment": analysis.experiment.model_dump(mode="json"),
        "days": analysis.days,
        "finished": analysis.finished,
        "users": dict(zip(analysis.experiment.arm_names, analysis.mismatch.observed, strict=True)),
        "sample_ratio_mismatch": analysis.mismatch.to_dict(),
        "log": facts | {at: facts[at] and facts[at].isoformat() for at in TIMES},
        "warnings": list(warnings(analysis)),
        "results": [_result(result, analysis) for result in analysis.results],
        "by_day": [
            {"day": point.day + 1, "users": point.users, **point_figures(point)}
            for point in analysis.curve
        ],
    }


def figures(result: Result, analysis: Analysis) -> dict[str, Any]:
    """What every answer says of a result, the server's too, by the same names.

    ``control_mean`` and ``mean`` are adjusted by CUPED where there is a pre-period; ``low`` and
    ``high`` are of the interval that decides, for this metric alone; ``p_value`` is corrected.
    """
    one = result.comparison
    return {
        "metric": one.metric.name,
        "arm": one.arm,
        "control_mean": one.effect.control.value,
        "mean": one.effect.treatment.value,
        "lift": one.effect.lift,
        "low": result.interval.low,
        "high": result.interval.high,
        "p_value": result.p_value,
        "verdict": result.verdict,
        "sentence": sentence(result, analysis),
    }


def point_figures(point: Point) -> dict[str, Any]:
    """The same of a day; the interval is the always-valid one."""
    return {
        "metric": point.metric,
        "arm": point.arm,
        "lift": point.lift,
        "low": point.anytime.low,
        "high": point.anytime.high,
    }


def _result(result: Result, analysis: Analysis) -> dict[str, Any]:
    one = result.comparison
    return {
        **figures(result, analysis),
        "role": result.role,
        "users": [one.effect.control.n, one.effect.treatment.n],
        "p_uncorrected": result.p_uncorrected,
        "anytime": [one.anytime.low, one.anytime.high],
        "once": [one.once.low, one.once.high],
        "p_once": one.p_once,
        "p_anytime": one.p_anytime,
        "variance_reduction": one.variance_reduction,
        "margin": result.margin,
    }
