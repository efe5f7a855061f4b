"""What people look for: titles by their words, and the map of the community with a place on it.

The index and the map of a model are made when they are first asked for, so that no start waits for
them, and again for each new version.
"""

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from coterie.errors import CoterieError, DataError
from coterie.serving.fleet import DEFAULT, Fleet
from coterie.serving.lanes import Lane
from coterie.serving.search import TitleSearch
from coterie.serving.served import ExternalItem, ServedModel

if TYPE_CHECKING:
    from coterie.serving.landscape import Landscape

MOST_PLACED = 50  # items of a history that get a place of their own
NO_COMMUNITY = (
    "This server knows no community, so it neither explains nor draws a map: start it with "
    "--community DATA."
)
T = TypeVar("T")


class NotFound(Exception):
    """There is nothing of that name."""


class Exploring:
    """Answers from the default model; each kind has its lane.

    Parameters
    ----------
    fleet
        The models.
    limits
        Of the lanes.
    """

    def __init__(self, fleet: Fleet, limits: dict[str, Any]) -> None:
        self._fleet = fleet
        self._searches: WeakKeyDictionary[ServedModel, TitleSearch] = WeakKeyDictionary()
        self._maps: WeakKeyDictionary[ServedModel, Landscape] = WeakKeyDictionary()
        batch: dict[str, Any] = {"batch_size": limits["queue_size"], **limits}
        self._search: Lane[tuple[str, int], dict[str, Any]] = Lane(
            "search", partial(_each, self._found), **batch
        )
        self._map: Lane[Sequence[ExternalItem] | None, dict[str, Any]] = Lane(
            "map", partial(_each, self._mapped), **batch
        )
        self.lanes: tuple[Lane[Any, Any], ...] = (self._search, self._map)

    def about(self) -> dict[str, Any]:
        """What this server is, and what it can tell."""
        model = self._fleet[DEFAULT]
        return {
            "coterie": version("coterie"),
            **_named(model),
            "items": len(model.ids),
            "community": None if model.community is None else model.community.n_users,
            "latent": model.is_vae,
        }

    async def find(self, query: str, limit: int) -> dict[str, Any]:
        """Items by the words of their titles, or by id."""
        return await self._search.ask((query, limit))

    async def map(self) -> dict[str, Any]:
        """The community's map.

        Raises
        ------
        NotFound
            The server has no community.
        NotFittedError
            The model has no latent space.
        """
        return await self._map.ask(None)

    async def place(self, history: Sequence[ExternalItem]) -> dict[str, Any]:
        """Where someone with this history stands on the map; errors as for :meth:`map`.

        Raises
        ------
        DataError
            The model knows no item of the history.
        """
        return await self._map.ask(history)

    def _found(self, asked: tuple[str, int]) -> dict[str, Any]:
        query, limit = asked
        model = self._fleet[DEFAULT]
        search = self._searches.get(model)
        counts = model.item_counts
        if search is None:
            search = self._searches[model] = TitleSearch(model.ids, model.titles, counts)
        exact, _ = model.find([query.strip()])
        index = list(dict.fromkeys([*exact.tolist(), *search.find(query, limit).tolist()]))[:limit]
        items = [{**_item(model, place), "users": int(counts[place])} for place in index]
        return {"items": items, **_named(model)}

    def _mapped(self, history: Sequence[ExternalItem] | None) -> dict[str, Any]:
        model = self._fleet[DEFAULT]
        if model.community is None:
            raise NotFound(NO_COMMUNITY)
        landscape = self._maps.get(model)
        if landscape is None:
            from coterie.serving.landscape import Landscape  # imports PyTorch

            recommender = model.require_recommender()
            landscape = self._maps[model] = Landscape.of(
                recommender.vae, model.community, model.item_counts
            )
        if history is None:
            return _whole(model, landscape)
        known, unknown = model.find(history)
        if not len(known):
            raise DataError("The model knows no item of the history, so it has no place.")
        shown = known[:MOST_PLACED]
        (here, *at) = landscape.place([known, *shown[:, None]])
        return {
            **_point(here),
            "items": _placed(model, shown, np.array(at)),
            "unknown": unknown,
            **_named(model),
        }


def _each(answer: Any, asked: Sequence[T]) -> list[dict[str, Any] | Exception]:
    found: list[dict[str, Any] | Exception] = []
    for one in asked:
        try:
            found.append(answer(one))
        except (CoterieError, NotFound) as error:
            found.append(error)
    return found


def _whole(model: ServedModel, landscape: "Landscape") -> dict[str, Any]:
    at = landscape.place(list(landscape.landmarks[:, None]))
    return {
        "users": landscape.users.round(3).tolist(),
        "available": landscape.available,
        "variance": landscape.variance,
        "landmarks": _placed(model, landscape.landmarks, at),
        **_named(model),
    }


def _placed(model: ServedModel, index: np.ndarray, at: np.ndarray) -> list[dict[str, Any]]:
    return [
        {**_item(model, place), **_point(point)}
        for place, point in zip(index.tolist(), at, strict=True)
    ]


def _point(at: np.ndarray) -> dict[str, float]:
    return {"x": round(float(at[0]), 3), "y": round(float(at[1]), 3)}


def _item(model: ServedModel, place: int) -> dict[str, Any]:
    return {"item": model.ids[place], "title": model.titles[place]}


def _named(model: ServedModel) -> dict[str, str]:
    return {"model": model.name, "version": model.version}
