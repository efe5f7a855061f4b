"""A model into its folder, and back: safetensors, Parquet and a JSON manifest; never a pickle."""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from coterie.data.ids import IdMap
from coterie.errors import ArtifactError, ConfigError, DataError
from coterie.files import atomic_folder
from coterie.manifest import MANIFEST, write_manifest
from coterie.models.baselines import METHODS
from coterie.models.model import Model
from coterie.models.vae import VAE
from coterie.stored import (
    ANCHORS,
    COUNTS,
    FORMAT,
    FORMAT_VERSION,
    IDS,
    MODEL,
    TABLE,
    WEIGHTS,
    Spec,
    StoredModel,
    read_stored,
)

SAFETENSORS_NAME = {torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a saved model consists of; the letters are those of :class:`coterie.Recommender`."""

    model: Model
    item_ids: IdMap
    item_counts: np.ndarray
    items: pl.DataFrame | None
    anchors: Tensor | None
    metadata: dict[str, Any]


def write_artifact(artifact: Artifact, path: Path, *, overwrite: bool) -> None:
    """Write the folder ``path``, whole or not at all.

    Raises
    ------
    StorageError
        ``path`` exists and ``overwrite`` is false, or it cannot be written.
    ConfigError
        ``metadata`` holds what JSON cannot.
    """
    try:
        json.dumps(artifact.metadata)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metadata must hold only what JSON can hold: {error}.") from error
    tensors = _tensors(artifact)
    with atomic_folder(path, overwrite=overwrite) as folder:
        save_file(tensors, folder / WEIGHTS)
        artifact.item_ids.save(folder / IDS)
        if artifact.items is not None:
            artifact.items.write_parquet(folder / TABLE)
        facts = {
            "n_items": artifact.model.n_items,
            "model": artifact.model.facts(),
            "sizes": {name: getattr(artifact.model, name) for name in artifact.model.sized_by},
            "metadata": artifact.metadata,
            "tensors": {name: _spec(tensor) for name, tensor in tensors.items()},
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("coterie", "torch", "numpy", "safetensors")},
            },
        }
        write_manifest(folder, FORMAT, FORMAT_VERSION, facts)


def read_artifact(path: Path, *, device: torch.device, verify: bool) -> Artifact:
    """Read a folder that :func:`write_artifact` wrote, onto ``device``.

    Raises
    ------
    ArtifactError
        It is of another format or version, or a file or tensor is missing, unexpected,
        truncated, edited, or of another shape or type; the message names it.
    """
    stored = read_stored(path, verify=verify)
    model = _empty_model(stored)
    tensors = stored.read_tensors(_expected(model, stored.specs))
    weights = {name: _on(device, array) for name, array in tensors.model.items()}
    model.load_state_dict(weights, assign=True)
    try:
        model.check()
    except DataError as error:
        raise ArtifactError(f"{path / WEIGHTS} is damaged: {error}") from error
    return Artifact(
        model,
        stored.item_ids,
        tensors.item_counts,
        stored.items,
        None if tensors.anchors is None else _on(device, tensors.anchors),
        stored.metadata,
    )


def _on(device: torch.device, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(device)


def _tensors(artifact: Artifact) -> dict[str, Tensor]:
    tensors = {MODEL + name: tensor for name, tensor in artifact.model.state_dict().items()}
    tensors[COUNTS] = torch.from_numpy(artifact.item_counts)
    if artifact.anchors is not None:
        tensors[ANCHORS] = artifact.anchors
    return {name: tensor.detach().contiguous() for name, tensor in sorted(tensors.items())}


def _spec(tensor: Tensor) -> Spec:
    return {"dtype": SAFETENSORS_NAME[tensor.dtype], "shape": list(tensor.shape)}


def _empty_model(stored: StoredModel) -> Model:
    """The model without memory for its tensors: names, shapes and types only."""
    name, sizes = stored.facts.get("name"), stored.sizes
    method = METHODS.get(name) if isinstance(name, str) else None
    _check_sizes(stored.path / MANIFEST, sizes, () if method is None else method.model.sized_by)
    try:
        with torch.device("meta"):
            if method is None:
                return VAE(stored.vae_config(), stored.n_items)
            settings = {key: value for key, value in stored.facts.items() if key != "name"}
            return method.model(method.config.read(settings), stored.n_items, **sizes)
    except ConfigError as error:
        raise stored.invalid(str(error)) from error
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond what torch can count
        raise stored.invalid("sizes too large.") from error


def _check_sizes(file: Path, sizes: Any, expected: tuple[str, ...]) -> None:
    if (
        not isinstance(sizes, dict)
        or sorted(sizes) != sorted(expected)
        or not all(type(size) is int and size >= 0 for size in sizes.values())
    ):
        named = ", ".join(expected) or "nothing"
        raise ArtifactError(f"{file}: 'sizes' must be counts of {named}, got {sizes!r}.")


def _expected(model: Model, named: dict[str, Spec]) -> dict[str, Spec]:
    """Names, types and shapes that the weights file must have, from the manifest's facts alone."""
    shapes = {MODEL + name: _spec(tensor) for name, tensor in model.state_dict().items()}
    shapes[COUNTS] = {"dtype": "I64", "shape": [model.n_items]}
    if ANCHORS in named and isinstance(model, VAE):
        shapes[ANCHORS] = {"dtype": "F32", "shape": [model.n_items, model.config.latent_dim]}
    return dict(sorted(shapes.items()))
