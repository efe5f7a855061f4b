"""coterie's own runner of the speed benchmark: the public `train` and `Recommender`, nothing else.

An epoch's time holds everything `train` does in it: order, batches, masks, forward, backward, step,
reading the loss; RecVAE's is that of a set, 3 epochs of the encoder and 1 of the decoder, settings
as the preset has them; EASE's is its whole fit. `--max-steps` trains on the first users only.
For Multi-VAE the machine's own bf16 and fp32 matrix rates are measured in the same process,
right after training, with the shapes of the three large products. The environment variables
PRECISION (fp32, bf16) and LAMBDA_A (weight of PIA) force what is otherwise `auto` and 0.
"""

from __future__ import annotations

import os
import statistics
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

import contest
from coterie import presets
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.models.baselines.ease import EaseConfig
from coterie.recommender import Recommender
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import StepReport, train


class EpochTimer:
    """Observer that notes the wall seconds between the ends of epochs."""

    def __init__(self, clock: contest.EpochClock) -> None:
        self.clock = clock
        self.losses: list[float] = []
        self.last = time.perf_counter()

    def step(self, report: StepReport) -> None:
        """Nothing to do within an epoch."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Note the epoch."""
        now = time.perf_counter()
        self.clock.add(now - self.last)
        self.losses.append(record["nll"] + record.get("beta", 0.0) * record.get("kl", 0.0))
        self.last = now


def interactions(matrix: sparse.csr_matrix) -> Interactions:
    """A CSR matrix as Interactions with ids counted from 0."""
    return Interactions(
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        IdMap(np.arange(matrix.shape[0])),
        IdMap(np.arange(matrix.shape[1])),
    )


def matrix_rate(dtype: torch.dtype, n_items: int, repeats: int = 15) -> float:
    """GFLOP/s of the three large products of a step, median of `repeats`."""
    hidden = torch.randn(contest.BATCH, contest.HIDDEN).to(dtype)
    table = torch.randn(n_items, contest.HIDDEN).to(dtype)
    logits = torch.randn(contest.BATCH, n_items).to(dtype)
    outs = [torch.empty_like(logits), torch.empty_like(hidden), torch.empty_like(table)]

    def products() -> None:
        torch.mm(hidden, table.T, out=outs[0])
        torch.mm(logits, table, out=outs[1])
        torch.mm(logits.T, hidden, out=outs[2])

    products()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        products()
        seconds.append(time.perf_counter() - start)
    flop = 3 * 2 * contest.BATCH * contest.HIDDEN * n_items
    return flop / statistics.median(seconds) / 1e9


def epoch_flop(data: contest.BenchmarkData) -> float:
    """Floating-point operations of an epoch's dense products (forward and backward)."""
    small = 2 * contest.HIDDEN * contest.LATENT + contest.LATENT * contest.HIDDEN
    per_user = 3 * 2 * (contest.HIDDEN * data.train.shape[1] + small)
    return float(per_user * data.train.shape[0])


def top_lists(recommender: Recommender, histories: Interactions) -> NDArray[np.int64]:
    """Top 100 unseen items per row as internal indices."""
    return recommender.recommend(histories, k=contest.K).item_index


def experiment(options: contest.Options) -> Experiment:
    """The settings of the benchmark's Multi-VAE or RecVAE, which has none beside the preset's."""
    settings: dict[str, Any] = {
        "objective": {"alignment": {"end": float(os.environ.get("LAMBDA_A", "0"))}},
        "training": {"epochs": options.epochs, "batch_size": contest.BATCH, "seed": options.seed},
    }
    if options.model == "recvae":
        settings["training"]["epochs"] *= contest.ENCODER_EPOCHS + contest.DECODER_EPOCHS
    else:
        ramp = {"kind": "linear", "end": contest.ANNEAL_CAP, "epochs": 0.8 * options.epochs}
        settings["objective"] |= {"beta": ramp, "keep_probability": 1 - contest.DROPOUT}
    return presets.experiment(options.model, settings)


def context(options: contest.Options) -> RunContext:
    """The device, in the precision that the environment asks for."""
    precision = os.environ.get("PRECISION", "auto")
    return RunContext.read({"device": options.device, "precision": precision})


def fitted(
    options: contest.Options, data: contest.BenchmarkData, clock: contest.EpochClock
) -> tuple[Recommender, list[float] | None]:
    """The recommender, and each epoch's loss (RecVAE: without the KL term), with the clock set."""
    users = contest.steps_to_run(options, data) * contest.BATCH
    train_data = interactions(data.train if options.model == "ease" else data.train[:users])
    if options.model == "ease":
        with clock.epoch():
            return Recommender.fit(EaseConfig(l2=contest.EASE_L2), train_data), None
    timer = EpochTimer(clock)
    result = train(train_data, None, experiment(options), context=context(options), observer=timer)
    if options.model == "recvae":
        clock.join(contest.ENCODER_EPOCHS + contest.DECODER_EPOCHS)
    return result.recommender, timer.losses


def rates(data: contest.BenchmarkData, clock: contest.EpochClock, used: str) -> dict[str, Any]:
    """The machine's matrix rates, and how much of them Multi-VAE's epochs reached."""
    found = {
        name: matrix_rate(dtype, data.train.shape[1])
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }
    reached = epoch_flop(data) / statistics.median(clock.seconds) / 1e9
    return {
        "matrix_gflops": found,
        "epoch_gflops": reached,
        "fraction_of_matrix_rate": reached / found[used],
    }


def main() -> None:
    """Train, evaluate, write the result."""
    options = contest.parse_options(__doc__ or "", contest.MODELS, ("cpu", "cuda"))
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    data = contest.load(options)
    clock = contest.EpochClock.of(options, data)
    setup_seconds = time.perf_counter() - start
    recommender, losses = fitted(options, data, clock)
    train_peak = contest.peak_rss_mb()
    histories = interactions(data.train[data.topk_users])
    used = "bf16" if context(options).torch_dtype() == torch.bfloat16 else "fp32"
    notes: dict[str, Any] = {} if options.model == "ease" else {"precision": used}
    if options.device == "cuda":
        notes |= {
            "gpu": torch.cuda.get_device_name(),
            "gpu_peak_mib": torch.cuda.max_memory_allocated() / 2**20,
        }
    elif options.model == "multi-vae":
        notes |= rates(data, clock, used)
    contest.write_result(
        options,
        data,
        library=f"coterie {options.model}",
        version=version("coterie"),
        framework=f"torch {torch.__version__}",
        clock=clock,
        setup_seconds=setup_seconds,
        train_peak_rss_mb=train_peak,
        train_loss=losses,
        ranked=top_lists(recommender, interactions(data.fold_in)),
        topk_seconds=contest.median_seconds(lambda: top_lists(recommender, histories)),
        notes=notes,
    )


if __name__ == "__main__":
    main()
