"""Ordered pairs of users, measured: u's loss, and a training step on v (Theorem 2.3)."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.distances import pick, w1_bracket
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.gradients import DecoderGradients, PairGradients, common_noise_codes
from coterie.mechanisms.measurement import (
    Budget,
    SampleSize,
    choose,
    choose_pairs,
    with_histories,
)
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE

MOST_USERS, LEAST_USERS = 300, 8
ELEMENTWISE = 600  # of the work per logit beyond matrix products, in operations; measured
BYTES_PER_LOGIT = 24  # float32 logits and probabilities, a float64 copy, and slack
N_PROBED = 128  # pairs on which the step's size is chosen and halved
SMALL_SHARE = 0.01  # of second order in first order


@dataclass(frozen=True, eq=False)
class MeasuredPairs:
    """What was measured of P ordered pairs (u, v): u's loss, and a training step on v.

    Parameters
    ----------
    sample
        Users looked at.
    users
        int64 ``[P, 2]``, internal indices of u and v.
    random
        bool ``[P]``: drawn uniformly; the others are nearest neighbours in the sample.
    input_distance, shared
        int64 ``[P]``: ``‖x_u − x_v‖₁`` and the number of items in common.
    w1_lower, w1_upper
        float64 ``[P]``: ``‖μ_u − μ_v‖`` and W2, which bracket W1 of the posteriors.
    gradients
        Norms, mismatches, influence, and W1 of the common-noise coupling.
    change
        float64 ``[P]``, nats: ``L_u(θ − η g_v) − L_u(θ)``.
    learning_rate
        η.
    second_order_share
        Sum of ``|change + η ⟨g_u, g_v⟩|`` over that of ``|η ⟨g_u, g_v⟩|``, random pairs: O(η).
    halving
        The same share after a step of η/2, relative to that of η, on some of the pairs: 0.5 if
        the deviation is of second order.
    """

    sample: SampleSize
    users: np.ndarray
    random: np.ndarray
    input_distance: np.ndarray
    shared: np.ndarray
    w1_lower: np.ndarray
    w1_upper: np.ndarray
    gradients: PairGradients
    change: np.ndarray
    learning_rate: float
    second_order_share: float
    halving: float

    @property
    def w1(self) -> np.ndarray:
        """The estimate of W1: mean distance in the common-noise coupling, float64 ``[P]``."""
        return self.gradients.code_distance

    @property
    def lipschitz(self) -> float:
        """``L_θz``: the steepest measured change of a gradient along the codes of a pair."""
        return float(self.gradients.steepest.max())

    @property
    def radius(self) -> np.ndarray:
        """``r_share(u, v) = [‖g_u‖ − Δ_x(u, v)]_+ / L_θz``, float64 ``[P]``."""
        spare = np.maximum(self.gradients.norm - self.gradients.content_mismatch, 0)
        radius: np.ndarray = spare / max(self.lipschitz, np.finfo(float).tiny)
        return radius

    @property
    def inside(self) -> np.ndarray:
        """Whether v lies within u's sharing radius, bool ``[P]``; implies ``certified``."""
        inside: np.ndarray = self.w1 < self.radius
        return inside

    @property
    def certified(self) -> np.ndarray:
        """Whether latent + content mismatch is below ``‖g_u‖``, bool ``[P]``: v must help."""
        of = self.gradients
        certified: np.ndarray = of.latent_mismatch + of.content_mismatch < of.norm
        return certified

    @property
    def improved(self) -> np.ndarray:
        """Whether u's loss fell, bool ``[P]``."""
        improved: np.ndarray = self.change < 0
        return improved

    def to_frame(self) -> pl.DataFrame:
        """One row per pair."""
        of = self.gradients
        return pl.DataFrame(
            {
                "user": self.users[:, 0],
                "other": self.users[:, 1],
                "random": self.random,
                "input_distance": self.input_distance,
                "shared_items": self.shared,
                "w1_lower": self.w1_lower,
                "w1": self.w1,
                "w1_upper": self.w1_upper,
                "gradient_norm": of.norm,
                "latent_mismatch": of.latent_mismatch,
                "content_mismatch": of.content_mismatch,
                "radius": self.radius,
                "inside": self.inside,
                "certified": self.certified,
                "influence": of.influence,
                "cosine": of.cosine,
                "change": self.change,
                "improved": self.improved,
            }
        )


@torch.no_grad()
def measure_pairs(
    model: VAE,
    user_items: Interactions,
    *,
    generator: torch.Generator,
    budget: Budget,
    n_draws: int,
    learning_rate: float | None,
    neighbours: bool,
) -> MeasuredPairs:
    """The engine of ``transfer`` and ``collaboration``; parameters as there.

    Half of the random pairs' order is a coin's: u is as often the smaller index as the larger.
    """
    if learning_rate is not None and not 0 < learning_rate < np.inf:
        raise ConfigError(f"learning_rate must be positive and finite, got {learning_rate}.")
    available = with_histories(user_items)
    n_users, n_pairs = _sizes(model, len(available), n_draws, budget)
    users = choose(available, n_users.used, generator)
    posterior = encode(model, user_items, users)
    codes = common_noise_codes(posterior, n_draws, generator)
    gradients = DecoderGradients(model, user_items.to_scipy()[users], codes)
    places = choose_pairs(len(users), n_pairs, generator)
    turned = torch.rand(len(places), generator=generator).numpy() < 0.5
    places[turned] = places[turned, ::-1]
    n_random = len(places)
    shared = gradients.shared.numpy()
    lengths = gradients.lengths.numpy()
    if neighbours:
        places = np.concatenate([places, _nearest(lengths, shared, places)])
    random = np.arange(len(places)) < n_random
    u, v = places.T
    found = gradients.pairs(places)
    rate = learning_rate or _small_rate(gradients, places[:N_PROBED], found.influence[:N_PROBED])
    change = gradients.changes(places, rate)
    probe = slice(0, min(N_PROBED, n_random))
    half = _second_order(
        gradients.changes(places[probe], rate / 2), found.influence[probe], rate / 2
    )
    whole = _second_order(change[probe], found.influence[probe], rate)
    bracket = w1_bracket(*(pick(_wide(posterior), side) for side in (u, v)))
    return MeasuredPairs(
        sample=n_users,
        users=users[places],
        random=random,
        input_distance=(lengths[u] + lengths[v] - 2 * shared[u, v]).astype(np.int64),
        shared=shared[u, v].astype(np.int64),
        w1_lower=bracket.lower.numpy(),
        w1_upper=bracket.upper.numpy(),
        gradients=found,
        change=change,
        learning_rate=rate,
        second_order_share=_second_order(change[:n_random], found.influence[:n_random], rate),
        halving=half / whole if whole else 0.5,
    )


def _sizes(model: VAE, n_available: int, n_draws: int, budget: Budget) -> tuple[SampleSize, int]:
    """How many users, and how many random pairs of them."""
    n_items, hidden = model.decoder.table.shape
    draws = max(1, n_draws) if model.config.variational else 1
    logits = draws * n_items
    users = budget.share(0.15).most(
        n_available,
        operations=logits * (4 * hidden + ELEMENTWISE / 4),
        memory=logits * BYTES_PER_LOGIT,
        least=LEAST_USERS,
        unit="users",
    )
    users = replace(users, used=min(users.used, MOST_USERS))
    pairs = budget.share(0.75).most(
        users.used * (users.used - 1) // 2,
        operations=logits * (2 * hidden + 4 * draws + ELEMENTWISE),
        memory=0,
        least=2 * LEAST_USERS,
        unit="pairs",
    )
    return users, pairs.used


def _nearest(lengths: np.ndarray, shared: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Each user with its nearest other by L1 distance, int64 ``[≤ N, 2]``, without ``drawn``."""
    n = len(lengths)
    distance = lengths[:, None] + lengths - 2 * shared
    np.fill_diagonal(distance, np.inf)
    pairs = np.stack([np.arange(n), distance.argmin(1)], axis=1)
    fresh = ~np.isin(pairs @ [n, 1], drawn @ [n, 1])
    nearest: np.ndarray = pairs[fresh]
    return nearest


def _small_rate(gradients: DecoderGradients, pairs: np.ndarray, influence: np.ndarray) -> float:
    """η whose second-order share, which is proportional to η, is at most ``SMALL_SHARE``.

    Starts where a step of the median user on itself lowers its loss by 0.1 %.
    """
    squares = gradients.squared_norms.median().item()
    if not squares > 0:
        raise DataError("The decoder's gradients vanish for the sampled users; is it trained?")
    rate = 1e-3 * gradients.losses.median().item() / squares
    share = _second_order(gradients.changes(pairs, rate), influence, rate)
    return rate * min(1.0, SMALL_SHARE / share) if share else rate


def _second_order(change: np.ndarray, influence: np.ndarray, rate: float) -> float:
    """Deviation from first order relative to it, both summed over pairs."""
    first = rate * influence
    total = float(np.abs(first).sum())
    return float(np.abs(change + first).sum()) / total if total else 0.0


def _wide(posterior: Posterior) -> Posterior:
    """In float64."""
    logvar = posterior.logvar
    return Posterior(posterior.mu.double(), None if logvar is None else logvar.double())
