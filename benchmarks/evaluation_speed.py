"""Times evaluation, metrics included, against plain PyTorch + NumPy with the same weights.

    python benchmarks/evaluation_speed.py --out evaluation.json

10 000 users x 20 000 items; a network 20 000-600-200-600-20 000 with random weights. The rivals:

field   as the published notebooks of the field write it: dense input batch, fp32 forward pass,
        dense held-out batch, one function per metric, each with its own argpartition; 3 metrics
lean    the same with one torch.topk for all and the hits gathered from the dense held-out batch

Ours computes seven metrics at three cuts, coverage, Gini and novelty. Runs alternate; medians of
wall seconds and of processor seconds (which a busy machine disturbs less).
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.parts import HeldOut
from coterie.data.splits import weak_generalization
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.evaluation import Scorer, evaluate
from coterie.models.vae import VAE, ModelConfig
from coterie.recommender import Recommender

BATCH = 500
Figures = dict[str, float]


def make_data(n_users: int, n_items: int) -> HeldOut:
    """Users with MovieLens-20M's mean history; a fifth of each is held out."""
    config = SyntheticConfig(
        n_users=n_users,
        n_items=n_items,
        n_communities=40,
        n_niches=100,
        mean_history=73,
        history_sigma=1.0,
        n_pairs=0,
    )
    data = synthetic(config, 0).interactions
    return weak_generalization(data, validation_fraction=0.0, test_fraction=0.2, rng=0).test


class DenseNetwork(nn.Module):
    """The same network over dense input rows, as the field writes it."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        encoder, decoder = model.encoder, model.decoder
        first = nn.Linear(model.n_items, len(encoder.bias))
        first.weight.data = encoder.table.data.T.contiguous()
        first.bias.data = encoder.bias.data
        last = nn.Linear(decoder.table.shape[1], model.n_items)
        last.weight.data, last.bias.data = decoder.table.data, decoder.bias.data
        self.encoder = nn.Sequential(first, *_after_tanh(encoder.layers))
        hidden = [module for layer in decoder.layers for module in (layer, nn.Tanh())]
        self.decoder = nn.Sequential(*hidden, last)
        self.latent_dim = model.config.latent_dim

    def forward(self, dense: Tensor) -> Tensor:
        """Logits ``[B, I]`` of dense histories ``[B, I]``."""
        mu: Tensor = self.encoder(F.normalize(dense))[:, : self.latent_dim]
        logits: Tensor = self.decoder(mu)
        return logits


def _after_tanh(layers: nn.ModuleList) -> list[nn.Module]:
    return [module for layer in layers for module in (nn.Tanh(), layer)]


def field_way(network: DenseNetwork, fold_in: sp.csr_array, held_out: sp.csr_array) -> Figures:
    """Dense batches, one argpartition per metric."""
    values: dict[str, list[np.ndarray]] = {"recall@20": [], "recall@50": [], "ndcg@100": []}
    for start in range(0, fold_in.shape[0], BATCH):
        dense = fold_in[start : start + BATCH].toarray().astype(np.float32)
        wanted = held_out[start : start + BATCH].toarray() > 0
        with torch.no_grad():
            scores = network(torch.from_numpy(dense)).numpy()
        scores[dense.nonzero()] = -np.inf
        values["recall@20"].append(_recall(scores, wanted, 20))
        values["recall@50"].append(_recall(scores, wanted, 50))
        values["ndcg@100"].append(_ndcg(scores, wanted, 100))
    return {name: float(np.nanmean(np.concatenate(parts))) for name, parts in values.items()}


def _recall(scores: np.ndarray, wanted: np.ndarray, k: int) -> np.ndarray:
    top = np.argpartition(-scores, k, axis=1)[:, :k]
    picked = np.zeros_like(wanted)
    picked[np.arange(len(scores))[:, None], top] = True
    hits = np.logical_and(picked, wanted).sum(axis=1)
    return _ratio(hits, np.minimum(k, wanted.sum(axis=1)))


def _ndcg(scores: np.ndarray, wanted: np.ndarray, k: int) -> np.ndarray:
    rows = np.arange(len(scores))[:, None]
    part = np.argpartition(-scores, k, axis=1)[:, :k]
    top = part[rows, np.argsort(-scores[rows, part], axis=1)]
    discount = 1 / np.log2(np.arange(2, k + 2))
    gain = (wanted[rows, top] * discount).sum(axis=1)
    ideal = np.array([discount[: min(n, k)].sum() for n in wanted.sum(axis=1)])
    return _ratio(gain, ideal)


def lean_way(network: DenseNetwork, fold_in: sp.csr_array, held_out: sp.csr_array) -> Figures:
    """Dense batches, one top-k for all metrics, computed in torch."""
    values: dict[str, list[np.ndarray]] = {"recall@20": [], "recall@50": [], "ndcg@100": []}
    discount = 1 / torch.log2(torch.arange(2, 102, dtype=torch.float64))
    for start in range(0, fold_in.shape[0], BATCH):
        dense = torch.from_numpy(fold_in[start : start + BATCH].toarray())
        wanted = torch.from_numpy(held_out[start : start + BATCH].toarray())
        with torch.no_grad():
            scores = network(dense)
        scores[dense > 0] = -torch.inf
        hits = wanted.gather(1, torch.topk(scores, 100).indices).double()
        n = wanted.sum(1).long()
        for k in (20, 50):
            found = hits[:, :k].sum(1).numpy()
            values[f"recall@{k}"].append(_ratio(found, n.clamp(max=k).numpy()))
        ideal = F.pad(discount.cumsum(0), (1, 0))[n.clamp(max=100)]
        values["ndcg@100"].append(_ratio((hits * discount).sum(1).numpy(), ideal.numpy()))
    return {name: float(np.nanmean(np.concatenate(parts))) for name, parts in values.items()}


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, NaN (left out of the mean) where nothing is held out."""
    ratio: np.ndarray = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return ratio


def our_way(scorer: Scorer, data: HeldOut, item_counts: np.ndarray) -> Figures:
    """What the product does."""
    found = evaluate(scorer, data, item_counts=item_counts, batch_size=BATCH)
    names = {"recall@20": "recall_capped@20", "recall@50": "recall_capped@50"}
    return {name: found[names.get(name, name)] for name in ("recall@20", "recall@50", "ndcg@100")}


def compare(runs: int, n_users: int, n_items: int, *, lean: bool) -> dict[str, Any]:
    """Alternate the ways ``runs`` times; seconds of each, medians, ratios, and the figures."""
    data = make_data(n_users, n_items)
    fold_in, held_out = data.fold_in.to_scipy(), data.held_out.to_scipy()
    counts = data.fold_in.item_counts()
    model = VAE(ModelConfig(), n_items).initialized(0)
    scorer = Recommender(model, data.fold_in.item_ids, counts)
    network = DenseNetwork(model).eval()
    ways: dict[str, Callable[[], Figures]] = {
        "coterie": lambda: our_way(scorer, data, counts),
        "field": lambda: field_way(network, fold_in, held_out),
    }
    if lean:
        ways["lean"] = lambda: lean_way(network, fold_in, held_out)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    figures: dict[str, Figures] = {}
    for _ in range(runs):
        for name, way in ways.items():
            start, used = time.perf_counter(), time.process_time()
            figures[name] = way()
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - used)
    for name, found in figures.items():
        for metric, value in found.items():
            if abs(value - figures["coterie"][metric]) > 1e-4:  # ties and rounding may differ
                raise AssertionError(f"{name} and coterie disagree on {metric}: {figures}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    cpu = {name: statistics.median(times) for name, times in processor.items()}
    return {
        "n_users": n_users,
        "n_items": n_items,
        "seconds": seconds,
        "median_seconds": medians,
        "median_processor_seconds": cpu,
        "ratio": {name: medians[name] / medians["coterie"] for name in medians},
        "processor_ratio": {name: cpu[name] / cpu["coterie"] for name in cpu},
        "figures": figures,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {platform.processor() or platform.system()}",
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def main() -> None:
    """Read the command line, run, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--lean", action="store_true", help="also time the lean rival")
    parser.add_argument("--out", type=Path, default=None, help="write the result here as JSON")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    result = compare(options.runs, options.users, options.items, lean=options.lean)
    for name, median in result["median_seconds"].items():
        cpu = result["median_processor_seconds"][name]
        print(
            f"{name:8} {median:7.2f} s  {result['ratio'][name]:5.2f} x coterie   processor "
            f"{cpu:7.2f} s  {result['processor_ratio'][name]:5.2f} x coterie"
        )
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
