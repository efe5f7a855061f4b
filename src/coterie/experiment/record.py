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
        "sample_ratio": {**asdict(analysis.mismatch), "alarm": analysis.mismatch.alarm},
        "log": facts | {at: facts[at] and facts[at].isoformat() for at in TIMES},
        "warnings": list(warnings(analysis)),
        "results": [
            {**_figures(result), "sentence": sentence(result, analysis)}
            for result in analysis.results
        ],
        "by_day": [_point(point) for point in analysis.curve],
    }


def _figures(result: Result) -> dict[str, Any]:
    one = result.comparison
    effect = one.effect
    return {
        "metric": one.metric.name,
        "arm": one.arm,
        "role": result.role,
        "verdict": result.verdict,
        "control": effect.control.value,
        "treatment": effect.treatment.value,
        "users": [effect.control.n, effect.treatment.n],
        "lift": effect.lift,
        "interval": [result.interval.low, result.interval.high],
        "p_value": result.p_value,
        "p_adjusted": result.p_adjusted,
        "anytime": [one.anytime.low, one.anytime.high],
        "once": [one.once.low, one.once.high],
        "p_once": one.p_once,
        "p_anytime": one.p_anytime,
        "variance_reduction": one.variance_reduction,
        "margin": result.margin,
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "day": point.day + 1,
        "metric": point.metric,
        "arm": point.arm,
        "users": point.users,
        "lift": point.lift,
        "anytime": [point.anytime.low, point.anytime.high],
    }
