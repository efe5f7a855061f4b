"""What a user holds: a trained model with its catalogue; users never seen are folded in."""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from coterie.artifact import Artifact, read_artifact, write_artifact
from coterie.data.batches import user_batch
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.devices import pick_device
from coterie.errors import DataError, NotFittedError
from coterie.files import refuse_existing
from coterie.histories import Histories, OnUnknown, fold_in, known_items, over, refuse_unknown
from coterie.memory import rows_at_once
from coterie.models.baselines import METHODS, Progress
from coterie.models.model import BaselineConfig, Model
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE
from coterie.recommendations import (
    EncodedUsers,
    Export,
    Recommendations,
    SimilarItems,
    with_titles,
    write_parquet,
)
from coterie.request import Request
from coterie.similarity import Source, compared, nearest, strongest


class Recommender:
    """A trained model, the catalogue it knows, and how popular each item was in training.

    Parameters
    ----------
    model
        A VAE or a baseline; it is used where it is (device) and as it is (no copy).
    item_ids
        External ids of the I items, in the model's order.
    item_counts
        Training users per item, int64 ``[I]``; what users without a known history are given.
    items
        Optional table about the items: column ``item_id`` and, for example, ``title``.
    anchors
        Optional item anchors of Personalized Item Alignment, float32 ``[I, K]``, for
        similar-item queries.
    metadata
        Facts about training (settings, figures, seeds); only what JSON can hold.

    Raises
    ------
    DataError
        The sizes do not fit together, or ``items`` has no column ``item_id``.
    """

    def __init__(
        self,
        model: Model,
        item_ids: IdMap,
        item_counts: np.ndarray,
        *,
        items: pl.DataFrame | None = None,
        anchors: Tensor | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.model = model.eval()
        self.item_ids = item_ids
        self.item_counts = np.array(item_counts, dtype=np.int64)
        self.items = items
        self.anchors = anchors
        self.metadata = metadata or {}
        sizes = {"item ids": len(item_ids), "item counts": len(self.item_counts)}
        if anchors is not None:
            sizes["anchors"] = len(anchors)
        for what, size in sizes.items():
            if size != model.n_items:
                raise DataError(
                    f"The model has {model.n_items} items, but there are {size} {what}."
                )
        if items is not None and "item_id" not in items.columns:
            raise DataError(f"The item table needs a column 'item_id'; it has {items.columns}.")

    def __repr__(self) -> str:
        return f"Recommender({self.model.config.name}, {self.n_items} items, {self.device})"

    @property
    def n_items(self) -> int:
        """I, the size of the catalogue."""
        return self.model.n_items

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    @property
    def vae(self) -> VAE:
        """The model, for what only a VAE can do.

        Raises
        ------
        NotFittedError
            It is a baseline.
        """
        if not isinstance(self.model, VAE):
            raise NotFittedError(
                f"{self.model.config.name} is no autoencoder: there are no latent vectors, and "
                "nothing about them can be measured. Load a VAE for that."
            )
        return self.model

    @classmethod
    def fit(
        cls,
        config: BaselineConfig,
        data: Interactions,
        *,
        progress: Progress = lambda done, total: None,
    ) -> "Recommender":
        """Fit a baseline to training users; :func:`coterie.train` is for VAEs.

        Parameters
        ----------
        config
            Which baseline, and its settings; see :data:`coterie.models.baselines.METHODS`.
        data
            The training users.
        progress
            Called with what is done and with all there is to do.

        Raises
        ------
        DataError
            There are no interactions.
        ConfigError
            The settings do not suit the data, or its size the memory; the message says what does.
        MissingExtraError
            The baseline needs a library that is not installed.
        """
        facts = {"name": config.name, **config.model_dump(mode="json")}
        return cls(
            METHODS[config.name].fit(data, config, progress),
            data.item_ids,
            data.item_counts(),
            items=data.items,
            metadata={"data": data.name, "experiment": {"model": facts}},
        )

    @cached_property
    def catalogue(self) -> pl.DataFrame:
        """The I items in the model's order: ``item_id`` and, where known, ``title``."""
        return with_titles(self.item_ids, self.items)

    @torch.no_grad()  # not inference_mode: the caller may overwrite the scores
    def score(self, fold_in: Interactions) -> Tensor:
        """Scores of all items for each row of ``fold_in``: float32 ``[B, I]``, higher is better.

        A VAE's are logits of the posterior mean, so that they are deterministic. Items that the
        model does not know are left out of the histories. The result is a new tensor on the
        model's device, which the caller may overwrite.
        """
        known = over(fold_in, self.item_ids)
        batch = user_batch(known, np.arange(known.n_users)).to(self.device)
        scores: Tensor = self.model(batch)
        return scores

    def recommend(
        self,
        histories: Histories,
        *,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[Any] | None = None,
        deny: Iterable[Any] | None = None,
        on_unknown: OnUnknown = "report",
        batch_size: int | None = None,
    ) -> Recommendations:
        """The k best items of each user, folded in from their history without training.

        Parameters
        ----------
        histories
            One user's item ids (``[]``: one user without a history); or one such list per
            user; or a mapping from user id to item ids (``{}``: no users); or
            :class:`Interactions` over any items. A user without an item that the model knows
            gets the most popular items and is flagged.
        k
            How many items, at most all; lists are shorter where fewer are eligible.
        exclude_seen
            Whether to leave out the items of the user's own history.
        allow, deny
            Item ids that alone may be, or must not be, recommended to any of the users.
        on_unknown
            What item ids that the model does not know are: ``"report"`` lists them in the
            result, ``"raise"`` makes them an error.
        batch_size
            Users scored at once; by default as many as fit in 64 MiB of scores.

        Raises
        ------
        DataError
            A history is not what it should be, or, if asked, holds unknown item ids.
        ConfigError
            ``k`` or ``batch_size`` is below 1.
        """
        request = Request.read(
            histories,
            self.item_ids,
            k=k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            on_unknown=on_unknown,
            batch_size=batch_size,
        )
        parts = list(request.answer(self.score, self.item_counts, self.catalogue))
        return Recommendations(
            request.fold_in.data.user_ids.ids,
            np.concatenate([part.item_index for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.fallback for part in parts]),
            request.unknown,
            self.catalogue,
        )

    def recommend_to_parquet(
        self,
        histories: Histories,
        path: Path | str,
        *,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[Any] | None = None,
        deny: Iterable[Any] | None = None,
        on_unknown: OnUnknown = "report",
        batch_size: int | None = None,
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Export:
        """Write the recommendations of any number of users to a Parquet file.

        One row per recommended item, as in :meth:`Recommendations.to_frame`; one row group per
        batch. Beyond the histories themselves (which may be memory-mapped) and their user ids,
        the memory that it needs does not grow with the users. The file appears whole or not at
        all.

        Parameters
        ----------
        histories, k, exclude_seen, allow, deny, on_unknown, batch_size
            As in :meth:`recommend`.
        path
            The file to write.
        overwrite
            Whether to replace a file that exists already.
        progress
            Called after each batch with the users done and all users.

        Raises
        ------
        StorageError
            The file exists already, or cannot be written.
        """
        path = Path(path)
        refuse_existing(path, overwrite=overwrite)
        request = Request.read(
            histories,
            self.item_ids,
            k=k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            on_unknown=on_unknown,
            batch_size=batch_size,
        )
        parts = request.answer(self.score, self.item_counts, self.catalogue)
        return write_parquet(parts, path, request.fold_in.n_users, progress)

    def similar_items(
        self,
        item_ids: Iterable[Any],
        *,
        k: int = 10,
        source: Source = "auto",
        on_unknown: OnUnknown = "report",
    ) -> SimilarItems:
        """The k items most similar to each given one; never the item itself.

        Parameters
        ----------
        item_ids
            External ids, in a list.
        k
            How many similar items per item, at most as many as there are items.
        source
            What is compared. By cosine: the ``"anchors"`` of Personalized Item Alignment, which
            lie where the users of an item lie; the ``"decoder"``'s item table, whose rows are alike
            where items are predicted for the same users; a factorisation's ``"factors"``. Or
            the ``"weights"`` that a baseline gives from the item to others. ``"auto"``: anchors
            if they are kept, else what the model has.
        on_unknown
            As in :meth:`recommend`; unknown ids have no row in the result.

        Raises
        ------
        ConfigError
            ``source`` is none of these, or ``k`` is below 1.
        NotFittedError
            The model does not have what ``source`` asks for, or nothing that could be compared.
        """
        source = compared(self.model, source, keeps_anchors=self.anchors is not None)
        index, unknown = known_items(item_ids, self.item_ids, named="item_ids")
        assert index is not None
        refuse_unknown(unknown, on_unknown)
        if source == "weights":
            best = strongest(self.model, index, k)
        else:
            table = self.anchors if source == "anchors" else self.model.item_table()
            assert table is not None
            best = nearest(table.detach(), index, k)
        return SimilarItems(
            self.item_ids.to_ids(index),
            best.indices.cpu().numpy(),
            best.scores.cpu().numpy(),
            source,
            unknown,
            self.catalogue,
        )

    @torch.no_grad()
    def encode(
        self,
        histories: Histories,
        *,
        on_unknown: OnUnknown = "report",
        batch_size: int | None = None,
    ) -> EncodedUsers:
        """The posterior over the latent vector of each user; parameters as in :meth:`recommend`.

        Raises
        ------
        NotFittedError
            The model is a baseline: it has none.
        """
        users = fold_in(histories, self.item_ids)
        refuse_unknown(users.unknown, on_unknown)
        size = rows_at_once(1, batch_size)
        means, logvars, empty = [], [], []
        for start in range(0, max(users.n_users, 1), size):
            batch = users.batch(start, start + size)
            every = user_batch(batch, np.arange(batch.n_users)).to(self.device)
            posterior = self.model.encode(every)
            means.append(posterior.mu.cpu())
            if posterior.logvar is not None:
                logvars.append(posterior.logvar.cpu())
            empty.append(batch.history_lengths == 0)
        return EncodedUsers(
            users.data.user_ids.ids,
            Posterior(torch.cat(means), torch.cat(logvars) if logvars else None),
            np.concatenate(empty),
            users.unknown,
        )

    def info(self) -> dict[str, Any]:
        """A summary that JSON can hold: architecture, sizes, what is kept, facts of training."""
        return {
            "model": self.model.facts(),
            "n_items": self.n_items,
            "n_parameters": self.model.n_parameters,
            "item_id_type": "integer" if self.item_ids.is_integer else "string",
            "keeps_anchors": self.anchors is not None,
            "keeps_titles": "title" in self.catalogue.columns,
            "device": str(self.device),
            "metadata": self.metadata,
        }

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a model folder: safetensors, Parquet and a JSON manifest with hashes.

        Raises
        ------
        StorageError
            ``path`` exists and ``overwrite`` is false, or it cannot be written.
        """
        artifact = Artifact(
            self.model, self.item_ids, self.item_counts, self.items, self.anchors, self.metadata
        )
        write_artifact(artifact, Path(path), overwrite=overwrite)
        return Path(path)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        verify: bool = True,
    ) -> "Recommender":
        """Read a model folder; no training data is needed.

        Parameters
        ----------
        path
            What :meth:`save` wrote.
        device
            Where the weights go; ``"auto"`` takes an accelerator if there is one.
        verify
            Whether to compare the files' hashes with the manifest's; formats, versions, names,
            shapes and types are checked in any case.

        Raises
        ------
        ArtifactError
            The folder is damaged, edited or of another version; the message names the part.
        """
        target = pick_device(device)
        read = read_artifact(Path(path), device=target, verify=verify)
        return cls(
            read.model,
            read.item_ids,
            read.item_counts,
            items=read.items,
            anchors=read.anchors,
            metadata=read.metadata,
        )
