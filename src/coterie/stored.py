"""A saved model as it lies in its folder, read without PyTorch, whose import takes seconds.

The folder holds ``model.safetensors`` (a model's tensors, item counts and, if kept, anchors),
``items.parquet`` (external ids in the model's order), ``item_table.parquet`` (if there is a table
about the items) and ``manifest.json``. :mod:`coterie.artifact` writes it, and makes a model of it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError, safe_open

from coterie.data.ids import IdMap
from coterie.errors import ArtifactError, ConfigError, DataError
from coterie.manifest import MANIFEST, needs, read_manifest
from coterie.models.config import ARCHITECTURES, ModelConfig

FORMAT = "coterie-model"
FORMAT_VERSION = 2  # 2: "sizes", which baselines need
WEIGHTS, IDS, TABLE = "model.safetensors", "items.parquet", "item_table.parquet"
MODEL, COUNTS, ANCHORS = "model.", "item_counts", "anchors"
PRIOR = "model.prior."
VERSION_LENGTH = 12  # of a model's hash, in hexadecimal digits
NEEDED = ("n_items", "model", "sizes", "tensors", "metadata", "versions")
TYPES = ("F32", "I32", "I64")
ALIGNMENT = 64  # PyTorch's own, on which the last bit of a sum depends

Spec = dict[str, Any]
"""Type and shape of a tensor: ``{"dtype": "F32", "shape": [12, 5]}``."""


@dataclass(frozen=True, eq=False)
class StoredTensors:
    """What the weights file holds.

    Parameters
    ----------
    model
        The model's tensors by name.
    item_counts
        Training users per item, int64 ``[I]``.
    anchors
        Item anchors, float32 ``[I, K]``, if kept.
    """

    model: dict[str, np.ndarray]
    item_counts: np.ndarray
    anchors: np.ndarray | None


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A checked folder, its tensors not yet read.

    Parameters
    ----------
    path
        The folder.
    facts
        Name and settings of the model.
    sizes
        Those that the settings do not tell.
    n_items
        I.
    item_ids
        External ids of the items, in the model's order.
    items
        A table about the items, with a column ``item_id``, if there is one.
    specs
        Type and shape of each tensor, by its name in the weights file, as the manifest says.
    metadata
        Facts of training.
    """

    path: Path
    facts: dict[str, Any]
    sizes: Any
    n_items: int
    item_ids: IdMap
    items: pl.DataFrame | None
    specs: dict[str, Spec]
    metadata: dict[str, Any]

    @property
    def is_vae(self) -> bool:
        """Whether it is a VAE, by its name; else it is a baseline."""
        name = self.facts.get("name")
        return isinstance(name, str) and name in ARCHITECTURES

    def vae_config(self) -> ModelConfig:
        """The settings of a VAE.

        Raises
        ------
        ArtifactError
            They are not valid.
        """
        try:
            return ModelConfig.read(self.facts)
        except ConfigError as error:
            raise self.invalid(str(error)) from error

    def invalid(self, why: str) -> ArtifactError:
        """The error to raise where the model's settings cannot be used."""
        return ArtifactError(f"{self.path / MANIFEST}: 'model' is not valid: {why}")

    def read_tensors(self, expected: dict[str, Spec] | None = None) -> StoredTensors:
        """Read the weights file.

        Parameters
        ----------
        expected
            What it must hold; None: what the manifest says, and the prior's tensors, which no score
            depends on, are not read.

        Raises
        ------
        ArtifactError
            A tensor is missing, unexpected, or of another shape or type; the message names it.
        """
        file = self.path / WEIGHTS
        try:
            with safe_open(file, framework="np") as opened:
                found = {name: _spec(opened.get_slice(name)) for name in sorted(opened.keys())}
                if expected is not None:
                    _refuse_others(file, found, expected)
                if found != self.specs:
                    raise ArtifactError(
                        f"{self.path / MANIFEST}: 'tensors' does not describe {WEIGHTS}."
                    )
                tensors = {
                    name: _aligned(opened.get_tensor(name))
                    for name in _readable(file, found)
                    if expected is not None or not name.startswith(PRIOR)
                }
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{file} is not a readable safetensors file: {error}.") from error
        counts, anchors = tensors.pop(COUNTS, None), tensors.pop(ANCHORS, None)
        if counts is None or counts.shape != (self.n_items,) or counts.dtype != np.int64:
            raise ArtifactError(f"{file}: {COUNTS!r} should be I64 [{self.n_items}].")
        if anchors is not None and anchors.shape[:1] != (self.n_items,):
            raise ArtifactError(f"{file}: {ANCHORS!r} should have {self.n_items} rows.")
        model = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items()}
        return StoredTensors(model, counts, anchors)


def version_of(folder: Path) -> str | None:
    """The beginning of the SHA-256 of the manifest, which names the hash of every file.

    None if there is no manifest to read.
    """
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except OSError:
        return None
    return hashlib.sha256(manifest).hexdigest()[:VERSION_LENGTH]


def read_stored(path: Path, *, verify: bool = True) -> StoredModel:
    """Read and check a model's folder, all but its tensors.

    ``verify`` compares the files' hashes with the manifest's.

    Raises
    ------
    ArtifactError
        It is of another format or version, or a file is missing, truncated, edited or not what it
        should be; the message names it.
    """
    manifest = _manifest(path, verify=verify)
    table = path / TABLE
    items = _parquet(table) if TABLE in manifest["files"] else None
    if items is not None and "item_id" not in items.columns:
        raise ArtifactError(f"{table} needs a column 'item_id'; it has {items.columns}.")
    return StoredModel(
        path,
        manifest["model"],
        manifest["sizes"],
        manifest["n_items"],
        _item_ids(path, manifest["n_items"]),
        items,
        manifest["tensors"],
        manifest["metadata"],
    )


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


def _spec(part: Any) -> Spec:
    return {"dtype": part.get_dtype(), "shape": part.get_shape()}


def _refuse_others(file: Path, found: dict[str, Spec], expected: dict[str, Spec]) -> None:
    for name in sorted(expected.keys() ^ found.keys()):
        what = "lacks the tensor" if name in expected else "holds an unexpected tensor"
        raise ArtifactError(f"{file} {what} {name!r}.")
    for name, spec in expected.items():
        if found[name] != spec:
            raise ArtifactError(
                f"{file}: the tensor {name!r} should be {_words(spec)} by the model's "
                f"configuration, got {_words(found[name])}."
            )


def _readable(file: Path, found: dict[str, Spec]) -> dict[str, Spec]:
    """``found``, if all are of types that models have."""
    for name, spec in found.items():
        if spec["dtype"] not in TYPES:
            raise ArtifactError(
                f"{file}: the tensor {name!r} has the type {spec['dtype']}; models have "
                f"{', '.join(TYPES)}."
            )
    return found


def _words(spec: Spec) -> str:
    return f"{spec['dtype']} {spec['shape']}"


def _aligned(tensor: np.ndarray) -> np.ndarray:
    """A copy in the alignment that PyTorch's own tensors have."""
    memory = np.empty(tensor.nbytes + ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
    copy[...] = tensor
    return copy


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
