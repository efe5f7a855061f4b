"""A user among a community: near users, and what is measured of them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch

from coterie.data.batches import UserBatch, user_batch
from coterie.data.interactions import Interactions
from coterie.errors import DataError
from coterie.mechanisms.distances import pick, w2
from coterie.mechanisms.encoding import USERS_AT_ONCE, encode
from coterie.mechanisms.gradients import DecoderGradients, common_noise_codes
from coterie.mechanisms.measurement import Budget, SampleSize, choose, with_histories
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE


@dataclass(frozen=True, eq=False)
class Nearby:
    """One user, and a community to find near users in.

    Parameters
    ----------
    history
        The user's items, int64 ``[n]``, ascending.
    own
        The user's posterior, ``[1, K]``.
    sample
        Users searched, of those with a history.
    users, posterior, n_shared
        Their rows ``[N]``, posteriors ``[N, K]``, and items in common with the user ``[N]``.
    """

    history: np.ndarray
    own: Posterior
    sample: SampleSize
    users: np.ndarray
    posterior: Posterior
    n_shared: np.ndarray

    @cached_property
    def distance(self) -> np.ndarray:
        """W2 to the user, ``[N]``."""
        own = pick(self.own, np.zeros(len(self.users), dtype=np.int64))
        return w2(self.posterior, own).double().numpy()

    def posterior_of(self, places: np.ndarray) -> Posterior:
        """Posteriors of some of the users, ``[len(places), K]``."""
        return pick(self.posterior, places)

    def nearest(self, size: int) -> np.ndarray:
        """Places (0 … N − 1) of the ``size`` nearest, by distance and by shared items in turn."""
        order = np.lexsort((self.distance, -self.n_shared))
        by_distance, by_items = (np.empty(len(order), np.int64) for _ in range(2))
        by_distance[np.argsort(self.distance, kind="stable")] = np.arange(len(order))
        by_items[order] = np.arange(len(order))
        best = np.lexsort((self.distance, np.minimum(by_distance, by_items)))
        return best[:size]


def survey(
    model: VAE,
    user_items: Interactions,
    history: np.ndarray,
    *,
    user: int | None = None,
    generator: torch.Generator,
    budget: Budget,
) -> Nearby:
    """Encode as much of the community as the budget allows; ``user`` is left out of it."""
    history = checked_history(history, model.n_items)
    community = with_histories(user_items)
    community = community[community != user] if user is not None else community
    width = model.encoder.table.shape[1]
    dense = sum(w.numel() for w in model.encoder.parameters() if w.shape[0] != model.n_items)
    length = user_items.nnz / max(len(community), 1)
    sample = budget.most(
        len(community),
        operations=2 * (length * width + dense),
        memory=4 * 4 * model.config.latent_dim,
        least=1,
        unit="users",
    )
    users = choose(community, sample.used, generator)
    has = np.zeros(model.n_items, dtype=bool)
    has[history] = True
    shared = []
    for start in range(0, len(users), USERS_AT_ONCE):
        batch = user_batch(user_items, users[start : start + USERS_AT_ONCE])
        counts = np.concatenate([[0], np.cumsum(has[batch.indices.numpy()])])
        shared.append(np.diff(counts[batch.indptr.numpy()]))
    with torch.no_grad():
        own = model.encode(UserBatch.of([history], model.n_items).to(model.decoder.table.device))
    spread = None if own.logvar is None else own.logvar.float().cpu()
    return Nearby(
        history,
        Posterior(own.mu.float().cpu(), spread),
        sample,
        users,
        encode(model, user_items, users),
        np.concatenate(shared),
    )


def near_gradients(
    model: VAE,
    user_items: Interactions,
    nearby: Nearby,
    targets: list[np.ndarray],
    chosen: np.ndarray,
    *,
    n_draws: int,
    generator: torch.Generator,
) -> DecoderGradients:
    """Gradients of the target histories at the user's own codes, then of near users at theirs.

    Parameters
    ----------
    targets
        Items of each, int64; ``t`` of them.
    chosen
        Places among ``nearby.users``, ``[N]``; their rows follow, ``t … t + N − 1``.
    n_draws
        S: codes per user, the same noise for all.
    """
    near = user_items.rows(nearby.users[chosen])
    lengths = [*map(len, targets), *near.history_lengths]
    histories = sp.csr_array(
        (
            np.ones(sum(lengths)),
            np.concatenate([*targets, near.indices]),
            np.concatenate([[0], np.cumsum(lengths)]),
        ),
        shape=(len(lengths), model.n_items),
    )
    posterior = joined([*[nearby.own] * len(targets), nearby.posterior_of(chosen)])
    return DecoderGradients(model, histories, common_noise_codes(posterior, n_draws, generator))


def joined(posteriors: list[Posterior]) -> Posterior:
    """One below the other."""
    logvars = [posterior.logvar for posterior in posteriors if posterior.logvar is not None]
    mu = torch.cat([posterior.mu for posterior in posteriors])
    return Posterior(mu, torch.cat(logvars) if logvars else None)


def affordable(model: VAE, available: int, n_draws: int, budget: Budget) -> int:
    """Users whose gradients at S codes the budget allows, at most ``available``."""
    n_items, width = model.decoder.table.shape
    size = budget.most(
        available,
        operations=4.0 * n_draws * n_items * (width + 4 * n_draws),
        memory=24.0 * n_draws * n_items,
        least=1,
        unit="near users",
    )
    return size.used


def checked_history(history: np.ndarray, n_items: int) -> np.ndarray:
    """Distinct item indices, int64 ascending; :class:`DataError` if there are none, or wrong."""
    items = np.unique(np.asarray(history))
    if len(items) == 0:
        raise DataError(
            "The history holds no item that the model knows, so there is nothing to explain."
        )
    if items.dtype.kind not in "iu" or items[0] < 0 or items[-1] >= n_items:
        raise DataError(
            f"A history holds item indices 0 … {n_items - 1}, got {items[0]} … {items[-1]} "
            f"({items.dtype})."
        )
    return items.astype(np.int64)
