"""A model as the server holds it: plain lookups beside the recommender, so that requests are cheap.

Ids go through a dictionary of the ids as JSON spells them; only what is not found there takes the
slow way through the id map, which knows every spelling.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.devices import may_have_accelerator, n_cores
from coterie.errors import ArtifactError, DataError
from coterie.histories import over
from coterie.models.config import ModelConfig
from coterie.recommendations import with_titles
from coterie.serving.graph import Weights
from coterie.serving.settings import ItemFilter
from coterie.serving.similar_items import SimilarItems
from coterie.serving.vae_lists import VaeLists, fits
from coterie.stored import WEIGHTS, StoredModel, read_stored, version_of

if TYPE_CHECKING:
    from coterie.recommender import Recommender

ExternalItem = int | str
SPARSE = 8  # numbers per item in the range of ids, up to which a table is kept


@dataclass(frozen=True, eq=False)
class Parts:
    """What a served model is made of.

    Parameters
    ----------
    item_ids, item_counts, items
        As of :class:`coterie.Recommender`.
    is_vae
        Whether it is a VAE.
    config, weights, anchors
        A VAE's on a CPU: its settings, its tensors, and its anchors if kept; else nothing.
    recommender
        The model as PyTorch holds it, where that was loaded.
    """

    item_ids: IdMap
    item_counts: np.ndarray
    items: pl.DataFrame | None
    is_vae: bool
    config: ModelConfig | None
    weights: Weights
    anchors: np.ndarray | None
    recommender: "Recommender | None"

    @classmethod
    def of(cls, recommender: "Recommender") -> "Parts":
        """Those of a recommender, whose memory they share."""
        model, anchors = recommender.model, recommender.anchors
        config = model.config if isinstance(model.config, ModelConfig) else None
        by_numpy = config is not None and model.device.type == "cpu"
        return cls(
            recommender.item_ids,
            recommender.item_counts,
            recommender.items,
            config is not None,
            config if by_numpy else None,
            {name: one.numpy() for name, one in model.state_dict().items()} if by_numpy else {},
            anchors.numpy() if by_numpy and anchors is not None else None,
            recommender,
        )

    @classmethod
    def of_stored(cls, stored: StoredModel) -> "Parts":
        """Those of a VAE, without PyTorch.

        Raises
        ------
        ArtifactError
            Settings or tensors are not what they should be.
        """
        config, tensors = stored.vae_config(), stored.read_tensors()
        anchors, shape = tensors.anchors, (stored.n_items, config.latent_dim)
        if anchors is not None and (anchors.dtype != np.float32 or anchors.shape != shape):
            raise ArtifactError(
                f"{stored.path / WEIGHTS}: the tensor 'anchors' should be float32 {list(shape)} by "
                f"the model's configuration, got {anchors.dtype} {list(anchors.shape)}."
            )
        return cls(
            stored.item_ids,
            tensors.item_counts,
            stored.items,
            True,
            config,
            tensors.model,
            anchors,
            None,
        )


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One version of a model, and what is looked up in it.

    Parameters
    ----------
    name
        The arm's name.
    version
        The beginning of the SHA-256 of its manifest, which names the hash of every file.
    item_ids, item_counts
        External ids of the items, and their training users, int64 ``[I]``.
    index, ids, titles
        The same ids, and the titles that are known, for quick lookups.
    barred
        By filter: the items that it excludes, bool ``[I]``.
    is_vae
        Whether it has a latent space.
    lists
        How it finds lists without PyTorch; None: not.
    similar
        How it finds similar items without PyTorch; None: not.
    recommender
        The model as PyTorch holds it; None where nobody needs that.
    community
        The known users over this model's items, for explanations.
    """

    name: str
    version: str
    item_ids: IdMap
    item_counts: np.ndarray
    index: "ItemIndex"
    ids: list[ExternalItem]
    titles: list[str | None]
    barred: Mapping[str, np.ndarray]
    is_vae: bool
    lists: VaeLists | None
    similar: SimilarItems | None
    recommender: "Recommender | None"
    community: Interactions | None

    @classmethod
    def of(
        cls,
        parts: Parts,
        *,
        name: str,
        version: str,
        filters: Mapping[str, ItemFilter],
        community: Interactions | None,
        threads: int | None = None,
    ) -> "ServedModel":
        """A model with its lookups.

        Parameters
        ----------
        parts
            The model.
        name, version
            Of the model.
        filters
            Item filters that requests may name.
        community
            Known users, for explanations.
        threads
            For a VAE's lists; None: as many as there are cores.

        Raises
        ------
        DataError
            Settings and tensors do not fit together.
        """
        item_ids = parts.item_ids
        ids = item_ids.ids.to_list()
        catalogue = with_titles(item_ids, parts.items)
        titled = "title" in catalogue.columns
        lists = similar = None
        if parts.config is not None:
            if fits(parts.weights):
                n_items, threads = len(item_ids), threads or n_cores()
                lists = VaeLists.of(parts.config, parts.weights, n_items, threads)
            if parts.anchors is None:
                similar = SimilarItems(parts.weights["decoder.table"], "decoder")
            else:
                similar = SimilarItems(parts.anchors, "anchors")
        return cls(
            name,
            version,
            item_ids,
            parts.item_counts,
            ItemIndex(ids),
            ids,
            catalogue["title"].to_list() if titled else [None] * len(ids),
            {filter_: _barred(rules, item_ids) for filter_, rules in filters.items()},
            parts.is_vae,
            lists,
            similar,
            parts.recommender,
            None if community is None else over(community, item_ids),
        )

    @cached_property
    def by_popularity(self) -> np.ndarray:
        """The items, the most popular first, int64 ``[I]``."""
        return np.argsort(-self.item_counts.astype(np.float32), kind="stable")  # as the library

    def require_recommender(self) -> "Recommender":
        """The model as PyTorch holds it, which :func:`load` keeps where it can be asked for."""
        assert self.recommender is not None
        return self.recommender

    def find(self, ids: Iterable[ExternalItem]) -> tuple[np.ndarray, list[ExternalItem]]:
        """Indices of the known items, distinct, int64; and the distinct unknown ids."""
        asked = list(ids)
        places = self.index.places(asked)
        if None not in places:
            return np.array(list(dict.fromkeys(places)), dtype=np.int64), []
        unusual = list(
            dict.fromkeys(item for item, place in zip(asked, places, strict=True) if place is None)
        )
        slow = self.item_ids.to_index([str(item) for item in unusual]).tolist()
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
    """Read the model's folder as it is now; parameters as of :meth:`ServedModel.of`.

    PyTorch, whose import takes seconds, is left out where it is not needed: for a VAE on Linux
    without an accelerator, in a server that need not explain because it knows no community.
    ``threads`` are PyTorch's too, where it is imported.

    Raises
    ------
    ArtifactError
        It is damaged, was replaced meanwhile, or one of its files lies outside it.
    """
    _refuse_foreign_files(folder)
    version = version_of(folder)
    stored, parts = read_stored(folder), None
    if stored.is_vae and community is None and not may_have_accelerator():
        parts = Parts.of_stored(stored)
        if not fits(parts.weights):
            parts = None
    if parts is None:
        import torch

        from coterie.recommender import Recommender

        if threads is not None:
            torch.set_num_threads(threads)
        parts = Parts.of(Recommender.load(folder, verify=False))  # it was, just now
    if version is None or version_of(folder) != version:
        raise ArtifactError(f"{folder} was replaced while it was read; try again.")
    try:
        return ServedModel.of(
            parts, name=name, version=version, filters=filters, community=community, threads=threads
        )
    except DataError as error:
        raise ArtifactError(f"{folder / WEIGHTS}: {error}") from error


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
