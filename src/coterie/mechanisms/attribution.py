"""What a recommended item's score rests on: items of the history, and training users.

Letters: ``m`` recommended items, ``n`` items of the history, ``N`` near users, ``S`` draws of z.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch

from coterie.data.batches import user_batch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.encoding import USERS_AT_ONCE
from coterie.mechanisms.gradients import jackknife
from coterie.mechanisms.leave_one_out import leave_one_out
from coterie.mechanisms.measurement import Budget, Measurement, SampleSize, of_model
from coterie.mechanisms.nearby import (
    Nearby,
    affordable,
    checked_history,
    near_gradients,
    survey,
)
from coterie.mechanisms.numbers import number, percent
from coterie.mechanisms.style import BLACK, BLUE, ORANGE, new_figure
from coterie.mechanisms.titles import item_names, shortened
from coterie.models.model import Model
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HOLDERS = 50  # near users who have the item, measured per item
PANELS = 4  # items in a figure
NEIGHBOUR_SCHEMA = {"place": pl.Int64, "influence": pl.Float64, "influence_se": pl.Float64}


@dataclass(frozen=True, eq=False)
class Attribution(Measurement):
    """Contributions to the scores of m items.

    The score of an item of a VAE is its log-probability among the items outside the history, in
    nats: the logit that ranking uses, less a number that is the same for all items. The score of a
    baseline is what it ranks by, in its own unit.

    Parameters
    ----------
    sample
        Items of the history that were left out in turn, of all of them.
    items, history
        Model indices: the explained items ``[m]``, and those that were left out in turn ``[n]``.
    score, lift
        ``[m]``: the score, and how far it lies above that without any history.
    contributions
        ``[m, n]``: the score less that of the history without the item.
    neighbours
        Near training users who have the item, for each of the m items those of the largest
        influence: ``place`` (0 … m − 1), ``influence``, ``influence_se`` (jackknife over
        draws), ``user_id``. An influence of 0.1 means: a step on that user raises the item's
        log-probability for this user by 10 % of what a step on that prediction itself would.
    n_holders
        ``[m]``: near users who have the item, measured; None for a baseline, where influences of
        users are not known.
    catalogue
        The model's items, ``item_id`` and, where known, ``title``.
    k
        How many contributions are shown.
    """

    name: ClassVar[str] = "attribution"
    title: ClassVar[str] = "What the scores rest on"
    meaning: ClassVar[str] = (
        "A contribution says how far an item's score falls when one item of the history is left "
        "out; below 0 the score rises. Contributions of items that stand for each other are "
        "small alone. An influence says how far training on a user raised the score, to first "
        "order at the trained weights."
    )
    method: ClassVar[str] = (
        "Exact leave-one-out: the shorter history, L2-normalised anew, through the posterior mean "
        "and the decoder; score: log-softmax over the items outside the whole history. Users: "
        "⟨∇E[−log π_i], g_v⟩ / ‖∇E[−log π_i]‖² over all decoder parameters, π the softmax over "
        "all items, for the nearest users (W2) who have the item (first-order influence as in "
        "arXiv 2511.06781, Theorem 2.3)."
    )

    sample: SampleSize
    items: np.ndarray
    history: np.ndarray
    score: np.ndarray
    lift: np.ndarray
    contributions: np.ndarray
    neighbours: pl.DataFrame
    n_holders: np.ndarray | None
    catalogue: pl.DataFrame = field(repr=False)
    k: int = 5

    def top(self, place: int, size: int | None = None) -> np.ndarray:
        """Places in ``history`` of the largest contributions to item ``place``, largest first."""
        order = np.argsort(-self.contributions[place], kind="stable")
        return order[: self.k if size is None else size]

    def figures(self) -> dict[str, float]:
        """Means over the m items."""
        best = np.sort(self.contributions, axis=1)[:, ::-1]
        return {
            "items": len(self.items),
            "history_items": len(self.history),
            "mean_lift": float(self.lift.mean()),
            "mean_top_contribution": float(best[:, 0].mean()),
            "raising_share": float((self.contributions > 0).mean()),
            "holders": float("nan") if self.n_holders is None else float(self.n_holders.mean()),
        }

    @property
    def probabilistic(self) -> bool:
        """Whether scores are log-probabilities."""
        return self.n_holders is not None

    def sentence(self) -> str:
        """Of the first item: which items and which user carry it most."""
        named, of = item_names(self.catalogue[self.items[:1]])[0], self.top(0, 2)
        names = item_names(self.catalogue[self.history[of]])
        parts = [
            f"{name} (without it {self._change(float(value))})"
            for name, value in zip(names, self.contributions[0, of], strict=True)
        ]
        text = f"The score of {named} rests most on {' and '.join(parts)}."
        if self.n_holders is None:
            return text
        near = self.neighbours.filter(pl.col("place") == 0, pl.col("influence") > 0)
        if len(near) == 0:
            return text + " No near training user who has it was found to raise it."
        return text + (
            f" Of the {self.n_holders[0]} near users who have it, user {near['user_id'][0]} "
            f"accounts for it most: a training step on that user raises its log-probability by "
            f"{percent(near['influence'][0], near['influence_se'][0])} of what a step on that "
            "prediction itself would."
        )

    def _change(self, contribution: float) -> str:
        """What leaving an item out does to the score, in words."""
        change = float(np.expm1(-contribution)) if self.probabilistic else -contribution
        size = f"{abs(change):.0%}" if self.probabilistic else number(abs(change), 3)
        what = "probability" if self.probabilistic else "score"
        return f"its {what} is {size} {'lower' if change <= 0 else 'higher'}"

    def warnings(self) -> list[str]:
        """Items that were not left out, and items without near holders."""
        found = []
        if self.sample.used < self.sample.available:
            found.append(
                f"Only {self.sample} were left out in turn, drawn at random; a larger budget "
                "takes all."
            )
        alone = np.flatnonzero(np.zeros(0) if self.n_holders is None else self.n_holders == 0)
        if len(alone):
            names = ", ".join(item_names(self.catalogue[self.items[alone]]))
            found.append(f"No searched user of the community has: {names}.")
        return found

    def to_frame(self) -> pl.DataFrame:
        """All contributions, largest first: ``item_id``, ``history_item_id``, titles, ``rank``."""
        order = np.argsort(-self.contributions, axis=1, kind="stable")
        n_items, n = order.shape
        frame = self.catalogue[np.repeat(self.items, n)]
        other = self.catalogue[self.history[order.ravel()]]
        other = other.rename({name: f"history_{name}" for name in other.columns})
        values = np.take_along_axis(self.contributions, order, 1).ravel()
        ranks = np.tile(np.arange(1, n + 1), n_items)
        return pl.concat([frame, other], how="horizontal").with_columns(
            contribution=pl.Series(values), rank=pl.Series(ranks)
        )

    def neighbours_frame(self) -> pl.DataFrame:
        """The users that account for the items: ``item_id``, ``title``, ``user_id``, influence."""
        near = self.neighbours
        items = self.catalogue[self.items[near["place"].to_numpy()]]
        names = ("user_id", "influence", "influence_se")
        return pl.DataFrame([*items.get_columns(), *(near[name] for name in names)])

    def plot(self) -> "Figure":
        """The largest contributions to the first few items, one panel each."""
        n_panels = min(len(self.items), PANELS)
        figure, axes = new_figure(rows=n_panels, height=1.2 + 0.32 * min(self.k, len(self.history)))
        for place in range(n_panels):
            self.draw(axes[place], place)
        return figure

    def draw(self, axes: "Axes", place: int = 0) -> None:
        """The largest contributions to one item as bars."""
        of = self.top(place)
        values = self.contributions[place, of]
        axes.barh(np.arange(len(of)), values, color=np.where(values > 0, BLUE, ORANGE))
        names = item_names(self.catalogue[self.history[of]])
        axes.set_yticks(np.arange(len(of)), [shortened(name, 26) for name in names])
        axes.invert_yaxis()
        axes.set_axisbelow(True)
        axes.grid(axis="y", visible=False)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        unit = "nats" if self.probabilistic else "in its unit"
        axes.set_xlabel(f"contribution to the score ({unit})")
        name = item_names(self.catalogue[self.items[place : place + 1]])[0]
        axes.set_title(f"What {shortened(name, 30)} rests on")


@of_model
@torch.no_grad()
def attribution(
    model: Model,
    user_items: Interactions,
    history: np.ndarray,
    items: np.ndarray,
    *,
    user: int | None = None,
    generator: torch.Generator,
    budget: Budget | None = None,
    n_draws: int = 8,
    k: int = 5,
    holders: int = HOLDERS,
    catalogue: pl.DataFrame | None = None,
    nearby: Nearby | None = None,
) -> Attribution:
    """What the scores of some items rest on: exact leave-one-out, and influence of near users.

    Parameters
    ----------
    model
        Any VAE of coterie; of a baseline, items of the history are left out, and that is all.
    user_items
        The community: users known in training, over the model's items.
    history, items
        Model indices of the user's items ``[n]`` and of the items to explain ``[m]``; no item
        stands in both.
    user, generator, budget, n_draws, catalogue, nearby
        As in :func:`~coterie.mechanisms.neighbourhood.neighbourhood`. If the budget does not
        reach for all n, as many of them as it allows are drawn at random, and a warning says so.
    k
        Contributions and users to show per item.
    holders
        At most that many users who have the item are measured, the nearest.

    Raises
    ------
    DataError
        The history is empty, or an item is out of range or in the history.
    """
    if n_draws < 2 or k < 1 or holders < 1:
        raise ConfigError(
            f"Expected n_draws ≥ 2, k ≥ 1 and holders ≥ 1, got {n_draws}, {k}, {holders}."
        )
    history = checked_history(history, model.n_items)
    items = np.asarray(items)
    if len(np.setdiff1d(checked_history(items, model.n_items), history)) < len(items):
        raise DataError("The items to explain must be distinct, and none of the history.")
    budget = budget or Budget()
    found = leave_one_out(model, history, items, generator=generator, budget=budget.share(0.3))
    near, n_holders = pl.DataFrame(schema={**NEIGHBOUR_SCHEMA, "user_id": pl.String}), None
    if isinstance(model, VAE):
        if nearby is None:
            part = budget.share(0.3)
            nearby = survey(model, user_items, history, user=user, generator=generator, budget=part)
        near, n_holders = _holders(
            model,
            user_items,
            nearby,
            items,
            n_draws=n_draws,
            most=holders,
            k=k,
            generator=generator,
            budget=budget.share(0.4),
        )
    ids = user_items.item_ids.ids.alias("item_id").to_frame()
    return Attribution(
        sample=found.sample,
        items=items.astype(np.int64),
        history=history[found.places],
        score=found.score,
        lift=found.score - found.nothing,
        contributions=found.score[:, None] - found.without.T,
        neighbours=near,
        n_holders=n_holders,
        catalogue=ids if catalogue is None else catalogue,
        k=k,
    )


def _holders(
    model: VAE,
    user_items: Interactions,
    nearby: Nearby,
    items: np.ndarray,
    *,
    n_draws: int,
    most: int,
    k: int,
    generator: torch.Generator,
    budget: Budget,
) -> tuple[pl.DataFrame, np.ndarray]:
    """For each item the k nearby users who have it of the largest influence, and how many."""
    has = _having(user_items, nearby.users, items)
    by_distance = np.argsort(nearby.distance, kind="stable")
    most = max(1, affordable(model, len(items) * most, n_draws, budget) // len(items))
    of_item = [by_distance[has[by_distance, place]][:most] for place in range(len(items))]
    n_holders = np.array([len(of) for of in of_item])
    chosen = np.unique(np.concatenate(of_item))
    ids = user_items.user_ids.to_ids(nearby.users[chosen]).alias("user_id")
    if len(chosen) == 0:
        return pl.DataFrame(schema=NEIGHBOUR_SCHEMA).with_columns(ids), n_holders
    gradients = near_gradients(  # the first m rows: histories of one item each
        model,
        user_items,
        nearby,
        list(items[:, None]),
        chosen,
        n_draws=n_draws,
        generator=generator,
    )
    place = np.repeat(np.arange(len(items)), n_holders)
    at = np.searchsorted(chosen, np.concatenate(of_item))
    products = gradients.grams(np.stack([place, len(items) + at], axis=1))
    reference = gradients.grams(np.arange(len(items)).repeat(2).reshape(-1, 2))
    reference = reference[torch.from_numpy(place)]
    frame = pl.DataFrame(
        {
            "place": place,
            "influence": (products.mean((1, 2)) / reference.mean((1, 2))).numpy(),
            "influence_se": jackknife(products, reference),
            "user_id": ids.gather(at),
        }
    )
    order = ["place", "influence"]
    ranked = frame.sort(order, descending=[False, True], maintain_order=True)
    return ranked.group_by("place", maintain_order=True).head(k), n_holders


def _having(user_items: Interactions, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Which of the users have which of the items, bool ``[N, m]``."""
    place = np.full(user_items.n_items, -1)
    place[items] = np.arange(len(items))
    has = np.zeros((len(users), len(items)), dtype=bool)
    for start in range(0, len(users), USERS_AT_ONCE):
        batch = user_batch(user_items, users[start : start + USERS_AT_ONCE])
        at = place[batch.indices.numpy()]
        has[start + batch.rows.numpy()[at >= 0], at[at >= 0]] = True
    return has
