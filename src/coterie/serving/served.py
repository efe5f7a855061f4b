"""A model as the server holds it: plain lookups beside the recommender, so that requests are cheap.

Ids go through a dictionary of the ids as JSON spells them; only what is not found there takes the
slow way through the id map, which knows every spelling.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coterie.artifact import version_of
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import ArtifactError
from coterie.histories import over
from coterie.recommender import Recommender
from coterie.serving.settings import ItemFilter
from coterie.serving.shortlist import Shortlist

ExternalItem = int | str
SPARSE = 8  # numbers per item in the range of ids, up to which a table is kept


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One version of a model, and what is looked up in it.

    Parameters
    ----------
    name
        The arm's name.
    version
        The beginning of the SHA-256 of its manifest, which names the hash of every file.
    recommender
        The model.
    barred
        By filter: the items that it excludes, bool ``[I]``.
    community
        The known users over this model's items, for explanations.
    shortlist
        How its lists are found faster; None where that does not pay.
    """

    name: str
    version: str
    recommender: Recommender
    index: "ItemIndex"
    ids: list[ExternalItem]
    titles: list[str | None]
    barred: Mapping[str, np.ndarray]
    community: Interactions | None
    shortlist: Shortlist | None

    @classmethod
    def of(
        cls,
        recommender: Recommender,
        *,
        name: str,
        version: str,
        filters: Mapping[str, ItemFilter],
        community: Interactions | None,
        threads: int | None = None,
    ) -> "ServedModel":
        """A recommender with its lookups; ``threads`` are the shortlist's, None: PyTorch's."""
        item_ids, catalogue = recommender.item_ids, recommender.catalogue
        ids = item_ids.ids.to_list()
        titled = "title" in catalogue.columns
        return cls(
            name,
            version,
            recommender,
            ItemIndex(ids),
            ids,
            catalogue["title"].to_list() if titled else [None] * len(ids),
            {filter_: _barred(rules, item_ids) for filter_, rules in filters.items()},
            None if community is None else over(community, item_ids),
            Shortlist.of(recommender.model, threads),
        )

    def find(self, ids: Iterable[ExternalItem]) -> tuple[np.ndarray, list[ExternalItem]]:
        """Indices of the known items, distinct, int64; and the distinct unknown ids."""
        asked = list(ids)
        places = self.index.places(asked)
        if None not in places:
            return np.array(list(dict.fromkeys(places)), dtype=np.int64), []
        unusual = list(
            dict.fromkeys(item for item, place in zip(asked, places, strict=True) if place is None)
        )
        slow = self.recommender.item_ids.to_index([str(item) for item in unusual]).tolist()
        unknown = [item for item, place in zip(unusual, slow, strict=True) if place < 0]
        known = [place for place in (*places, *slow) if place is not None and place >= 0]
        found = dict.fromkeys(known)
        return np.fromiter(found, dtype=np.int64, count=len(found)), unknown


def load(
    folder: Path,
    *,
    name: str,
    filters: Mapping[str, ItemFilter],
    community: Interactions | None,
    threads: int | None = None,
) -> ServedModel:
    """Read the model's folder as it is now.

    Raises
    ------
    ArtifactError
        It is damaged, was replaced meanwhile, or one of its files lies outside it.
    """
    _refuse_foreign_files(folder)
    version = version_of(folder)
    recommender = Recommender.load(folder)
    if version is None or version_of(folder) != version:
        raise ArtifactError(f"{folder} was replaced while it was read; try again.")
    return ServedModel.of(
        recommender,
        name=name,
        version=version,
        filters=filters,
        community=community,
        threads=threads,
    )


def _refuse_foreign_files(folder: Path) -> None:
    """Links that lead out of the folder would let a model from elsewhere name any file here."""
    inside = folder.resolve()
    for file in folder.iterdir() if folder.is_dir() else ():
        if not file.resolve().is_relative_to(inside):
            raise ArtifactError(f"{file} leads out of the model's folder; it is not read.")


class ItemIndex:
    """From ids as JSON spells them to indices.

    Parameters
    ----------
    ids
        Of the items, in their order.
    """

    def __init__(self, ids: list[Any]) -> None:
        self._by_id: dict[ExternalItem, int] = {id_: place for place, id_ in enumerate(ids)}
        for place, id_ in enumerate(ids):
            if isinstance(id_, int):
                self._by_id[str(id_)] = place
            elif id_.isascii() and id_.isdigit() and str(int(id_)) == id_:
                self._by_id[int(id_)] = place
        whole = {id_: place for id_, place in self._by_id.items() if isinstance(id_, int)}
        self._least, most = min(whole, default=0), max(whole, default=-1)
        span = most - self._least + 1
        fits = span <= SPARSE * len(ids) and self._least >= -(1 << 63) and most < 1 << 63
        self._table = np.full(span if fits else 0, -1)
        if fits:
            numbers = np.fromiter(whole, np.int64, len(whole))
            self._table[numbers - self._least] = list(whole.values())

    def places(self, ids: list[ExternalItem]) -> list[int | None]:
        """Index of each id, None where it is not among these spellings.

        Whole numbers are looked up in a table, at once, if all of them are in it: by a dictionary
        a history takes four times as long (measured).
        """
        if len(self._table) and ids:
            try:
                numbers = np.frombuffer(array("q", ids), np.int64)  # type: ignore[type-var]
            except (TypeError, OverflowError):
                return list(map(self._by_id.get, ids))
            offsets = numbers - self._least
            if offsets.min() >= 0 and offsets.max() < len(self._table):
                places: list[int | None] = self._table[offsets].tolist()
                if -1 not in places:
                    return places
        return list(map(self._by_id.get, ids))


def _barred(rules: ItemFilter, item_ids: IdMap) -> np.ndarray:
    """Which items a filter excludes, bool ``[I]``."""
    barred = np.full(len(item_ids), rules.allow is not None)
    for ids, value in ((rules.allow or (), False), (rules.deny, True)):
        index = item_ids.to_index([str(item) for item in ids])
        barred[index[index >= 0]] = value
    return barred
