"""The study's figures: every seed as a small dot, their mean with ± one standard deviation."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from coterie.mechanisms.style import BLACK, BLUE, ORANGE, VERMILION, new_figure
from coterie.study.findings import Records, predicted_tau
from coterie.study.folder import NAN
from coterie.study.settings import BETA, CLEAN, LAMBDA, MAIN, MASKING, METRIC, PIA, RHO, Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {CLEAN: ORANGE, MASKING: BLUE, PIA: VERMILION}
AXIS = {
    BETA: "β, cap of the KL weight",
    RHO: "ρ, probability to keep",
    LAMBDA: "λ_A, weight of PIA",
}
NDCG = METRIC.upper()
DRIFT = ("drift", "drift", "drift (1 − overlap)")
SPREAD = ("drift", "relative_mask_variance", "variance across masks ÷ users")
GLOBAL = ("collaboration", "global_share", "global share of help")
ACTIVE = ("information", "active_units", "active units")
INFORMATION = ("information", "mutual_information", "I(X; Z), nats")
QUALITY = ("test", METRIC, NDCG)

Panel = tuple[str, str, str]
"""A measure, its figure, and the axis label."""


def quality(table: Records, plan: Plan) -> "Figure":
    """NDCG@100 of every setting."""
    figure, (axes,) = new_figure(width=6.8, height=0.34 * len(plan.keys) + 1.1)
    labels = [plan[key].label for key in plan.keys]
    _dots(axes, [table.values(key, "test", METRIC) for key in plan.keys], plan.keys, across=True)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"{NDCG} of the test users")
    return figure


def cohorts(table: Records, plan: Plan) -> "Figure":
    """NDCG@100 of the main settings by history length."""
    figure, (axes,) = new_figure(width=6.8)
    for offset, key in zip((-0.22, 0.0, 0.22), MAIN, strict=True):
        values = [table.values(key, "test", METRIC, cohort) for cohort in table.cohorts]
        at = np.arange(len(values)) + offset
        _dots(axes, values, [key] * len(values), at=at, label=plan[key].label)
    sizes = [
        round(np.mean([record.cohort_size(cohort, METRIC) for record in table.of(MASKING)]))
        for cohort in table.cohorts
    ]
    names = [f"{name}\n({size:,})" for name, size in zip(table.cohorts, sizes, strict=True)]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("items in the history (users per seed)")
    axes.set_ylabel(NDCG)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, frameon=False)
    return figure


def main_settings(table: Records, plan: Plan, panels: Sequence[Panel]) -> "Figure":
    """Some figures of the main settings, side by side."""
    return _by_setting(table, plan, MAIN, panels)


def ablation(table: Records, plan: Plan) -> "Figure":
    """What the parts of PIA do alone."""
    return _by_setting(table, plan, plan.ablation, (QUALITY, DRIFT, SPREAD), across=True)


def sensitivity(table: Records, plan: Plan, panels: Sequence[Panel]) -> "Figure":
    """Figures along each sweep, the base dotted: a row per figure, a column per sweep."""
    sweeps = {name: points for name, points in plan.sweeps.items() if len(points) > 1}
    figure, every = new_figure(len(sweeps), len(panels), width=3.8, height=3.1)
    for at, axes in enumerate(every):
        row, column = divmod(at, len(sweeps))
        name, points = list(sweeps.items())[column]
        measure, figure_name, label = panels[row]
        _curve(axes, list(points), [table.values(k, measure, figure_name) for k in points.values()])
        base = list(points).index(getattr(plan.config, name))
        axes.axvline(base, color=BLACK, lw=0.8, ls=":", zorder=0)
        axes.set_xlabel(AXIS[name])
        if column == 0:
            axes.set_ylabel(label)
    for start in range(0, len(every), len(sweeps)):  # a row has one scale: its sweeps compare
        row_of = every[start : start + len(sweeps)]
        lows, highs = zip(*(axes.get_ylim() for axes in row_of), strict=True)
        for axes in row_of:
            axes.set_ylim(min(lows), max(highs))
    return figure


def collapse(table: Records, plan: Plan) -> "Figure":
    """Active units and mutual information along β."""
    figure, every = new_figure(2, width=4.6)
    points = plan.sweeps[BETA]
    for axes, (measure, name, label) in zip(every, (ACTIVE, INFORMATION), strict=True):
        _curve(axes, list(points), [table.values(key, measure, name) for key in points.values()])
        axes.set(xlabel=AXIS[BETA], ylabel=label)
        axes.set_ylim(bottom=0)
    limits = table.values(MASKING, "information", "mutual_information_limit")
    if np.isfinite(limits).any():
        every[1].axhline(np.nanmean(limits), color=BLACK, ls=":", label="most that can be seen")
        every[1].legend(loc="lower left", frameon=False)
    return figure


def tau(table: Records, plan: Plan) -> "Figure":
    """Measured ratios to masking alone beside τ and τ², along λ_A."""
    figure, every = new_figure(2, width=4.6)
    points = plan.sweeps[LAMBDA]
    for axes, (name, power, title) in zip(
        every,
        (
            ("distance", 1, "Distance to the centroid, τ"),
            ("mask_variance", 2, "Variance across masks, τ²"),
        ),
        strict=True,
    ):
        base = table.values(MASKING, "alignment_effect", name)
        measured = [table.values(key, "alignment_effect", name) / base for key in points.values()]
        expected = [predicted_tau(table, value) ** power for value in points]
        _curve(axes, list(points), measured, label="measured")
        _curve(axes, list(points), expected, color=VERMILION, style="--", label="predicted")
        axes.set(title=title, xlabel=AXIS[LAMBDA], ylabel="share left of masking alone")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    return figure


def figures(table: Records, plan: Plan) -> Mapping[str, Callable[[], "Figure"]]:
    """All figures that this plan has, by the names of their files."""
    drawn: dict[str, Callable[[], Figure]] = {
        "quality": lambda: quality(table, plan),
        "cohorts": lambda: cohorts(table, plan),
        "neighbourhoods": lambda: main_settings(table, plan, (DRIFT, SPREAD)),
        "collaboration": lambda: main_settings(table, plan, (GLOBAL, ACTIVE)),
    }
    if len(plan.sweeps[BETA]) > 1:
        drawn["collapse"] = lambda: collapse(table, plan)
    if len(plan.sweeps[LAMBDA]) > 1:
        drawn["tau"] = lambda: tau(table, plan)
    if any(len(points) > 1 for points in plan.sweeps.values()):
        drawn["sensitivity"] = lambda: sensitivity(table, plan, (QUALITY, DRIFT, GLOBAL))
    if plan.ablation:
        drawn["ablation"] = lambda: ablation(table, plan)
    return drawn


def _by_setting(
    table: Records,
    plan: Plan,
    keys: Sequence[str],
    panels: Sequence[Panel],
    *,
    across: bool = False,
) -> "Figure":
    figure, every = new_figure(len(panels), width=3.8 if across else 4.6, height=3.2)
    labels = [plan[key].label for key in keys]
    for column, (axes, (measure, name, label)) in enumerate(zip(every, panels, strict=True)):
        _dots(axes, [table.values(key, measure, name) for key in keys], keys, across=across)
        if across:
            axes.set_yticks(range(len(labels)), labels if column == 0 else [""] * len(labels))
            axes.invert_yaxis()
            axes.set_xlabel(label)
        else:
            axes.set_xticks(range(len(labels)), labels)
            axes.set_xlim(-0.6, len(labels) - 0.4)
            axes.set_ylabel(label)
        if (measure, name, label) == ACTIVE:
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    return figure


def _dots(
    axes: "Axes",
    values: Sequence[np.ndarray],
    keys: Sequence[str],
    *,
    at: np.ndarray | None = None,
    across: bool = False,
    label: str | None = None,
) -> None:
    """One place per setting: its seeds, and beside them mean ± standard deviation."""
    places = np.arange(len(values)) if at is None else at
    for place, found, key in zip(places, values, keys, strict=True):
        colour = COLOURS.get(key, BLACK)
        seeds = np.full(len(found), place - 0.06)
        mean, deviation = _moments(found)
        if across:
            axes.plot(found, seeds, "o", ms=4, mfc="none", color=colour, alpha=0.7)
            axes.errorbar(
                mean, place + 0.06, xerr=deviation, fmt="D", ms=5, color=colour, capsize=3
            )
        else:
            axes.plot(seeds, found, "o", ms=4, mfc="none", color=colour, alpha=0.7)
            axes.errorbar(
                place + 0.06, mean, deviation, fmt="D", ms=5, color=colour, capsize=3, label=label
            )
        label = None  # once for the legend


def _curve(
    axes: "Axes",
    points: list[float],
    values: list[np.ndarray],
    *,
    color: str = BLUE,
    style: str = "-",
    label: str | None = None,
) -> None:
    """Means along a sweep, its points equally spaced, with seeds and standard deviations."""
    places = np.arange(len(points))
    means, deviations = np.array([_moments(found) for found in values]).T
    axes.errorbar(
        places, means, deviations, fmt=f"o{style}", ms=5, color=color, capsize=3, label=label
    )
    for place, found in zip(places, values, strict=True):
        axes.plot(
            np.full(len(found), place), found, "o", ms=3.5, mfc="none", color=color, alpha=0.6
        )
    axes.set_xticks(places, [f"{point:g}" for point in points])


def _moments(found: np.ndarray) -> tuple[float, float]:
    found = found[np.isfinite(found)]
    mean = float(found.mean()) if len(found) else NAN
    return mean, float(found.std(ddof=1)) if len(found) > 1 else 0.0
