"""A saved model: a folder of safetensors, Parquet and a JSON manifest; nothing is ever unpickled.

The folder holds ``model.safetensors`` (a model's tensors, item counts and, if kept, anchors),
``items.parquet`` (external ids in the model's order), ``item_table.parquet`` (if there is a table
about the items) and ``manifest.json``.
"""

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coterie.data.ids import IdMap
from coterie.errors import ArtifactError, ConfigError, DataError
from coterie.files import atomic_folder
from coterie.manifest import MANIFEST, needs, read_manifest, write_manifest
from coterie.models.baselines import METHODS
from coterie.models.config import ModelConfig
from coterie.models.model import Model
from coterie.models.vae import VAE

FORMAT = "coterie-model"
FORMAT_VERSION = 2  # 2: "sizes", which baselines need
WEIGHTS, IDS, TABLE = "model.safetensors", "items.parquet", "item_table.parquet"
MODEL, COUNTS, ANCHORS = "model.", "item_counts", "anchors"
SAFETENSORS_NAME = {torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}
VERSION_LENGTH = 12  # of a model's hash, in hexadecimal digits
NEEDED = ("n_items", "model", "sizes", "tensors", "metadata", "versions")


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a saved model consists of; the letters are those of :class:`coterie.Recommender`."""

    model: Model
    item_ids: IdMap
    item_counts: np.ndarray
    items: pl.DataFrame | None
    anchors: Tensor | None
    metadata: dict[str, Any]


def version_of(folder: Path) -> str | None:
    """The beginning of the SHA-256 of the manifest, which names the hash of every file.

    None if there is no manifest to read.
    """
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except OSError:
        return None
    return hashlib.sha256(manifest).hexdigest()[:VERSION_LENGTH]


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
    manifest = _manifest(path, verify=verify)
    n_items = manifest["n_items"]
    model = _empty_model(path, manifest["model"], n_items, manifest["sizes"])
    item_ids = _item_ids(path, n_items)
    table = path / TABLE
    items = _parquet(table) if TABLE in manifest["files"] else None
    if items is not None and "item_id" not in items.columns:
        raise ArtifactError(f"{table} needs a column 'item_id'; it has {items.columns}.")
    tensors = _read_tensors(path / WEIGHTS, _expected(model, manifest["tensors"]), device)
    if manifest["tensors"] != {name: _spec(tensor) for name, tensor in tensors.items()}:
        raise ArtifactError(f"{path / MANIFEST}: 'tensors' does not describe {WEIGHTS}.")
    counts = tensors.pop(COUNTS).cpu().numpy()
    anchors = tensors.pop(ANCHORS, None)
    weights = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items()}
    model.load_state_dict(weights, assign=True)
    try:
        model.check()
    except DataError as error:
        raise ArtifactError(f"{path / WEIGHTS} is damaged: {error}") from error
    return Artifact(model, item_ids, counts, items, anchors, manifest["metadata"])


def _tensors(artifact: Artifact) -> dict[str, Tensor]:
    tensors = {MODEL + name: tensor for name, tensor in artifact.model.state_dict().items()}
    tensors[COUNTS] = torch.from_numpy(artifact.item_counts)
    if artifact.anchors is not None:
        tensors[ANCHORS] = artifact.anchors
    return {name: tensor.detach().contiguous() for name, tensor in sorted(tensors.items())}


def _spec(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": SAFETENSORS_NAME[tensor.dtype], "shape": list(tensor.shape)}


def _manifest(path: Path, *, verify: bool) -> dict[str, Any]:
    file = path / MANIFEST
    manifest = read_manifest(path, FORMAT, FORMAT_VERSION, made_by="coterie train", verify=verify)
    needs(file, manifest, NEEDED)
    for name in (WEIGHTS, IDS):
        if name not in manifest["files"]:
            raise ArtifactError(f"{file} does not name {name}, which a model needs.")
    n_items = manifest["n_items"]
    if not isinstance(n_items, int) or n_items < 0:
        raise ArtifactError(f"{file}: 'n_items' must be a count, got {n_items!r}.")
    for key in ("model", "tensors", "metadata"):
        if not isinstance(manifest[key], dict):
            raise ArtifactError(f"{file}: {key!r} must be a table, got {manifest[key]!r}.")
    return manifest


def _empty_model(path: Path, facts: dict[str, Any], n_items: int, sizes: dict[str, Any]) -> Model:
    """The model without memory for its tensors: names, shapes and types only."""
    file, name = path / MANIFEST, facts.get("name")
    method = METHODS.get(name) if isinstance(name, str) else None
    _check_sizes(file, sizes, () if method is None else method.model.sized_by)
    try:
        with torch.device("meta"):
            if method is None:
                return VAE(ModelConfig.read(facts), n_items)
            settings = {key: value for key, value in facts.items() if key != "name"}
            return method.model(method.config.read(settings), n_items, **sizes)
    except ConfigError as error:
        raise ArtifactError(f"{file}: 'model' is not valid: {error}") from error
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond what torch can count
        raise ArtifactError(f"{file}: 'model' is not valid: sizes too large.") from error


def _check_sizes(file: Path, sizes: Any, expected: tuple[str, ...]) -> None:
    if (
        not isinstance(sizes, dict)
        or sorted(sizes) != sorted(expected)
        or not all(type(size) is int and size >= 0 for size in sizes.values())
    ):
        named = ", ".join(expected) or "nothing"
        raise ArtifactError(f"{file}: 'sizes' must be counts of {named}, got {sizes!r}.")


def _expected(model: Model, named: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Names, types and shapes that the weights file must have, from the manifest's facts alone."""
    shapes = {MODEL + name: _spec(tensor) for name, tensor in model.state_dict().items()}
    shapes[COUNTS] = {"dtype": "I64", "shape": [model.n_items]}
    if ANCHORS in named and isinstance(model, VAE):
        shapes[ANCHORS] = {"dtype": "F32", "shape": [model.n_items, model.config.latent_dim]}
    return dict(sorted(shapes.items()))


def _read_tensors(
    file: Path, expected: dict[str, dict[str, Any]], device: torch.device
) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            names = set(opened.keys())
            for name in sorted(expected.keys() ^ names):
                what = "lacks the tensor" if name in expected else "holds an unexpected tensor"
                raise ArtifactError(f"{file} {what} {name!r}.")
            for name, spec in expected.items():
                part = opened.get_slice(name)
                found = {"dtype": part.get_dtype(), "shape": part.get_shape()}
                if found != spec:
                    raise ArtifactError(
                        f"{file}: the tensor {name!r} should be {_words(spec)} by the model's "
                        f"configuration, got {_words(found)}."
                    )
            # A copy has torch's own alignment in memory, on which the last bit of a sum depends,
            # and does not hang on the file.
            return {name: opened.get_tensor(name).clone() for name in expected}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file} is not a readable safetensors file: {error}.") from error


def _words(spec: dict[str, Any]) -> str:
    return f"{spec['dtype']} {spec['shape']}"


def _item_ids(path: Path, n_items: int) -> IdMap:
    file = path / IDS
    table = _parquet(file)
    if table.columns != ["id"]:
        raise ArtifactError(f"{file} must have one column 'id', it has {table.columns}.")
    try:
        item_ids = IdMap(table["id"])
    except DataError as error:
        raise ArtifactError(f"{file}: {error}") from error
    if len(item_ids) != n_items:
        raise ArtifactError(f"{file} has {len(item_ids)} ids, the model has {n_items} items.")
    return item_ids


def _parquet(file: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(file, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ArtifactError(f"{file} is not a readable Parquet file: {error}.") from error
