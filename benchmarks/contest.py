"""What every runner of the speed benchmark shares: options, data, clock, NDCG@100, result file.

Imports NumPy and SciPy only, so that it works in the environment of every rival. A runner trains
for some epochs, puts the seconds of each into an `EpochClock`, writes the top-100 items of the
validation users and hands all to `write_result`; the quality figure is computed here, by one
function, for all.

The models: Multi-VAE; RecVAE, where what is called an epoch here is a set, 3 epochs of the encoder
and 1 of the decoder; EASE, whose one "epoch" is its solve.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

HIDDEN, LATENT, BATCH, LEARNING_RATE, DROPOUT = 600, 200, 500, 1e-3, 0.5
ANNEAL_CAP = 0.2
# RecVAE: its paper's values, which are every library's defaults; HIDDEN, LATENT, BATCH and DROPOUT
# are as above, and the prior's weights are 3/20, 3/4 and 1/10 everywhere.
RECVAE_LEARNING_RATE, GAMMA, ENCODER_EPOCHS, DECODER_EPOCHS = 5e-4, 0.005, 3, 1
EASE_L2 = 500.0
MODELS = ("multi-vae", "recvae", "ease")
K = 100


@dataclass(frozen=True)
class Options:
    """The command line of a runner."""

    model: str
    data: Path
    out: Path
    epochs: int
    threads: int
    topk_users: int
    max_steps: int | None
    seed: int
    device: str = "cpu"


def parse_options(
    description: str,
    models: tuple[str, ...] = MODELS[:1],
    devices: tuple[str, ...] = ("cpu",),
) -> Options:
    """Read the options that all runners take; `models` and `devices` are those of the runner."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--model", choices=models, default=models[0])
    parser.add_argument("--data", type=Path, required=True, help="folder made by shapes.py")
    parser.add_argument("--out", type=Path, required=True, help="result file (JSON)")
    parser.add_argument("--epochs", type=int, default=2, help="of recvae: sets of 3 + 1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--topk-users", type=int, default=2_000)
    parser.add_argument("--max-steps", type=int, help="cut epochs here and extrapolate their time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=devices, default="cpu")
    options = Options(**vars(parser.parse_args()))
    options = replace(options, data=options.data.resolve(), out=options.out.resolve())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    return options


@dataclass(frozen=True)
class BenchmarkData:
    """The three matrices of a shape, and the training users whose recommendation is timed."""

    train: sparse.csr_matrix  # U x I
    fold_in: sparse.csr_matrix  # V x I
    held_out: sparse.csr_matrix  # V x I
    topk_users: NDArray[np.int64]  # rows of train

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training users, the short last one counted."""
        return -(-int(self.train.shape[0]) // BATCH)


def load(options: Options) -> BenchmarkData:
    """Read the folder of a shape; the values become float32, as most libraries want them."""

    def read(name: str) -> sparse.csr_matrix:
        return sparse.csr_matrix(sparse.load_npz(options.data / f"{name}.npz"), dtype=np.float32)

    train = read("train")
    rng = np.random.default_rng(1)
    count = min(options.topk_users, train.shape[0])
    users = np.sort(rng.choice(train.shape[0], count, replace=False))
    return BenchmarkData(train, read("val_fold_in"), read("val_held_out"), users)


def steps_to_run(options: Options, data: BenchmarkData) -> int:
    """Batches of one epoch of this run: all, or `--max-steps`."""
    return min(options.max_steps or data.steps_per_epoch, data.steps_per_epoch)


def anneal_steps(options: Options, data: BenchmarkData) -> int:
    """Length of the ramp min(cap, step / length): the cap is reached after 80 % of this run.

    200 000 steps at a cap of 0.2 make 40 000, which is 86 % of the paper's 200 epochs on
    MovieLens-20M; a benchmark of a few epochs keeps that proportion, not the absolute count.
    """
    return max(1, round(0.8 * options.epochs * steps_to_run(options, data) / ANNEAL_CAP))


@dataclass
class EpochClock:
    """Wall seconds of each epoch, scaled up where `--max-steps` cut the epoch short."""

    scale: float = 1.0
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, options: Options, data: BenchmarkData) -> EpochClock:
        """Build the clock that fits the options."""
        return cls(data.steps_per_epoch / steps_to_run(options, data))

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Time the block as one epoch."""
        start = time.perf_counter()
        yield
        self.add(time.perf_counter() - start)

    def add(self, seconds: float) -> None:
        """Note one epoch that took `seconds` (before scaling)."""
        self.seconds.append(seconds * self.scale)

    def join(self, epochs: int) -> None:
        """Count every `epochs` of what was noted as one, a set."""
        starts = range(0, len(self.seconds), epochs)
        self.seconds = [sum(self.seconds[start : start + epochs]) for start in starts]


def peak_rss_mb() -> float:
    """Highest resident memory of this process so far, in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def median_seconds(task: Callable[[], object], repeats: int = 3) -> float:
    """Median wall seconds of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def top_k(scores: NDArray[np.floating], seen: sparse.csr_matrix, k: int = K) -> NDArray[np.int64]:
    """Best k unseen items of each row of dense `scores` (B x I), best first; overwrites them."""
    scores[seen.nonzero()] = -np.inf
    best = np.argpartition(-scores, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def ndcg_at_k(ranked: NDArray[np.integer], held_out: sparse.csr_matrix, k: int = K) -> float:
    """Mean binary NDCG@k over the rows; the ideal list is cut at min(k, number held out).

    `ranked` is V x (at least k) item indices, best first; -1 fills a list that is too short.
    """
    ranked = np.asarray(ranked)[:, :k]
    rows = np.repeat(np.arange(len(ranked)), ranked.shape[1])
    held = sparse.csr_matrix(held_out, dtype=np.float64)
    hits = np.asarray(held[rows, np.maximum(ranked, 0).ravel()]).reshape(ranked.shape) > 0
    hits &= ranked >= 0
    gain = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gain)])[np.minimum(k, np.diff(held.indptr))]
    reached = (hits * gain[: ranked.shape[1]]).sum(axis=1)
    return float(np.mean(reached[ideal > 0] / ideal[ideal > 0]))


def popularity_ndcg(data: BenchmarkData) -> float:
    """NDCG@100 of the most popular unseen items: the floor that a trained model must clear."""
    counts = np.asarray(data.train.sum(axis=0), dtype=np.float64).ravel()
    counts = counts - np.arange(len(counts)) / (10 * len(counts))  # ties: the first item wins
    scores = np.tile(counts, (data.fold_in.shape[0], 1))
    return ndcg_at_k(top_k(scores, data.fold_in), data.held_out)


def write_result(
    options: Options,
    data: BenchmarkData,
    *,
    library: str,
    version: str,
    framework: str,
    clock: EpochClock,
    setup_seconds: float,
    train_peak_rss_mb: float,
    ranked: NDArray[np.integer],
    topk_seconds: float,
    train_loss: list[float] | None = None,
    notes: dict[str, Any] | None = None,
) -> None:
    """Save the ranked lists beside the result file, compute NDCG@100, write and print the result.

    `train_peak_rss_mb` is taken when training ends, so a greedy evaluation does not count in it;
    `peak_rss_mb` is of the whole run. Both include imports and data.
    """
    lists = options.out.with_suffix(".npy")
    np.save(lists, np.asarray(ranked, dtype=np.int32))
    result = {
        "model": options.model,
        "library": library,
        "version": version,
        "python": platform.python_version(),
        "framework": framework,
        "numpy": np.__version__,
        "device": options.device,
        "threads": options.threads,
        "users": data.train.shape[0],
        "items": data.train.shape[1],
        "interactions": data.train.nnz,
        "max_steps": options.max_steps,
        "seed": options.seed,
        "setup_seconds": setup_seconds,
        "epoch_seconds": clock.seconds,
        "epoch_seconds_median": statistics.median(clock.seconds) if clock.seconds else None,
        "train_peak_rss_mb": train_peak_rss_mb,
        "peak_rss_mb": peak_rss_mb(),
        "train_loss": train_loss,
        "ndcg100": ndcg_at_k(np.load(lists), data.held_out),
        "ndcg100_popularity": popularity_ndcg(data),
        "topk_users": len(data.topk_users),
        "topk_seconds": topk_seconds,
        "lists": lists.name,
        "notes": notes or {},
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
