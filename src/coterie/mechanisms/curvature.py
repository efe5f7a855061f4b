"""How strongly the objective curves in a user's code, and what Prop. 3.2 predicts from it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.data.batches import UserBatch, user_batch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import Budget, SampleSize, choose
from coterie.models.vae import VAE

N_PROBES = 4  # per user; the error is then mostly that between users
USERS_AT_ONCE = 256  # whose logits are held while the curvature is measured
LEAST_USERS = 10


class Predicted(NamedTuple):
    """What Prop. 3.2 leaves of the distance (``tau``) and of the variance (``tau2``)."""

    tau: np.ndarray
    tau2: np.ndarray


def predicted(lambda_as: Sequence[float] | np.ndarray, curvature: float) -> Predicted:
    """``τ = L/(L + 2λ_A)`` and ``τ²`` for each weight, in [0, 1]: Prop. 3.2 of arXiv 2511.06781.

    Raises
    ------
    ConfigError
        A weight is negative, or the curvature is not positive: the quadratic model needs L > 0.
    """
    weights = np.asarray(lambda_as, dtype=float)
    if not curvature > 0 or (weights < 0).any():
        raise ConfigError(
            "The quadratic model of Prop. 3.2 needs a curvature above 0 and weights of at least 0, "
            f"got {curvature} and {weights.tolist()}."
        )
    tau = curvature / (curvature + 2 * weights)
    return Predicted(tau, tau**2)


def mean_curvature(
    model: VAE,
    batch: UserBatch,
    z: Tensor,
    *,
    generator: torch.Generator,
    n_probes: int = N_PROBES,
    kl_weight: Tensor | float = 0.0,
) -> Tensor:
    """Mean eigenvalue of the Hessian of ``ℓ(x, z) − w log p(z)`` in z, per user: ``[B]``, in nats.

    ``trace/K`` by Hutchinson's estimate with random signs v: ``E vᵀ∇²ℓ v`` is the trace, and
    ``∇²ℓ v`` costs about three passes through the output layer. At codes from a user's posterior
    it is in expectation the Hessian of ``E[ℓ] + w KL`` in the posterior's mean.

    Parameters
    ----------
    model
        Only its decoder and its prior are used.
    batch
        Whole histories of B users: the targets.
    z
        Codes ``[B, K]``.
    generator
        On the CPU; draws the probes.
    kl_weight
        w, of each user ``[B]`` or of all; ``N(0, 1)`` adds exactly w.
    """
    table, bias = model.decoder.table.detach(), model.decoder.bias.detach()
    batch = batch.to(table.device)
    sums = F.embedding_bag(batch.indices, table, batch.indptr[:-1], mode="sum")
    z = z.detach().to(table.device).requires_grad_()
    with torch.enable_grad():
        hidden = model.decoder.hidden(z)
        nll = batch.lengths * torch.logsumexp(F.linear(hidden, table, bias), 1)
        nll = nll - (hidden * sums).sum(1)  # biases add a constant
        if model.prior is not None:
            nll = nll - torch.as_tensor(kl_weight, device=table.device) * model.log_prior(z, batch)
        (gradient,) = torch.autograd.grad(nll.sum(), z, create_graph=True)
        traces = torch.zeros(len(z), device=table.device)
        for _ in range(n_probes):
            signs = torch.randint(0, 2, z.shape, generator=generator).to(z) * 2 - 1
            (product,) = torch.autograd.grad(gradient, z, signs, retain_graph=True)
            traces += (signs * product).sum(1)
    return traces.detach().cpu() / (n_probes * z.shape[1])


def curvatures(
    model: VAE,
    user_items: Interactions,
    available: np.ndarray,
    keep_probability: float,
    *,
    beta: float,
    gamma: float,
    generator: torch.Generator,
    budget: Budget,
) -> tuple[np.ndarray, SampleSize]:
    """Mean eigenvalues as of :func:`mean_curvature` for some users, at codes of masked input.

    The KL term's weight is ``beta + gamma n`` for a user with n items.
    """
    n_items, width = model.decoder.table.shape
    sample = budget.most(
        len(available),
        operations=2 * n_items * width * (2 + 3 * N_PROBES),
        memory=24 * n_items,
        least=LEAST_USERS,
        unit="users",
    )
    users = choose(available, sample.used, generator)
    posterior = encode(
        model, user_items, users, keep_probability=keep_probability, generator=generator
    )
    z, lengths = posterior.sample(generator), torch.from_numpy(user_items.history_lengths[users])
    at_once = min(USERS_AT_ONCE, max(1, int(budget.memory // (24 * n_items))))
    found = []
    for start in range(0, len(users), at_once):
        block = slice(start, start + at_once)
        batch, weight = user_batch(user_items, users[block]), beta + gamma * lengths[block]
        found.append(mean_curvature(model, batch, z[block], generator=generator, kl_weight=weight))
    return torch.cat(found).double().numpy(), sample
