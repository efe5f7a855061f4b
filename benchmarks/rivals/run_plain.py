"""Plain PyTorch Mult-VAE and RecVAE, as research code writes them: the speed benchmark's baseline.

Dense batches from `.toarray()`, default Adam, log-softmax over all items, dense evaluation.
An epoch's time holds shuffling, making the batches dense, forward, loss, backward, step and reading
the loss; it holds no evaluation. RecVAE (`plain_recvae.py`) has one Adam for the encoder and one
for the decoder; as in the authors' code the gradients of the part that rests are computed as well.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from plain_recvae import RecVAE

import contest


class MultVAE(nn.Module):
    """I -> 600 -> 200 -> 600 -> I with tanh, a Gaussian latent and a multinomial likelihood."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.encoder_hidden = nn.Linear(items, contest.HIDDEN)
        self.encoder_latent = nn.Linear(contest.HIDDEN, 2 * contest.LATENT)
        self.decoder_hidden = nn.Linear(contest.LATENT, contest.HIDDEN)
        self.decoder_items = nn.Linear(contest.HIDDEN, items)
        for layer in (
            self.encoder_hidden,
            self.encoder_latent,
            self.decoder_hidden,
            self.decoder_items,
        ):
            nn.init.xavier_normal_(layer.weight)
            nn.init.trunc_normal_(layer.bias, std=0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map histories (B x I) to logits (B x I), mean and log-variance (B x K each)."""
        h = F.dropout(F.normalize(x), contest.DROPOUT, training=self.training)
        h = torch.tanh(self.encoder_hidden(h))
        mu, logvar = self.encoder_latent(h).chunk(2, dim=1)
        z = mu
        if self.training:
            z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return self.decoder_items(torch.tanh(self.decoder_hidden(z))), mu, logvar


def negative_elbo(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor, beta: float) -> Tensor:
    """Multinomial negative log-likelihood plus beta times KL: summed over items, mean over B."""
    likelihood = -(F.log_softmax(logits, dim=1) * x).sum(dim=1).mean()
    divergence = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=1).mean()
    return likelihood + beta * divergence


def dense(matrix: sparse.csr_matrix, device: str) -> Tensor:
    """Rows of a CSR matrix as a dense float tensor."""
    return torch.from_numpy(matrix.toarray()).to(device)


def batches(
    data: contest.BenchmarkData, options: contest.Options, rng: np.random.Generator
) -> Iterator[Tensor]:
    """One pass over the training users in random order, or over `--max-steps` batches of them."""
    order = rng.permutation(data.train.shape[0])
    for batch in range(contest.steps_to_run(options, data)):
        users = order[batch * contest.BATCH : (batch + 1) * contest.BATCH]
        yield dense(data.train[users], options.device)


def train_mult_vae(
    model: MultVAE, data: contest.BenchmarkData, options: contest.Options, clock: contest.EpochClock
) -> list[float]:
    """Train all epochs; the mean loss of each."""
    rng = np.random.default_rng(options.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=contest.LEARNING_RATE)
    ramp, steps = contest.anneal_steps(options, data), contest.steps_to_run(options, data)
    losses, step = [], 0
    for _ in range(options.epochs):
        model.train()
        total = 0.0
        with clock.epoch():
            for x in batches(data, options, rng):
                optimizer.zero_grad()
                beta = min(contest.ANNEAL_CAP, step / ramp)
                logits, mu, logvar = model(x)
                loss = negative_elbo(x, logits, mu, logvar, beta)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.item()
                step += 1
        losses.append(total / steps)
    return losses


def train_recvae(
    model: RecVAE, data: contest.BenchmarkData, options: contest.Options, clock: contest.EpochClock
) -> list[float]:
    """Train all sets; the mean loss of each one's decoder epoch."""
    rng = np.random.default_rng(options.seed)
    encoder, decoder = (
        torch.optim.Adam(part.parameters(), lr=contest.RECVAE_LEARNING_RATE)
        for part in (model.encoder, model.decoder)
    )
    losses = []

    def epoch(optimizer: torch.optim.Optimizer, dropout: float) -> float:
        total = 0.0
        for x in batches(data, options, rng):
            optimizer.zero_grad()
            loss = model.negative_elbo(x, dropout)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
        return total / contest.steps_to_run(options, data)

    for _ in range(options.epochs):
        model.train()
        with clock.epoch():
            for _ in range(contest.ENCODER_EPOCHS):
                epoch(encoder, contest.DROPOUT)
            model.refresh_snapshot()
            for _ in range(contest.DECODER_EPOCHS):
                last = epoch(decoder, 0.0)
        losses.append(last)
    return losses


def recommend(model: MultVAE | RecVAE, histories: sparse.csr_matrix, device: str) -> np.ndarray:
    """Top 100 unseen items for each row, batch by batch: dense scores, NumPy partition."""
    model.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, histories.shape[0], contest.BATCH):
            batch = histories[start : start + contest.BATCH]
            scores = model(dense(batch, device))[0].cpu().numpy()
            parts.append(contest.top_k(scores, batch))
    return np.concatenate(parts)


def gpu_notes(device: str) -> dict[str, object]:
    """The GPU and its memory at most allocated, if one is used."""
    if device == "cpu":
        return {}
    peak = torch.cuda.max_memory_allocated() / 2**20
    return {"gpu": torch.cuda.get_device_name(), "gpu_peak_mib": peak}


def main() -> None:
    """Train, evaluate, write the result."""
    options = contest.parse_options(__doc__, ("multi-vae", "recvae"), ("cpu", "cuda"))
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    start = time.perf_counter()
    data = contest.load(options)
    model = (RecVAE if options.model == "recvae" else MultVAE)(data.train.shape[1])
    model.to(options.device)
    setup_seconds = time.perf_counter() - start
    clock = contest.EpochClock.of(options, data)
    if isinstance(model, RecVAE):
        losses = train_recvae(model, data, options, clock)
    else:
        losses = train_mult_vae(model, data, options, clock)
    train_peak = contest.peak_rss_mb()
    histories = data.train[data.topk_users]
    contest.write_result(
        options,
        data,
        library=f"plain PyTorch {type(model).__name__}",
        version=torch.__version__,
        framework=f"torch {torch.__version__}",
        clock=clock,
        setup_seconds=setup_seconds,
        train_peak_rss_mb=train_peak,
        train_loss=losses,
        ranked=recommend(model, data.fold_in, options.device),
        topk_seconds=contest.median_seconds(lambda: recommend(model, histories, options.device)),
        notes=gpu_notes(options.device),
    )


if __name__ == "__main__":
    main()
