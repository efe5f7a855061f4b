"""Checkpoints: one safetensors file each, written whole, with the loop's state in its header."""

import json
import re
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from coterie.data.batches import extra_of
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.parts import HeldOut
from coterie.errors import ArtifactError, ConfigError
from coterie.files import atomic_file
from coterie.training.config import Experiment, RunContext
from coterie.training.optimizer import Adam

FORMAT_VERSION = "3"


@dataclass
class Progress:
    """Where the loop stands, apart from tensors. All randomness is a function of it.

    Parameters
    ----------
    step
        Finished optimiser steps.
    sums
        Sums of the loss terms over the current epoch's users, and their count.
    history
        One record per finished epoch.
    best_value, best_epoch, stale
        Best validation value, its epoch, and evaluations since.
    """

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_value: float | None = None
    best_epoch: int | None = None
    stale: int = 0


def fingerprint(
    experiment: Experiment, data: Interactions, validation: HeldOut | None, context: RunContext
) -> dict[str, Any]:
    """What a checkpoint belongs to: the experiment, the precision, sizes and checksum of the data.

    How long to train (``epochs``, ``patience``) is no part of it, so that a run can be extended.
    The device is recorded and not compared.
    """
    parts = [data] if validation is None else [data, validation.fold_in, validation.held_out]
    crc = _crc_of_ids(data.item_ids)
    for part in parts:
        crc = zlib.crc32(np.ascontiguousarray(part.indptr).data, crc)
        crc = zlib.crc32(np.ascontiguousarray(part.indices).data, crc)
    for name in experiment.objective.extras:
        crc = zlib.crc32(np.ascontiguousarray(extra_of(data, name)).data, crc)
    return {
        "experiment": experiment.model_dump(
            mode="json", exclude={"training": {"epochs", "patience"}}
        ),
        "data": [data.n_users, data.n_items, data.nnz, crc],
        "precision": "bf16" if context.torch_dtype() == torch.bfloat16 else "fp32",
        "device": context.torch_device().type,
    }


def _crc_of_ids(item_ids: IdMap) -> int:
    """CRC-32 of the ids in order, and of their type: the same on every machine and version."""
    ids = item_ids.ids
    if item_ids.is_integer:
        kind = b"u8" if ids.dtype == pl.UInt64 else b"i8"
        return zlib.crc32(ids.to_numpy().astype("<" + kind.decode()).tobytes(), zlib.crc32(kind))
    lengths = ids.str.len_bytes().to_numpy().astype("<u4")  # "ab", "c" are not "a", "bc"
    return zlib.crc32("".join(ids.to_list()).encode(), zlib.crc32(lengths.tobytes()))


def save_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: Adam | None,
    progress: Progress,
    belongs_to: dict[str, Any],
) -> None:
    """Write weights, optimiser moments (unless None) and progress into one file, atomically."""
    tensors = _weights(modules)
    if optimizer is not None:
        tensors |= _prefixed(optimizer)
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    header = {
        "format": "coterie-checkpoint",
        "version": FORMAT_VERSION,
        "progress": json.dumps(asdict(progress)),
        "belongs_to": json.dumps(belongs_to),
    }
    header["checksum"] = _checksum(header, tensors)
    with atomic_file(path) as aside:
        try:
            save_file(tensors, aside, header)
        except SafetensorError as error:  # hides the system's error number in its text
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else None, str(error)) from error


def load_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: Adam | None,
    belongs_to: dict[str, Any],
) -> Progress:
    """Load what :func:`save_checkpoint` wrote into modules and optimiser; return the progress.

    Raises
    ------
    ArtifactError
        The file is damaged, of another version, or its tensors do not fit.
    ConfigError
        It belongs to another experiment, precision or other data; the message
        names the first difference.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a readable checkpoint: {error}.") from error
    if header.get("format") != "coterie-checkpoint":
        raise ArtifactError(f"{path} is a safetensors file, but no checkpoint of coterie.")
    if header.get("version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} is a checkpoint of version {header.get('version')}, and version "
            f"{FORMAT_VERSION} is read here: it was made by another version of coterie. Begin the "
            "run again (--overwrite)."
        )
    if header.get("checksum") != _checksum(header, tensors):
        raise ArtifactError(
            f"{path} is damaged or was edited: its checksum differs. Delete it to begin anew."
        )
    _must_belong(path, json.loads(header["belongs_to"]), belongs_to)
    targets = _weights(modules)
    if optimizer is not None:
        targets |= _prefixed(optimizer)
    for name, target in targets.items():
        if name not in tensors:
            raise ArtifactError(f"{path} lacks the tensor {name!r}.")
        if tensors[name].shape != target.shape:
            raise ArtifactError(
                f"{path}: {name!r} has shape {list(tensors[name].shape)}, "
                f"expected {list(target.shape)}."
            )
        with torch.no_grad():
            target.copy_(tensors[name])
    return Progress(**json.loads(header["progress"]))


def _checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """CRC-32 of what decides how training goes on: against accidents, not against an attacker."""
    crc = zlib.crc32((header.get("progress", "") + header.get("belongs_to", "")).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def named_parameters(modules: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """All parameters of the modules, by ``module.parameter`` names."""
    return {
        f"{prefix}.{name}": parameter
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
    }


def _weights(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in named_parameters(modules).items()}


def _prefixed(optimizer: Adam) -> dict[str, Tensor]:
    return {f"optimizer.{name}": value for name, value in optimizer.state.items()}


def _must_belong(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    if found["data"] != expected["data"]:
        raise ConfigError(
            f"{path} was trained on other data (users, items, interactions, checksum of pairs "
            f"and item ids: {found['data']}, here {expected['data']}). Use another run folder."
        )
    precision, here = found.get("precision"), expected.get("precision")
    if precision != here:
        raise ConfigError(
            f"{path} was trained with precision {precision}, here it is {here}. Ask for precision "
            f"{precision} (--precision), or use another run folder."
        )
    if found["experiment"] == expected["experiment"]:
        return
    for section, settings in expected["experiment"].items():
        for key, value in settings.items():
            other = found["experiment"].get(section, {}).get(key)
            if other != value:
                raise ConfigError(
                    f"{path} belongs to another experiment: {section}.{key} is {other!r} there "
                    f"and {value!r} here. Use the same settings or another run folder."
                )
    raise ConfigError(f"{path} belongs to another experiment. Use another run folder.")
