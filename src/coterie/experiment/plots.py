"""The experiment's figures: lifts with their intervals, and how the lift came about by day."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from coterie.experiment.analysis import Analysis, Point, Result, Role
from coterie.experiment.effect import Interval
from coterie.mechanisms.style import BLACK, BLUE, CYCLE, GREEN, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Mapping[Role, str] = {"primary": BLUE, "guardrail": ORANGE, "secondary": GREEN}
MARKS: Mapping[Role, str] = {"primary": "D", "guardrail": "s", "secondary": "o"}
BEYOND = 1e6  # percent; stands for an interval without bounds, far outside the axes
MARGIN = 0.06  # free at each end of the axis
WIDEST = 3  # an interval so many times the median width does not set the axis


def lifts(analysis: Analysis) -> "Figure":
    """Each metric's lift: thick the interval of one look, thin the always-valid one."""
    results = [r for r in analysis.results if math.isfinite(r.comparison.effect.lift)]
    figure, (axes,) = new_figure(width=7.2, height=0.42 * len(results) + 1.5)
    axes.axvline(0, color=BLACK, lw=0.8)
    treatments = len(analysis.experiment.arms) - 1
    for place, result in enumerate(results):
        _row(axes, place, result)
    names = [
        r.comparison.metric.name + (f" ({r.comparison.arm})" if treatments > 1 else "")
        for r in results
    ]
    axes.set_yticks(range(len(results)), names)
    axes.set_ylim(len(results) - 0.4, -0.6)
    margins = [_signed_margin(r) for r in results if r.margin is not None]
    axes.set_xlim(*_limits([r.comparison.anytime for r in results], besides=margins))
    axes.set_xlabel(f"lift against {analysis.experiment.arm_names[0]}, %")
    _legend(axes, {result.role for result in results})
    return figure


def by_day(analysis: Analysis, metric: str) -> "Figure":
    """A metric's lift at the end of each day, with the always-valid interval, by treatment."""
    figure, (axes,) = new_figure(width=7.2)
    axes.axhline(0, color=BLACK, lw=0.8)
    shown = []
    for arm, colour in zip(analysis.experiment.arm_names[1:], CYCLE, strict=False):
        points = [
            p
            for p in analysis.curve
            if (p.metric, p.arm) == (metric, arm) and math.isfinite(p.lift)
        ]
        shown += points
        days = [point.day + 1 for point in points]
        axes.fill_between(
            days,
            np.clip([100 * point.anytime.low for point in points], -BEYOND, BEYOND),
            np.clip([100 * point.anytime.high for point in points], -BEYOND, BEYOND),
            color=colour,
            alpha=0.18,
            lw=0,
            label=f"{arm}, always-valid interval",
        )
        axes.plot(days, [100 * point.lift for point in points], "o-", ms=4, color=colour, label=arm)
    _day_axes(axes, shown, metric, analysis)
    return figure


def figures(analysis: Analysis) -> dict[str, "Figure"]:
    """All of them, by the names of their files: lifts, then the days of primary and guardrails."""
    watched = [r.comparison.metric.name for r in analysis.results if r.role != "secondary"]
    return {"lifts": lifts(analysis)} | {
        f"by_day_{metric}": by_day(analysis, metric) for metric in dict.fromkeys(watched)
    }


def _row(axes: "Axes", place: int, result: Result) -> None:
    one, colour = result.comparison, COLOURS[result.role]
    for interval, width in ((one.anytime, 1.3), (one.once, 4.5)):
        if math.isfinite(interval.low):
            axes.plot(
                [100 * interval.low, 100 * interval.high], [place] * 2, color=colour, lw=width
            )
    axes.plot(
        100 * one.effect.lift,
        place,
        MARKS[result.role],
        ms=8,
        mfc="white",
        mec=colour,
        mew=1.8,
        zorder=3,
    )
    if result.margin is not None:
        at = 100 * _signed_margin(result)
        axes.plot([at, at], [place - 0.3, place + 0.3], color=BLACK, lw=2, ls=":")


def _signed_margin(result: Result) -> float:
    """The lift at which a guardrail's margin is used up."""
    sign = -1 if result.comparison.metric.better == "higher" else 1
    return sign * (result.margin or 0.0)


def _limits(intervals: Sequence[Interval], *, besides: Sequence[float] = ()) -> tuple[float, float]:
    """Percent from where to where that show zero and all but intervals of extreme width."""
    found = [one for one in intervals if math.isfinite(one.low) and math.isfinite(one.high)]
    if not found:
        return -100.0, 100.0
    most = WIDEST * np.median([one.high - one.low for one in found])
    shown = [one for one in found if one.high - one.low <= most]
    low = min(0.0, *(one.low for one in shown), *besides)
    high = max(0.0, *(one.high for one in shown), *besides)
    room = MARGIN * (high - low)
    return 100 * (low - room), 100 * (high + room)


def _legend(axes: "Axes", roles: set[Role]) -> None:
    for role, colour in COLOURS.items():
        if role in roles:
            axes.plot([], [], MARKS[role], mfc="white", mec=colour, mew=1.8, ms=8, label=role)
    axes.plot([], [], color=BLACK, lw=4.5, label="one look")
    axes.plot([], [], color=BLACK, lw=1.3, label="any time")
    if "guardrail" in roles:
        axes.plot([], [], color=BLACK, lw=2, ls=":", label="margin")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _day_axes(axes: "Axes", points: Sequence[Point], metric: str, analysis: Analysis) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.5, max(analysis.experiment.days, analysis.days) + 0.5)
    axes.set_xlabel("day of the experiment")
    axes.set_ylabel(f"lift of {metric}, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(*_limits([point.anytime for point in points]))
    axes.legend(loc="upper right", frameon=False)
