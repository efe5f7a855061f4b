"""What input masks do to the distance between two histories: in theory, and on real users.

Two users differ in ``d`` items and share ``c``. A mask keeps each item with probability ρ. Under
independent masks a differing item still differs if it is kept (ρ), and a shared one differs
newly if one user keeps it and the other does not (2ρ(1 − ρ)). So the masked L1 distance is
``D ~ Binomial(d, ρ) + Binomial(c, 2ρ(1 − ρ))``; under one mask for both, ``Binomial(d, ρ)``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch

from coterie.data.batches import UserBatch, user_batch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.mechanisms.masked_distance import (
    MaskOdds,
    appearing_probability,
    masked_distance_mean,
    masked_odds,
)
from coterie.mechanisms.measurement import (
    LEAST_PAIRS,
    Budget,
    Measurement,
    SampleSize,
    choose_pairs,
    too_few,
    with_histories,
)
from coterie.mechanisms.numbers import number, percent, uncertain
from coterie.mechanisms.pairs import standard_error
from coterie.mechanisms.style import BLACK, BLUE, DIVERGING, GREEN, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEFAULT_BUDGET = Budget()
PAIRS_AT_ONCE = 2048
MOST_PAIRS = 20_000  # more would narrow intervals that are narrow already
MOST_DRAWN = 1500  # points on the map
N_GROUPS = 10
PER_ENTRY, PER_TERM = 600.0, 8000.0  # operations of a masked entry and of a term of the sums
FAR_OFF = 4.0  # standard errors between theory and masks that no luck explains


@dataclass(frozen=True, eq=False)
class MaskGeometry(Measurement):
    """The theory of masked distances on sampled pairs of real users, beside real masks.

    Parameters
    ----------
    sample
        The pairs.
    keep_probability
        ρ.
    pairs
        Internal indices of the users, int64 ``[P, 2]``.
    differing, shared
        d and c of each pair, int64 ``[P]``.
    masked, masked_alike
        Distances after masking, int64 ``[P, M]``: each user with a mask of its own, and both
        users with one mask.
    """

    name: ClassVar[str] = "mask_geometry"
    title: ClassVar[str] = "What masks do to distances"
    meaning: ClassVar[str] = (
        "A mask pulls two users together if they differ in more items than 2ρ times those that "
        "they share, and pushes them apart otherwise: hiding at random tells near users apart and "
        "makes far users more alike. Distances count items; the scaling of kept inputs by 1/ρ "
        "stretches all of them alike, so what counts is which pairs contract more than others."
    )
    method: ClassVar[str] = (
        "Theorem 2.6 of arXiv 2511.06781. The masked distance of users with d differing and c "
        "shared items is Binomial(d, ρ) + Binomial(c, 2ρ(1 − ρ)) (our derivation); means and "
        "probabilities are exact for each sampled pair, and checked by masking the same pairs. "
        "Standard errors allow for pairs that have a user in common."
    )
    headline: ClassVar[tuple[str, ...]] = (
        "differing",
        "shared",
        "expected_ratio",
        "measured_ratio",
        "contracting_share",
        "expanding_share",
        "nearest_contraction",
        "farthest_contraction",
    )
    labels: ClassVar[Mapping[str, str]] = {
        "nearest_contraction": "contraction_nearest_tenth_by_history",
        "farthest_contraction": "contraction_farthest_tenth_by_history",
    }
    sample: SampleSize
    keep_probability: float
    pairs: np.ndarray
    differing: np.ndarray
    shared: np.ndarray
    masked: np.ndarray
    masked_alike: np.ndarray

    @cached_property
    def odds(self) -> MaskOdds:
        """Exact probabilities of each pair under independent masks."""
        return masked_odds(self.differing, self.shared, self.keep_probability)

    @cached_property
    def expected(self) -> np.ndarray:
        """E[D] of each pair under independent masks, float64 ``[P]``."""
        return masked_distance_mean(self.differing, self.shared, self.keep_probability)

    @cached_property
    def gap(self) -> float:
        """How far masks and theory are apart in mean distance, in standard errors of the masks."""
        new = appearing_probability(self.keep_probability, False)
        kept = self.keep_probability * (1 - self.keep_probability)
        variance = (kept * self.differing + new * (1 - new) * self.shared).sum()
        surplus = (self.masked.mean(1) - self.expected).sum()
        return float(surplus * np.sqrt(self.masked.shape[1] / variance)) if variance else 0.0

    def _summary(self, among: np.ndarray) -> dict[str, float]:
        """Means over some of the pairs (indices), and standard errors of the mean."""
        d, c = self.differing[among], self.shared[among]
        threshold = 2 * self.keep_probability * c
        same_mask = masked_odds(d, c, self.keep_probability, same_mask=True)
        differ = among[d > 0]  # the ratio to d needs it
        base = self.differing[differ]
        columns = {
            "differing": d,
            "shared": c,
            "expected_ratio": self.expected[differ] / base,
            "measured_ratio": self.masked[differ].mean(1) / base,
            "contraction": self.odds.contraction[among],
            "measured_contraction": (self.masked[among] < d[:, None]).mean(1),
            "expansion": self.odds.expansion[among],
            "measured_expansion": (self.masked[among] > d[:, None]).mean(1),
            "contracting_share": d > threshold,
            "expanding_share": d < threshold,
            "same_mask_ratio": self.masked_alike[differ].mean(1) / base,
            "same_mask_contraction": same_mask.contraction,
        }
        found: dict[str, float] = {}
        for name, column in columns.items():
            pairs = self.pairs[differ if name.endswith("ratio") else among]
            found[name] = float(column.mean()) if len(column) else 1.0
            found[f"{name}_se"] = standard_error(column, pairs)
        return found

    def figures(self) -> dict[str, float]:
        """Over all pairs, and the contraction in the nearest and the farthest tenth of them."""
        figures = self._summary(np.arange(len(self.pairs)))
        for name, group in (("nearest", 0), ("farthest", -1)):
            summary = self._summary(self._groups()[group])
            for figure in ("contraction", "expected_ratio"):
                figures[f"{name}_{figure}"] = summary[figure]
                figures[f"{name}_{figure}_se"] = summary[f"{figure}_se"]
        return {**figures, "gap_in_standard_errors": self.gap}

    def _groups(self) -> list[np.ndarray]:
        """Tenths of the pairs, nearest first."""
        return np.array_split(np.argsort(self.differing, kind="stable"), N_GROUPS)

    def sentence(self) -> str:
        """How much of a distance a mask leaves, which pairs contract, and where."""
        figures, rho = self.figures(), self.keep_probability
        rare = figures["expanding_share"] < 0.01
        drawn = "" if self.sample.used == self.sample.available else ", drawn at random"
        return (
            f"Among {self.sample}{drawn}, keeping each item with probability {rho:g} "
            f"leaves {number(figures['expected_ratio'])} of a pair's distance in expectation "
            "(measured with real masks: "
            f"{uncertain(figures['measured_ratio'], figures['measured_ratio_se'])}; with one mask "
            f"for both users it would be {rho:g}). {percent(figures['contracting_share'])} of the "
            f"pairs contract in expectation, because they have more than 2ρ = {2 * rho:g} "
            f"differing items per shared one; {percent(figures['expanding_share'])} expand"
            + (", so masks hardly ever push users apart. " if rare else ". ")
            + "The nearest tenth of the pairs by history keeps "
            f"{number(figures['nearest_expected_ratio'], 3)} of its distance and comes closer with "
            "probability "
            f"{number(figures['nearest_contraction'])}, the farthest tenth "
            f"{number(figures['farthest_expected_ratio'], 3)} and "
            f"{number(figures['farthest_contraction'])}."
        )

    def warnings(self) -> list[str]:
        """Masks that contradict the theory; pairs that have no distance."""
        found = []
        if abs(self.gap) > FAR_OFF:
            found.append(
                f"Measured and exact mean distance are {self.gap:.1f} standard errors apart: the "
                "masks are not independent draws, or the theory is wrongly applied."
            )
        if alike := int((self.differing == 0).sum()):
            found.append(
                f"{alike:,} of {len(self.pairs):,} pairs have the same history; ratios and the map "
                "leave them out, since independent masks can only push them apart."
            )
        return found

    def too_small(self) -> str:
        """So few pairs leave less than ten to a tenth."""
        return too_few(self.sample.used, LEAST_PAIRS, self.sample.unit)

    def to_frame(self) -> pl.DataFrame:
        """One row per tenth of the pairs by distance, nearest first."""
        rows = [
            {
                "decile": number,
                "pairs": len(among),
                "least_differing": int(self.differing[among].min()),
                "most_differing": int(self.differing[among].max()),
                **self._summary(among),
            }
            for number, among in enumerate(self._groups(), 1)
        ]
        return pl.DataFrame(rows)

    def plot(self) -> "Figure":
        """The map of expected contraction with the pairs on it; probabilities by distance."""
        figure, (left, right) = new_figure(2, width=6.2, height=4.4)
        self._draw_map(left)
        self._draw_deciles(right)
        return figure

    def _draw_map(self, axes: "Axes") -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        rho = self.keep_probability
        shown = np.flatnonzero(self.differing)
        shown = shown[:: max(1, -(-len(shown) // MOST_DRAWN))]  # every n-th: pairs are sorted
        d, c = self.differing[shown], self.shared[shown]
        right = 1.3 * max(d.max(initial=10), 2)
        top = max(1.6 * c.max(initial=1), right / (4 * rho), 2)
        x = np.geomspace(max(0.8 * d.min(initial=10), 0.8), right, 200)
        y = np.concatenate([np.linspace(-0.15, 1, 40, endpoint=False), np.geomspace(1, top, 160)])
        ratio = np.log2(rho + 2 * rho * (1 - rho) * np.maximum(y, 0)[:, None] / x)
        limit = max(-np.log2(rho), 0.1)
        colors: Any = {"cmap": DIVERGING, "vmin": -1.6 * limit, "vmax": 1.6 * limit}  # not too dark
        image = axes.pcolormesh(x, y, ratio, shading="gouraud", rasterized=True, **colors)
        axes.plot(2 * rho * y, y, color=BLACK, lw=1.8, label="unchanged: d = 2ρc")
        axes.plot(d, c, ".", color=BLACK, ms=3, alpha=0.5, mew=0, label="pairs of the data")
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=1)
        axes.set(xlim=(x[0], right), ylim=(y[0], top))
        axes.set(xlabel="differing items d", ylabel="shared items c")
        axes.set_title(f"Expected distance after masks, ρ = {rho:g}")
        axes.grid(False)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        below: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 2}
        axes.legend(frameon=False, markerscale=3, **below)
        ticks = np.linspace(-limit, limit, 5)
        bar = axes.figure.colorbar(image, ax=axes, ticks=ticks, extend="max")
        bar.ax.set_yticklabels([f"{2**tick:.2f}" for tick in ticks])
        bar.set_label("E[D] / d")

    def _draw_deciles(self, axes: "Axes") -> None:
        frame = self.to_frame()
        at = frame["decile"].to_numpy()
        same = frame["same_mask_contraction"]
        label = "contraction, one mask for both"
        axes.plot(at, same, color=GREEN, lw=7, alpha=0.4, label=label)
        for name, color, marker in (
            ("contraction", BLUE, "o"),
            ("expansion", VERMILION, "s"),
        ):
            axes.plot(at, frame[name], color=color, lw=2, label=f"{name}, exact")
            axes.errorbar(
                at,
                frame[f"measured_{name}"],
                2 * frame[f"measured_{name}_se"].to_numpy(),
                fmt=marker,
                color=color,
                mfc="white",
                capsize=3,
                label=f"{name}, measured (± 2 s.e.)",
            )
        labels = [f"{d:.0f}" for d in frame["differing"]]
        axes.set_xticks(at, labels)
        axes.set(ylim=(-0.04, 1.04), xlabel="mean differing items d, by tenth of the pairs")
        axes.set(ylabel="probability", title="What a mask does to a pair")
        axes.legend(loc="center right", fontsize=10, frameon=False)


def mask_geometry(
    user_items: Interactions,
    *,
    keep_probability: float = 0.5,
    n_masks: int = 4,
    generator: torch.Generator,
    budget: Budget = DEFAULT_BUDGET,
) -> MaskGeometry:
    """What masks do to the distances between users; needs no model.

    Parameters
    ----------
    user_items
        Whole histories; empty ones are left out.
    keep_probability
        ρ in (0, 1].
    n_masks
        Times that each pair is really masked, in either way.
    generator
        On the CPU: the pairs, then the masks.
    budget
        Bounds the number of pairs, which is at most ``MOST_PAIRS``; the default's is enough.

    Raises
    ------
    ConfigError
        ρ or ``n_masks`` is out of range.
    DataError
        Fewer than five users have a history: ten pairs are the least.
    """
    appearing_probability(keep_probability, False)
    if n_masks < 1:
        raise ConfigError(f"n_masks must be at least 1, got {n_masks}.")
    users = with_histories(user_items)
    entries = 2 * user_items.nnz / max(len(users), 1)
    size = budget.most(
        len(users) * (len(users) - 1) // 2,
        operations=PER_ENTRY * entries * 2 * (n_masks + 1) + PER_TERM * entries,
        memory=8 * (2 * n_masks + 16),
        least=N_GROUPS,
        unit="pairs of users",
    )
    sample = SampleSize(min(size.used, MOST_PAIRS), size.available, size.unit)
    pairs = users[choose_pairs(len(users), sample.used, generator)]
    blocks = list(_mask_pairs(user_items, pairs, keep_probability, n_masks, generator))
    d, c, masked, alike = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return MaskGeometry(sample, keep_probability, pairs, d, c, masked, alike)


def _mask_pairs(
    data: Interactions, pairs: np.ndarray, rho: float, n_masks: int, generator: torch.Generator
) -> Iterator[tuple[np.ndarray, ...]]:
    """d, c, and the distances ``[B, M]`` under two masks and under one, block by block."""
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        first, second = (user_batch(data, side) for side in pairs[start : start + PAIRS_AT_ONCE].T)
        difference = _binary(first) - _binary(second)  # stores non-zeros only
        d = np.diff(difference.indptr).astype(np.int64)
        c = ((first.lengths + second.lengths).numpy() - d) // 2
        apart, alike = np.empty((2, len(d), n_masks), dtype=np.int64)
        for at in range(n_masks):
            kept = [b.select(_keep(len(b.indices), rho, generator)) for b in (first, second)]
            apart[:, at] = np.diff((_binary(kept[0]) - _binary(kept[1])).indptr)
            stay = np.cumsum(np.r_[0, _keep(difference.nnz, rho, generator).numpy()])
            alike[:, at] = np.diff(stay[difference.indptr])
        yield d, c, apart, alike


def _keep(n: int, rho: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator) < rho


def _binary(batch: UserBatch) -> Any:
    """Histories as an int8 CSR array ``[B, I]``."""
    ones = np.ones(len(batch.indices), dtype=np.int8)
    shape = (batch.n_users, batch.n_items)
    return sp.csr_array((ones, batch.indices.numpy(), batch.indptr.numpy()), shape=shape)
