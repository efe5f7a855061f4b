"""One user explained: who helps it, and what its recommended items rest on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

import numpy as np
import polars as pl
import torch

from coterie.data.ids import ExternalId
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError, NotFittedError
from coterie.histories import UNKNOWN_SCHEMA, fold_in, known_items, over
from coterie.mechanisms.attribution import Attribution, attribution
from coterie.mechanisms.measurement import Budget, Measurement, SampleSize
from coterie.mechanisms.nearby import checked_history, survey
from coterie.mechanisms.neighbourhood import Neighbourhood, neighbourhood
from coterie.mechanisms.style import new_figure
from coterie.mechanisms.titles import item_names
from coterie.recommender import Recommender

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HINTED_FROM = 20_000  # user ids compared with an unknown one


@dataclass(frozen=True, eq=False)
class Explanation(Measurement):
    """Who helps a user, and what the scores of some items rest on.

    Parameters
    ----------
    sample
        Users of the community that were searched.
    neighbourhood, attribution
        The two parts; a baseline, without latent vectors, has no neighbourhood.
    skipped
        Why there is no neighbourhood; empty if there is one.
    unknown
        Item ids that the model does not know, as in :class:`coterie.histories.FoldIn`.
    """

    name: ClassVar[str] = "explanation"
    title: ClassVar[str] = "A user explained"
    meaning: ClassVar[str] = f"{Neighbourhood.meaning} {Attribution.meaning}"
    method: ClassVar[str] = f"{Neighbourhood.method} {Attribution.method}"

    sample: SampleSize
    neighbourhood: Neighbourhood | None
    attribution: Attribution
    unknown: pl.DataFrame
    n_history: int
    skipped: str = ""

    @property
    def parts(self) -> "list[Neighbourhood | Attribution]":
        """The neighbourhood, if there is one, and the attribution."""
        return [part for part in (self.neighbourhood, self.attribution) if part is not None]

    def figures(self) -> dict[str, float]:
        """Those of the two parts; no name stands in both."""
        return {name: value for part in self.parts for name, value in part.figures().items()}

    def sentence(self) -> str:
        """Both parts' sentences."""
        return " ".join([part.sentence() for part in self.parts])

    def warnings(self) -> list[str]:
        """Both parts' warnings, and item ids that the model does not know."""
        found = [text for part in self.parts for text in part.warnings()]
        if self.skipped:
            found.append(f"Who helps this user is not known: {self.skipped}")
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
            score=pl.Series(of.score), lift=pl.Series(of.lift)
        )
        if of.n_holders is not None:
            items = items.with_columns(holders=pl.Series(of.n_holders))
        return {
            **super().to_dict(),
            "neighbours": [] if near is None else near.to_frame().head(near.k).to_dicts(),
            "carriers": [] if near is None else near.carriers.to_dicts(),
            "items": items.to_dicts(),
            "contributions": shown.to_dicts(),
            "item_neighbours": of.neighbours_frame().to_dicts(),
            "unknown": self.unknown.to_dicts(),
        }

    def plot(self) -> "Figure":
        """The first item's contributions beside the most helpful users."""
        figure, axes = new_figure(len(self.parts))
        self.attribution.draw(axes[0])
        if self.neighbourhood is not None:
            self.neighbourhood.draw(axes[1])
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
        A trained model with its catalogue; of a baseline, only the history's items account for
        a score.
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
    budget = budget or Budget()
    near = over(community, recommender.item_ids)
    user, history, unknown = _history(recommender, history_or_user, near)
    index, lost = _items(recommender, history, items, k)
    share, unknown = budget.share(0.3), pl.concat([unknown, lost])
    about: dict[str, Any] = {"generator": generator, "catalogue": recommender.catalogue, "k": k}
    try:
        vae = recommender.vae
    except NotFittedError as error:
        attributed = attribution(recommender.model, near, history, index, budget=share, **about)
        why = str(error)
        return Explanation(attributed.sample, None, attributed, unknown, len(history), why)
    about["nearby"] = survey(vae, near, history, user=user, generator=generator, budget=share)
    neighbours = neighbourhood(vae, near, history, budget=budget.share(0.4), **about)
    attributed = attribution(vae, near, history, index, budget=share, **about)
    return Explanation(neighbours.sample, neighbours, attributed, unknown, len(history))


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
