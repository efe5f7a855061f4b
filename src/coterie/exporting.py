"""A model as one ONNX graph, from item indices to scores, checked before it is there.

What serves it elsewhere needs neither coterie nor PyTorch: the graph drops padding and repeats, and
gives the popularity of items where a history is empty, as :meth:`coterie.Recommender.recommend`.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coterie.data.batches import UserBatch
from coterie.errors import (
    ArtifactError,
    ConfigError,
    MissingExtraError,
    NotFittedError,
    StorageError,
)
from coterie.files import atomic_file, flush
from coterie.models.baselines.ease import Ease
from coterie.models.baselines.popularity import Popularity
from coterie.models.baselines.puresvd import PureSvd
from coterie.models.model import Model
from coterie.models.vae import VAE
from coterie.ranking import top_k
from coterie.recommender import Recommender
from coterie.stored import version_of

OPSET = 18  # of 2022: older runtimes in other languages know it
MOST_BYTES = (1 << 31) - (1 << 24)  # an ONNX file has 2 GiB at most
PADDING = -1
N_CHECKED, LONGEST, TOP = 64, 500, 20
TOLERANCE = 1e-4  # of the largest score of a list; float32 sums in another order differ by less


@dataclass(frozen=True)
class OnnxExport:
    """What was written, and how it compares with the model on the histories of the self-check.

    Parameters
    ----------
    out, items_file
        The graph, and the external item ids in its order.
    n_items
        I.
    version
        Of the model, as the server names it; None if it was not in a folder.
    checked
        Histories that were scored by both: random ones, an empty and a long one.
    largest_difference
        Of any score, as a share of the largest score of its history.
    overlap
        Mean share of the 20 best items that are among the other's 20 best.
    """

    out: Path
    items_file: Path
    n_items: int
    version: str | None
    checked: int
    largest_difference: float
    overlap: float


def export_onnx(
    model: Path | str | Recommender, out: Path | str, *, overwrite: bool = False
) -> OnnxExport:
    """Write ``out`` (``.onnx``) and, beside it, its item ids (``.items.json``).

    The graph takes ``items``, int64 ``[B, L]``: item indices, −1 for padding; and gives ``scores``,
    float32 ``[B, I]``. Both files appear after ONNX Runtime gave the scores that PyTorch gives.

    Parameters
    ----------
    model
        The folder of a saved model, or a recommender, on whatever device; the work is the CPU's.
    out
        The file to write.
    overwrite
        Whether to replace files that exist.

    Raises
    ------
    NotFittedError
        The model cannot be a graph; the message says why.
    ConfigError
        ``out`` does not end in ``.onnx``, or the model is too large for one file.
    MissingExtraError
        ``onnx``, ``onnxscript`` or ``onnxruntime`` is not installed.
    StorageError
        A file exists already, or cannot be written.
    ArtifactError
        The self-check failed; nothing was written.
    """
    out = Path(out)
    items_file = out.with_suffix(".items.json")
    if out.suffix != ".onnx":
        raise ConfigError(f"The file to write must end in .onnx, got {out}.")
    for path in (out, items_file):
        if path.is_dir():
            raise StorageError(f"{path} is a folder; choose another path.")
        if path.exists() and not overwrite:
            raise StorageError(
                f"{path} exists already; choose another path, or allow overwriting it "
                "(--overwrite)."
            )
    name = None if isinstance(model, Recommender) else version_of(Path(model))
    recommender = (
        _on_cpu(model) if isinstance(model, Recommender) else Recommender.load(model, device="cpu")
    )
    graph = _Graph(recommender).eval()
    facts = {
        "coterie_version": version("coterie"),
        "model": recommender.model.config.name,
        "model_version": name or "",
        "n_items": str(recommender.n_items),
        "items_file": items_file.name,
    }
    content = _onnx_bytes(graph, facts)
    with atomic_file(items_file) as items_aside, atomic_file(out) as aside:
        aside.write_bytes(content)
        difference, overlap = _compare(graph, recommender, aside)
        items_aside.write_text(json.dumps(_items(recommender, name), ensure_ascii=False) + "\n")
        for path in (aside, items_aside):  # both, before either takes its place
            flush(path)
    return OnnxExport(
        out, items_file, recommender.n_items, name, N_CHECKED + 2, difference, overlap
    )


def _on_cpu(recommender: Recommender) -> Recommender:
    """The same if it is there, else a copy; the caller's stays where it is."""
    if recommender.device.type == "cpu":
        return recommender
    model = copy.deepcopy(recommender.model).cpu()
    return Recommender(
        model, recommender.item_ids, recommender.item_counts, items=recommender.items
    )


class _Graph(nn.Module):
    """From padded histories to scores; the models' own layers after the first."""

    counts: Tensor

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        model = recommender.model
        self.table = _table(model)
        self.model = model
        self.register_buffer("counts", torch.from_numpy(recommender.item_counts).float())

    def forward(self, items: Tensor) -> Tensor:
        """Scores ``[B, I]`` of item indices ``[B, L]``."""
        items = items.sort(1).values
        before = torch.cat([torch.full_like(items[:, :1], PADDING), items[:, :-1]], 1)
        kept = ((items > PADDING) & (items != before)).to(self.counts.dtype)  # each item once
        lengths = kept.sum(1, keepdim=True)
        rows = self.table[items.clamp_min(0)]
        sums = (kept[:, None, :] @ rows)[:, 0]
        return torch.where(lengths > 0, self._scores(sums, lengths.clamp_min(1)), self.counts)

    def _scores(self, sums: Tensor, lengths: Tensor) -> Tensor:
        model = self.model
        if isinstance(model, VAE):
            posterior = model.encoder.posterior(sums * lengths.rsqrt())
            scores: Tensor = model.decoder(posterior.mu)
            return scores
        if isinstance(model, PureSvd):
            return sums @ model.factors.T
        return sums


def _table(model: Model) -> Tensor:
    """What a history's items have rows of, ``[I, D]``."""
    if isinstance(model, VAE):
        return model.encoder.table
    if isinstance(model, PureSvd):
        return model.factors
    if isinstance(model, Ease):
        return model.weights
    if isinstance(model, Popularity):
        raise NotFittedError(
            "popularity gives everyone the same list: there is no graph to export."
        )
    raise NotFittedError(
        f"{model.config.name} cannot be exported: it solves for users or sums sparse weights, "
        "which an ONNX graph does not. Those that can: all VAEs, ease and puresvd. Serve it by "
        "`coterie serve`, or write lists by `coterie recommend`."
    )


def _onnx_bytes(graph: _Graph, facts: dict[str, str]) -> bytes:
    tensors = {id(one): one for one in (*graph.parameters(), *graph.buffers(), graph.table)}
    size = sum(one.nbytes for one in tensors.values())
    if size > MOST_BYTES:
        raise ConfigError(
            f"The model has {size / 2**30:.1f} GiB, and an ONNX file holds 2 GiB. Train a narrower "
            "one (--hidden-dims), or serve it by `coterie serve`."
        )
    try:
        import onnx
        import onnxruntime  # noqa: F401  # for the check, which comes after the work
        import onnxscript  # noqa: F401  # for torch.onnx
    except ImportError as error:
        raise MissingExtraError(
            f"Exporting needs {error.name}, which is not installed: pip install 'coterie[export]'"
        ) from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            graph,
            (torch.tensor([[0, PADDING, 0], [0, 0, PADDING]]),),
            input_names=["items"],
            output_names=["scores"],
            dynamic_shapes=(dims,),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.producer_name, proto.producer_version = "coterie", facts["coterie_version"]
    onnx.helper.set_model_props(proto, facts)
    content: bytes = proto.SerializeToString()
    return content


def _compare(graph: _Graph, recommender: Recommender, path: Path) -> tuple[float, float]:
    """The largest difference and the overlap, over histories of all kinds."""
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences, overlaps = [], []
    for histories in _histories(recommender.n_items):
        longest = max(map(len, histories), default=0)
        padded = np.full((len(histories), max(longest, 1)), PADDING)
        for row, history in enumerate(histories):
            padded[row, : len(history)] = history
        found = torch.from_numpy(session.run(["scores"], {"items": padded})[0])
        expected = _expected(recommender, histories)
        size = expected.abs().amax(1, keepdim=True).clamp_min(1e-6)
        differences.append(float(((found - expected).abs() / size).max()))
        best = min(TOP, recommender.n_items)
        ours, theirs = top_k(expected, best).indices, top_k(found, best).indices
        same = (ours[:, :, None] == theirs[:, None, :]).any(2).float().mean(1)
        overlaps += same.tolist()
    largest, overlap = max(differences), float(np.mean(overlaps))
    if not largest <= TOLERANCE:
        raise ArtifactError(
            f"The exported graph does not give the model's scores: they differ by {largest:.2g} of "
            f"the largest, {TOLERANCE:g} is allowed; the lists of {TOP} overlap by {overlap:.3f}. "
            "Nothing was written. Please report this with the versions of torch and onnxruntime."
        )
    return largest, overlap


def _histories(n_items: int) -> Iterator[list[np.ndarray]]:
    """Batches: random histories with repeats, an empty one alone, a long one."""
    rng = np.random.default_rng(0)
    most = min(LONGEST, n_items)
    lengths = rng.integers(1, min(most, 100) + 1, N_CHECKED)
    yield [rng.integers(0, n_items, length) for length in lengths]
    yield [np.empty(0, dtype=np.int64)]
    yield [rng.permutation(n_items)[:most]]


def _expected(recommender: Recommender, histories: list[np.ndarray]) -> Tensor:
    """What PyTorch gives, and popularity for an empty history."""
    batch = UserBatch.of([np.unique(history) for history in histories], recommender.n_items)
    with torch.no_grad():
        scores: Tensor = recommender.model(batch)
    scores[batch.lengths == 0] = torch.from_numpy(recommender.item_counts).float()
    return scores


def _items(recommender: Recommender, name: str | None) -> dict[str, Any]:
    catalogue = recommender.catalogue
    titles = catalogue["title"].to_list() if "title" in catalogue.columns else None
    return {
        "model_version": name,
        "item_ids": catalogue["item_id"].to_list(),
        **({} if titles is None else {"titles": titles}),
    }
