"""What Personalized Item Alignment did to the codes, beside what its theory predicts.

Source: arXiv 2511.06781, Propositions 3.1 (the penalty is a pull towards the centroid of the
history's anchors and of the variance towards 0) and 3.2 (under a quadratic model with curvature L
the pull leaves ``τ = L/(L + 2λ_A)`` of the distance and ``τ²`` of the variance across masks).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.data.batches import UserBatch, user_batch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import Budget, Measurement, SampleSize, choose, with_histories
from coterie.mechanisms.style import BLACK, BLUE, VERMILION, new_figure
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_USERS = 10
N_PROBES = 4  # per user; the error is then mostly that between users
USERS_AT_ONCE = 256  # whose logits are held while the curvature is measured


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


def fitted_anchors(user_items: Interactions, means: Tensor) -> np.ndarray:
    """The anchors ``[I, K]`` that minimise ``L_A`` for codes that stay: our derivation.

    ``e_i = Σ_{u∋i} μ_u/n_u  /  Σ_{u∋i} 1/n_u``, from the zero of the gradient of the mean over
    users of ``(1/n_u) Σ_{i∈S_u} ‖μ_u − e_i‖²``; with several masks ``μ_u`` is their mean. They
    exist for every model, also for one trained without alignment, so models compare. Zero for
    items that nobody has. O(nnz · K).

    Parameters
    ----------
    user_items
        Whole histories ``[U, I]``.
    means
        ``[U, K]``, row by row the codes of those users.
    """
    shares = _shares(user_items)
    weights = np.asarray(shares.sum(0))
    sums: np.ndarray = shares.T @ means.double().numpy()
    return sums / np.where(weights > 0, weights, 1)[:, None]


def mean_curvature(
    model: VAE, batch: UserBatch, z: Tensor, *, generator: torch.Generator, n_probes: int = N_PROBES
) -> Tensor:
    """Mean eigenvalue of the Hessian of ``ℓ(x, z)`` in z, per user: ``[B]``, in nats.

    ``trace/K`` by Hutchinson's estimate with random signs v: ``E vᵀ∇²ℓ v`` is the trace, and
    ``∇²ℓ v`` costs about three passes through the output layer.

    Parameters
    ----------
    model
        Only its decoder is used.
    batch
        Whole histories of B users: the targets.
    z
        Codes ``[B, K]``.
    generator
        On the CPU; draws the probes.
    """
    table, bias = model.decoder.table.detach(), model.decoder.bias.detach()
    batch = batch.to(table.device)
    sums = F.embedding_bag(batch.indices, table, batch.indptr[:-1], mode="sum")
    z = z.detach().to(table.device).requires_grad_()
    with torch.enable_grad():
        hidden = model.decoder.hidden(z)
        nll = batch.lengths * torch.logsumexp(F.linear(hidden, table, bias), 1)
        nll = nll - (hidden * sums).sum(1)  # biases add a constant
        (gradient,) = torch.autograd.grad(nll.sum(), z, create_graph=True)
        traces = torch.zeros(len(z), device=table.device)
        for _ in range(n_probes):
            signs = torch.randint(0, 2, z.shape, generator=generator).to(z) * 2 - 1
            (product,) = torch.autograd.grad(gradient, z, signs, retain_graph=True)
            traces += (signs * product).sum(1)
    return traces.detach().cpu() / (n_probes * z.shape[1])


@dataclass(frozen=True, eq=False)
class AlignmentEffect(Measurement):
    """Distances of users' codes from their centroids, and how far masks move the codes.

    Parameters
    ----------
    sample
        Users.
    lambda_a, beta, keep_probability
        What the model was trained with.
    user_ids, lengths
        External ids and history lengths ``[N]``.
    distance
        float64 ``[N]``: ``‖E_b μ − ē‖`` to the centroid of the fitted anchors, with what the
        finite number of masks adds taken off.
    distance_learnt
        The same to the centroid of the anchors learnt in training, or None.
    mask_variance
        float64 ``[N]``: ``tr Var_b[μ(x ⊙ b)]``.
    posterior_variance
        float64 ``[N]``: ``tr Σ``, mean over masks; 0 for point codes.
    anchor_spread
        Mean over users of ``(1/n) Σ ‖e_i‖² − ‖ē‖²`` of the fitted anchors.
    spread
        Root mean square distance of the users' codes from their common mean.
    curvature, curvature_se, curvature_sample
        Mean eigenvalue in μ of the objective without alignment, its standard error over users, and
        how many users it took.
    """

    name: ClassVar[str] = "alignment_effect"
    title: ClassVar[str] = "Effect of alignment"
    meaning: ClassVar[str] = (
        "Alignment pulls each code towards the centroid of the anchors of the user's items. Codes "
        "that lie nearer to their centroid and move less from mask to mask are what it promises. "
        "A smaller latent space shrinks all distances, so read them relative to the spread between "
        "users. The prediction takes one mean curvature for all directions: flat directions shrink "
        "more than it says, steep ones less."
    )
    method: ClassVar[str] = (
        "Prop. 3.1 of arXiv 2511.06781 gives the penalty ‖μ − ē‖² + tr Σ + spread of the anchors; "
        "fitted anchors minimise it for the codes as they are (our derivation), from the sampled "
        "users themselves. Prop. 3.2 predicts τ = L/(L + 2λ_A) of the distance and τ² of the "
        "variance across masks; L is the mean eigenvalue of the Hessian of E[ℓ] + β KL in μ, by "
        "Hutchinson's estimate at codes drawn from the posteriors of masked histories."
    )

    sample: SampleSize
    lambda_a: float
    beta: float
    keep_probability: float
    user_ids: np.ndarray
    lengths: np.ndarray
    distance: np.ndarray
    distance_learnt: np.ndarray | None
    mask_variance: np.ndarray
    posterior_variance: np.ndarray
    anchor_spread: float
    spread: float
    curvature: float
    curvature_se: float
    curvature_sample: SampleSize

    @property
    def prediction(self) -> Predicted:
        """τ and τ² at this model's λ_A and curvature; NaN if the mean curvature is not above 0."""
        if self.curvature <= 0:
            return Predicted(np.full(1, np.nan), np.full(1, np.nan))
        return predicted([self.lambda_a], self.curvature)

    def figures(self) -> dict[str, float]:
        """Means over users; ``tau`` and ``tau2`` only where the mean curvature is above 0.

        ``distance_learnt`` is there only for a model that kept its anchors.
        """
        found = {
            "lambda_a": self.lambda_a,
            "distance": float(self.distance.mean()),
            "distance_se": _error(self.distance),
            "distance_relative": self._relative(float(self.distance.mean()), 1),
            "mask_variance": float(self.mask_variance.mean()),
            "mask_variance_se": _error(self.mask_variance),
            "mask_variance_relative": self._relative(float(self.mask_variance.mean()), 2),
            "posterior_variance": float(self.posterior_variance.mean()),
            "posterior_variance_se": _error(self.posterior_variance),
            "anchor_spread": self.anchor_spread,
            "spread": self.spread,
            "curvature": self.curvature,
            "curvature_se": self.curvature_se,
        }
        if self.curvature > 0:
            found |= {"tau": float(self.prediction.tau[0]), "tau2": float(self.prediction.tau2[0])}
        if self.distance_learnt is not None:
            found |= {
                "distance_learnt": float(self.distance_learnt.mean()),
                "distance_learnt_se": _error(self.distance_learnt),
            }
        return found

    def _relative(self, value: float, power: int) -> float:
        return value / self.spread**power if self.spread > 0 else 0.0

    def sentence(self) -> str:
        """Distance, variance across masks, and what Prop. 3.2 says of both."""
        found = self.figures()
        text = (
            f"In this sample a user's code lies {found['distance']:.2f} ± "
            f"{found['distance_se']:.2f} from the centroid of its items' fitted anchors, "
            f"{found['distance_relative']:.2f} of the spread between users; masks move it with a "
            f"variance of {found['mask_variance']:.3g}, {found['mask_variance_relative']:.2f} of "
            "the variance between users."
        )
        if self.curvature <= 0:
            return text
        curvature = f"the mean curvature of {self.curvature:.2f} ± {self.curvature_se:.2f} nats"
        if self.lambda_a == 0:
            return (
                f"{text} The model was trained without alignment; with {curvature}, λ_A = "
                f"{self.curvature / 2:.2f} would be predicted to halve the distance."
            )
        return (
            f"{text} With {curvature}, λ_A = {self.lambda_a:g} is predicted to leave "
            f"{found['tau']:.2f} of the distance and {found['tau2']:.2f} of the variance across "
            "masks; models trained with and without alignment show whether it does."
        )

    def warnings(self) -> list[str]:
        """A curvature that Prop. 3.2 has no prediction for."""
        if self.curvature > 0:
            return []
        return [
            f"The mean curvature is {self.curvature:.3g}, not above 0: the quadratic model of "
            "Prop. 3.2 predicts nothing here."
        ]

    def to_frame(self) -> pl.DataFrame:
        """One row per user."""
        columns = {
            "user_id": self.user_ids,
            "history_length": self.lengths,
            "distance": self.distance,
            "mask_variance": self.mask_variance,
            "posterior_variance": self.posterior_variance,
        }
        if self.distance_learnt is not None:
            columns["distance_learnt"] = self.distance_learnt
        return pl.DataFrame(columns)

    def plot(self) -> "Figure":
        """Distance and movement under masks by history length, both relative to the users'."""
        figure, axes = new_figure(2)
        shown = (
            (self._relative(1, 1) * self.distance, BLUE, "distance to centroid\n/ spread of users"),
            (
                self._relative(1, 1) * np.sqrt(self.mask_variance),
                VERMILION,
                "movement under masks\n/ spread of users",
            ),
        )
        for axis, (values, color, label) in zip(axes, shown, strict=True):
            axis.scatter(self.lengths, values, 10, color=color, alpha=0.25, linewidths=0)
            axis.axhline(values.mean(), color=BLACK, label=f"mean {values.mean():.2f}")
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.set_xlabel("history length (items)")
            axis.set_ylabel(label)
            axis.set_ylim(0, 1.25 * max(float(values.max()), 1e-9))
            axis.legend(loc="upper right")
        return figure


def alignment_effect(
    model: VAE,
    user_items: Interactions,
    *,
    lambda_a: float,
    anchors: Tensor | None = None,
    keep_probability: float = 0.5,
    beta: float = 0.2,
    generator: torch.Generator,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    n_masks: int = 5,
) -> AlignmentEffect:
    """Measure distances to centroids, variance across masks, and the curvature.

    Parameters
    ----------
    model
        Any VAE; a Multi-DAE's codes are points, and its objective has no β term.
    user_items
        Histories over the model's items; users without any are left out.
    lambda_a
        The λ_A that the model was trained with; 0 without alignment.
    anchors
        Learnt anchors ``[I, K]``, if the model kept them (``Recommender.anchors``).
    keep_probability
        ρ of the masks, in (0, 1].
    beta
        The cap of β in training: it is part of the curvature.
    generator
        Chooses users, masks, codes and probes.
    budget
        Half of the time is for the codes, half for the curvature, which takes fewer users.
    n_masks
        Masks per user, at least 2.

    Raises
    ------
    ConfigError
        A setting is out of range, or the anchors are not the model's.
    DataError
        Fewer than ten users with a history.
    """
    _check(model, lambda_a, anchors, keep_probability, beta, n_masks)
    available, half = with_histories(user_items), budget.share(0.5)
    sample = _sample_size(model, user_items, half, len(available), n_masks)
    users = choose(available, sample.used, generator)
    mean, mask_variance, posterior_variance = _across_masks(
        model, user_items, users, keep_probability, generator, n_masks
    )
    chosen = user_items.rows(users)
    shares, table = _shares(chosen), fitted_anchors(chosen, mean)
    centroid, squares = shares @ table, shares @ np.square(table).sum(1)
    curvatures, curvature_sample = _curvatures(
        model, user_items, available, keep_probability, generator, half
    )
    if model.config.variational:
        curvatures = curvatures + beta  # the Hessian of β · ½‖μ‖²
    noise = mask_variance / n_masks  # what the mean over so few masks adds to a squared distance
    learnt = None
    if anchors is not None:
        learnt = _distance(mean, shares @ anchors.detach().double().cpu().numpy(), noise)
    between = float(mean.var(0).sum()) - float(noise.mean())
    return AlignmentEffect(
        sample,
        lambda_a,
        beta,
        keep_probability,
        user_ids=np.asarray(chosen.user_ids.ids),
        lengths=chosen.history_lengths,
        distance=_distance(mean, centroid, noise),
        distance_learnt=learnt,
        mask_variance=mask_variance,
        posterior_variance=posterior_variance,
        anchor_spread=float((squares - np.square(centroid).sum(1)).mean()),
        spread=max(between, 0.0) ** 0.5,
        curvature=float(curvatures.mean()),
        curvature_se=_error(curvatures),
        curvature_sample=curvature_sample,
    )


def _check(
    model: VAE,
    lambda_a: float,
    anchors: Tensor | None,
    keep_probability: float,
    beta: float,
    n_masks: int,
) -> None:
    if not (0 < keep_probability <= 1 and n_masks >= 2 and lambda_a >= 0 and beta >= 0):
        raise ConfigError(
            "The effect of alignment needs a keep_probability in (0, 1], at least 2 masks, and "
            f"lambda_a and beta of at least 0; got {keep_probability}, {n_masks}, {lambda_a} and "
            f"{beta}."
        )
    expected = (model.n_items, model.config.latent_dim)
    if anchors is not None and tuple(anchors.shape) != expected:
        raise ConfigError(
            f"The anchors must be those of the model, of shape {expected}; got "
            f"{tuple(anchors.shape)}."
        )


def _sample_size(
    model: VAE, user_items: Interactions, budget: Budget, available: int, n_masks: int
) -> SampleSize:
    latent_dim, width = model.config.latent_dim, model.decoder.table.shape[1]
    history = user_items.nnz / max(available, 1)
    per_mask = 2 * width * (history + 2 * latent_dim) + 10 * history * latent_dim
    return budget.most(
        available,
        operations=n_masks * per_mask,
        memory=80 * latent_dim,
        least=LEAST_USERS,
        unit="users",
    )


def _across_masks(
    model: VAE,
    user_items: Interactions,
    users: np.ndarray,
    keep_probability: float,
    generator: torch.Generator,
    n_masks: int,
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Mean code ``[N, K]``, ``tr Var_b[μ]`` ``[N]`` and mean ``tr Σ`` ``[N]``, in float64."""
    mean = torch.zeros(len(users), model.config.latent_dim, dtype=torch.float64)
    squares, trace = torch.zeros(2, len(users), dtype=torch.float64)
    for drawn in range(1, n_masks + 1):  # Welford: no cancellation, one code per user in memory
        posterior = encode(
            model, user_items, users, keep_probability=keep_probability, generator=generator
        )
        step = posterior.mu.double() - mean
        mean += step / drawn
        squares += (step * (posterior.mu.double() - mean)).sum(1)
        if posterior.logvar is not None:
            trace += posterior.logvar.double().exp().sum(1) / n_masks
    return mean, (squares / (n_masks - 1)).numpy(), trace.numpy()


def _curvatures(
    model: VAE,
    user_items: Interactions,
    available: np.ndarray,
    keep_probability: float,
    generator: torch.Generator,
    budget: Budget,
) -> tuple[np.ndarray, SampleSize]:
    """Mean eigenvalue of the Hessian of ``ℓ`` in z for some users, at codes of masked input."""
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
    z = posterior.sample(generator)
    at_once = min(USERS_AT_ONCE, max(1, int(budget.memory // (24 * n_items))))
    found = [
        mean_curvature(
            model,
            user_batch(user_items, users[start : start + at_once]),
            z[start : start + at_once],
            generator=generator,
        )
        for start in range(0, len(users), at_once)
    ]
    return torch.cat(found).double().numpy(), sample


def _shares(user_items: Interactions) -> sp.csr_array:
    """``1/n_u`` for each of a user's items: a row times anchors is their centroid."""
    lengths = user_items.history_lengths
    return sp.csr_array(
        (1 / np.repeat(lengths, lengths), user_items.indices, user_items.indptr),
        shape=(user_items.n_users, user_items.n_items),
    )


def _distance(mean: Tensor, centroid: np.ndarray, noise: np.ndarray) -> np.ndarray:
    squares = (mean - torch.from_numpy(centroid)).square().sum(1).numpy()
    distance: np.ndarray = np.sqrt(np.maximum(squares - noise, 0))
    return distance


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def plot_by_lambda(results: Sequence[AlignmentEffect]) -> "Figure":
    """Distance and variance across masks against λ_A, relative to λ_A = 0, beside τ and τ².

    The line takes the curvature of the model trained without alignment; the crosses take each
    model's own, because decoder and curvature change when the codes move together.

    Raises
    ------
    ConfigError
        Not exactly one of the results has λ_A = 0, or there is no other.
    """
    plain = [result for result in results if result.lambda_a == 0]
    if len(plain) != 1 or len(results) < 2:
        raise ConfigError(
            "A comparison by λ_A needs exactly one result with lambda_a = 0 and at least one "
            f"other, got the weights {[result.lambda_a for result in results]}."
        )
    results = sorted(results, key=lambda result: result.lambda_a)
    weights = np.array([result.lambda_a for result in results])
    line = np.linspace(0, weights[1], 100)
    line = np.concatenate([line, np.geomspace(weights[1], weights[-1], 100)])
    figure, axes = new_figure(2, height=4.2)
    panels = (("distance", "distance to centroid"), ("mask_variance", "variance across masks"))
    for at, (axis, (key, label)) in enumerate(zip(axes, panels, strict=True)):
        symbol = ("τ", "τ²")[at]
        if plain[0].curvature > 0:
            theory = predicted(line, plain[0].curvature)[at]
            axis.plot(line, theory, "--", color=BLACK, label=f"predicted {symbol}, L at λ_A = 0")
        own = [result.prediction[at][0] for result in results]
        axis.plot(weights, own, "x", color=BLACK, label=f"predicted {symbol}, each model's L")
        for suffix, marker, color, name in (
            ("", "o-", BLUE, "measured"),
            ("_relative", "s-", VERMILION, "measured, relative to users' spread"),
        ):
            base = plain[0].figures()[key + suffix]
            if base > 0:  # nothing varies across masks that keep everything
                ratios = [result.figures()[key + suffix] / base for result in results]
                axis.plot(weights, ratios, marker, color=color, label=name)
        axis.set_xscale("symlog", linthresh=weights[1])
        axis.set_xticks(weights, [f"{weight:g}" for weight in weights])
        axis.minorticks_off()
        axis.set_xlabel("weight of the alignment, λ_A")
        axis.set_ylabel(f"{label}\n/ that at λ_A = 0")
        axis.set_ylim(0, 1.6 * max(1.0, float(axis.dataLim.y1)))
        axis.legend(loc="upper right")
    return figure
