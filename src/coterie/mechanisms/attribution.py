"""What a recommended item's score rests on: items of the history, and training users.

Letters: ``m`` recommended items, ``n`` items of the history, ``N`` near users, ``S`` draws of z.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

import numpy as np
import polars as pl
import torch
from torch import Tensor

from coterie.data.batches import UserBatch, user_batch
from coterie.data.ids import ExternalId
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.histories import UNKNOWN_SCHEMA, fold_in, known_items, over
from coterie.mechanisms.encoding import USERS_AT_ONCE
from coterie.mechanisms.gradients import DecoderGradients
from coterie.mechanisms.measurement import Budget, Measurement, SampleSize, choose
from coterie.mechanisms.neighbourhood import (
    Nearby,
    Neighbourhood,
    affordable,
    batch_of,
    checked_history,
    draw_noise,
    draws,
    item_names,
    jackknife,
    kernel,
    neighbourhood,
    shortened,
    stacked,
    survey,
)
from coterie.mechanisms.style import BLACK, BLUE, ORANGE, new_figure
from coterie.models.vae import VAE
from coterie.recommender import Recommender

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HOLDERS = 50  # near users who have the item, measured per item
HINTED_FROM = 20_000  # user ids compared with an unknown one
PANELS = 4  # items in a figure
NEIGHBOUR_SCHEMA = {"place": pl.Int64, "influence": pl.Float64, "influence_error": pl.Float64}


@dataclass(frozen=True, eq=False)
class Attribution(Measurement):
    """Contributions to the scores of m items.

    The score of an item is its log-probability among the items outside the history, in nats:
    the logit that ranking uses, less a number that is the same for all items.

    Parameters
    ----------
    sample
        Items of the history that were left out in turn, of all of them.
    items, history
        Model indices: the explained items ``[m]``, and those that were left out in turn ``[n]``.
    score, lift
        ``[m]``, nats: the score, and how far it lies above that without any history.
    contributions
        ``[m, n]``, nats: the score less that of the history without the item.
    neighbours
        Near training users who have the item, for each of the m items those of the largest
        influence: ``place`` (0 … m − 1), ``influence``, ``influence_error`` (jackknife over
        draws), ``user_id``. An influence of 0.1 means: a step on that user raises the item's
        log-probability for this user by 10 % of what a step on that prediction itself would.
    n_holders
        ``[m]``: near users who have the item, measured.
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
    n_holders: np.ndarray
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
            "holders": float(self.n_holders.mean()),
        }

    def sentence(self) -> str:
        """Of the first item: which items and which user carry it most."""
        named, of = item_names(self.catalogue[self.items[:1]])[0], self.top(0, 2)
        names = item_names(self.catalogue[self.history[of]])
        parts = [
            f"{name} (without it {_change(float(value))})"
            for name, value in zip(names, self.contributions[0, of], strict=True)
        ]
        text = f"The score of {named} rests most on {' and '.join(parts)}."
        near = self.neighbours.filter(pl.col("place") == 0, pl.col("influence") > 0)
        if len(near) == 0:
            return text + " No near training user who has it was found to raise it."
        return text + (
            f" Of the {self.n_holders[0]} near users who have it, user {near['user_id'][0]} "
            f"accounts for it most: a training step on that user raises its log-probability by "
            f"{near['influence'][0]:.0%} of what a step on that prediction itself would."
        )

    def warnings(self) -> list[str]:
        """Items that were not left out, and items without near holders."""
        found = []
        if self.sample.used < self.sample.available:
            found.append(
                f"Only {self.sample} were left out in turn, drawn at random; a larger budget "
                "takes all."
            )
        alone = np.flatnonzero(self.n_holders == 0)
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
        names = ("user_id", "influence", "influence_error")
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
        axes.set_xlabel("contribution to the score (nats)")
        name = item_names(self.catalogue[self.items[place : place + 1]])[0]
        axes.set_title(f"What {shortened(name, 30)} rests on")


@dataclass(frozen=True, eq=False)
class Explanation(Measurement):
    """Who helps a user, and what the scores of some items rest on.

    Parameters
    ----------
    sample
        Users of the community that were searched.
    neighbourhood, attribution
        The two parts.
    unknown
        Item ids that the model does not know, as in :class:`coterie.histories.FoldIn`.
    """

    name: ClassVar[str] = "explanation"
    title: ClassVar[str] = "A user explained"
    meaning: ClassVar[str] = f"{Neighbourhood.meaning} {Attribution.meaning}"
    method: ClassVar[str] = f"{Neighbourhood.method} {Attribution.method}"

    sample: SampleSize
    neighbourhood: Neighbourhood
    attribution: Attribution
    unknown: pl.DataFrame

    def figures(self) -> dict[str, float]:
        """Those of the two parts; no name stands in both."""
        return {**self.neighbourhood.figures(), **self.attribution.figures()}

    def sentence(self) -> str:
        """Both parts' sentences."""
        return f"{self.neighbourhood.sentence()} {self.attribution.sentence()}"

    def warnings(self) -> list[str]:
        """Both parts' warnings, and item ids that the model does not know."""
        found = [*self.neighbourhood.warnings(), *self.attribution.warnings()]
        if len(self.unknown):
            found.append(f"The model does not know: {', '.join(self.unknown['item_id'])}.")
        return found

    def to_frame(self) -> pl.DataFrame:
        """The contributions; ``neighbourhood.to_frame()`` and the like have the rest."""
        return self.attribution.to_frame()

    def to_dict(self) -> dict[str, Any]:
        """As for every measure; and neighbours, carriers, items and their contributions."""
        near, of = self.neighbourhood, self.attribution
        shown = of.to_frame().filter(pl.col("rank") <= of.k)
        items = of.catalogue[of.items].with_columns(
            score=pl.Series(of.score), lift=pl.Series(of.lift), holders=pl.Series(of.n_holders)
        )
        return {
            **super().to_dict(),
            "neighbours": near.to_frame().head(near.k).to_dicts(),
            "carriers": near.carriers.to_dicts(),
            "items": items.to_dicts(),
            "contributions": shown.to_dicts(),
            "item_neighbours": of.neighbours_frame().to_dicts(),
            "unknown": self.unknown.to_dicts(),
        }

    def plot(self) -> "Figure":
        """The first item's contributions beside the most helpful users."""
        figure, (left, right) = new_figure(2)
        self.attribution.draw(left)
        self.neighbourhood.draw(right)
        return figure


def explain(
    recommender: Recommender,
    history_or_user: Sequence[Any] | np.ndarray | pl.Series | ExternalId,
    community: Interactions,
    *,
    items: Iterable[Any] | None = None,
    k: int = 5,
    generator: torch.Generator,
    budget: Budget | None = None,
) -> Explanation:
    """Who helps a user, and which history items and users account for what it is recommended.

    Parameters
    ----------
    recommender
        A trained model with its catalogue.
    history_or_user
        Item ids of one user in a sequence; or one id of a user of the community.
    community
        The known users, over any items; best those that the model was trained on.
    items
        External ids of the items to explain; by default the user's k best.
    k
        How many items, neighbours and contributions to show.
    generator
        On the CPU.
    budget
        Of time and memory, for all of it.

    Raises
    ------
    DataError
        The history is empty or wholly unknown, the user is unknown (near ids are named), or an
        item to explain is unknown or in the history.
    """
    if k < 1:
        raise ConfigError(f"k must be 1 or more, got {k}.")
    budget, model = budget or Budget(), recommender.model
    near = over(community, recommender.item_ids)
    user, history, unknown = _history(recommender, history_or_user, near)
    index, lost = _items(recommender, history, items, k)
    share = budget.share(0.3)
    found = survey(model, near, history, user=user, generator=generator, budget=share)
    catalogue = recommender.catalogue
    about: dict[str, Any] = {"generator": generator, "catalogue": catalogue, "nearby": found}
    neighbours = neighbourhood(model, near, history, k=k, budget=budget.share(0.4), **about)
    attributed = attribution(model, near, history, index, k=k, budget=share, **about)
    return Explanation(found.sample, neighbours, attributed, pl.concat([unknown, lost]))


@torch.no_grad()
def attribution(
    model: VAE,
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
        Any VAE of coterie.
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
    sample = budget.share(0.3).most(
        len(history),
        operations=2.0 * (model.n_items + len(history)) * model.decoder.table.shape[1],
        memory=8.0 * (model.n_items + 2 * len(history)),
        least=1,
        unit="items of the history",
    )
    left_out = choose(np.arange(len(history)), sample.used, generator)
    score, without, nothing = _leave_out(model, history, items, left_out, budget)
    if nearby is None:
        part = budget.share(0.3)
        nearby = survey(model, user_items, history, user=user, generator=generator, budget=part)
    noise = draw_noise(model, n_draws, generator)
    near, n_holders = _holders(
        model, user_items, nearby, items, noise, holders, k, budget.share(0.4)
    )
    ids = user_items.item_ids.ids.alias("item_id").to_frame()
    return Attribution(
        sample=sample,
        items=items.astype(np.int64),
        history=history[left_out],
        score=score,
        lift=score - nothing,
        contributions=score[:, None] - without.T,
        neighbours=near,
        n_holders=n_holders,
        catalogue=ids if catalogue is None else catalogue,
        k=k,
    )


@torch.no_grad()
def item_scores(model: VAE, batch: UserBatch, history: np.ndarray, items: np.ndarray) -> Tensor:
    """Log-probability of ``items`` among all that are not in ``history``, ``[B, m]`` in float64.

    The histories of the batch may be parts of ``history``; the items in question stay the same,
    so that the scores compare.
    """
    logits: Tensor = model(batch.to(model.decoder.table.device)).double().cpu()
    logits[:, history] = -torch.inf
    return logits[:, items] - torch.logsumexp(logits, 1, keepdim=True)


def without_each(history: np.ndarray, left_out: np.ndarray, n_items: int) -> UserBatch:
    """One row per place in ``left_out``: the history ``[n]`` without the item there."""
    n, rows = len(history), len(left_out)
    kept = np.ones((rows, n), dtype=bool)
    kept[np.arange(rows), left_out] = False
    indices = np.broadcast_to(history, (rows, n))[kept]
    scale = torch.full((rows,), max(n - 1, 1) ** -0.5)
    indptr = torch.arange(rows + 1) * (n - 1)
    return UserBatch(indptr, torch.from_numpy(indices), scale, n_items)


def _leave_out(
    model: VAE, history: np.ndarray, items: np.ndarray, left_out: np.ndarray, budget: Budget
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of the whole history ``[m]``, without each item ``[n, m]``, and of none ``[m]``."""
    size = int(budget.memory // (16 * (model.n_items + len(history))))
    size = max(1, min(USERS_AT_ONCE, size))
    parts = [
        item_scores(
            model,
            without_each(history, left_out[start : start + size], model.n_items),
            history,
            items,
        )
        for start in range(0, len(left_out), size)
    ]
    ends = [
        item_scores(model, batch_of(of, model.n_items), history, items)[0].numpy()
        for of in (history, history[:0])
    ]
    return ends[0], torch.cat(parts).numpy(), ends[1]


def _holders(
    model: VAE,
    user_items: Interactions,
    nearby: Nearby,
    items: np.ndarray,
    noise: Tensor,
    most: int,
    k: int,
    budget: Budget,
) -> tuple[pl.DataFrame, np.ndarray]:
    """For each item the k nearby users who have it of the largest influence, and how many."""
    has = _having(user_items, nearby.users, items)
    by_distance = np.argsort(nearby.distance, kind="stable")
    size = affordable(model, len(items) * most, len(noise), budget)
    most = max(1, size // len(items))
    of_item = [by_distance[has[by_distance, place]][:most] for place in range(len(items))]
    n_holders = np.array([len(of) for of in of_item])
    chosen = np.unique(np.concatenate(of_item))
    if len(chosen) == 0:
        empty = pl.DataFrame(schema=NEIGHBOUR_SCHEMA)
        return empty.with_columns(user_items.user_ids.ids.head(0).alias("user_id")), n_holders
    own = [nearby.own] * len(items)
    gradients = DecoderGradients(
        model,  # the first m rows: histories of one item each, at the user's codes
        stacked(list(items[:, None]), user_items.rows(nearby.users[chosen]), model.n_items),
        draws(model, [*own, nearby.posterior_of(chosen)], noise),
    )
    place = np.repeat(np.arange(len(items)), n_holders)
    at = np.searchsorted(chosen, np.concatenate(of_item))
    products = kernel(gradients, np.stack([place, len(items) + at], axis=1))
    own_step = kernel(gradients, np.arange(len(items)).repeat(2).reshape(-1, 2))
    reference = own_step[torch.from_numpy(place)]
    ids = user_items.user_ids.to_ids(nearby.users[chosen[at]])
    frame = pl.DataFrame(
        {
            "place": place,
            "influence": (products.mean((1, 2)) / reference.mean((1, 2))).numpy(),
            "influence_error": jackknife(products, reference),
            "user_id": ids,
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
        has[start + batch.rows().numpy()[at >= 0], at[at >= 0]] = True
    return has


def _history(
    recommender: Recommender, given: Any, community: Interactions
) -> tuple[int | None, np.ndarray, pl.DataFrame]:
    """The user's row in the community, if it has one; its items; unknown item ids."""
    if isinstance(given, str | int | np.integer | UUID):
        _, user = find_user(given, community)
        row = community.row(user)
        return user, checked_history(row, recommender.n_items), pl.DataFrame(schema=UNKNOWN_SCHEMA)
    users = fold_in(given, recommender.item_ids)
    if users.n_users != 1:
        raise DataError(f"Expected the history of one user, got those of {users.n_users}.")
    row = users.batch(0, 1).row(0)
    return None, checked_history(row, recommender.n_items), users.unknown


def find_user(user: Any, *communities: Interactions) -> tuple[int, int]:
    """Which of the communities has a user id, and in which row.

    Raises
    ------
    DataError
        None has it; the message names near ids.
    """
    for which, community in enumerate(communities):
        index = int(community.user_ids.to_index([user])[0])
        if index >= 0:
            return which, index
    texts = [community.user_ids.ids.cast(pl.String) for community in communities]
    first = str(user)[:1]
    like = [ids.filter(ids.str.starts_with(first)).head(HINTED_FROM).to_list() for ids in texts]
    near = get_close_matches(str(user), [text for part in like for text in part], n=3)
    some = [str(ids[0]) for ids in texts if len(ids)]
    hint = f"near it are {', '.join(near)}" if near else f"ids look like {', '.join(some[:1])}"
    raise DataError(f"There is no user {user} among the {sum(map(len, texts)):,} known; {hint}.")


def _items(
    recommender: Recommender, history: np.ndarray, items: Iterable[Any] | None, k: int
) -> tuple[np.ndarray, pl.DataFrame]:
    """Model indices of the items to explain, and the unknown ones."""
    if items is None:
        best = recommender.recommend([recommender.item_ids.to_ids(history).to_list()], k=k)
        index = best.item_index[0]
        if not (index >= 0).any():
            raise DataError("The history holds every item, so there is nothing to recommend.")
        return index[index >= 0], best.unknown
    found, unknown = known_items(items, recommender.item_ids, named="items")
    assert found is not None
    if len(found) == 0:
        names = ", ".join(unknown["item_id"]) or "none given"
        raise DataError(f"The model knows none of the items to explain: {names}.")
    seen = np.intersect1d(found, history)
    if len(seen):
        names = ", ".join(item_names(recommender.catalogue[seen]))
        raise DataError(
            f"These items are in the history already, so that they are not recommended: {names}. "
            "Leave them out of one of the two."
        )
    return found, unknown


def _change(contribution: float) -> str:
    """What leaving the item out does to the probability, in words."""
    change = np.expm1(-contribution)
    return f"its probability is {abs(change):.0%} {'lower' if change <= 0 else 'higher'}"
