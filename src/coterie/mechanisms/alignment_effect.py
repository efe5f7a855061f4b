"""What Personalized Item Alignment did to the codes, beside what its theory predicts.

Source: arXiv 2511.06781, Propositions 3.1 (the penalty is a pull towards the centroid of the
history's anchors and of the variance towards 0) and 3.2 (under a quadratic model with curvature L
the pull leaves ``τ = L/(L + 2λ_A)`` of the distance and ``τ²`` of the variance across masks).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.mechanisms.centroids import fitted_anchors, shares_of
from coterie.mechanisms.curvature import LEAST_USERS, Predicted, curvatures, predicted
from coterie.mechanisms.encoding import across_masks
from coterie.mechanisms.measurement import (
    Budget,
    Measurement,
    SampleSize,
    choose,
    of_model,
    with_histories,
)
from coterie.mechanisms.numbers import number, uncertain
from coterie.mechanisms.style import BLACK, BLUE, VERMILION, new_figure
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ON_MOVIELENS = "on MovieLens-1M that model foretold the direction, not the size"


@dataclass(frozen=True, eq=False)
class AlignmentEffect(Measurement):
    """Distances of users' codes from their centroids, and how far masks move the codes.

    Parameters
    ----------
    sample
        Users.
    lambda_a, beta, gamma
        What the model was trained with; λ_A is the weight of the pull of the mean.
    keep_probability
        ρ of the masks drawn here.
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
        "variance across masks; L is the mean eigenvalue of the Hessian of E[ℓ] + β KL in μ (with "
        "γ n in β's place in RecVAE), by Hutchinson's estimate at codes drawn from the posteriors "
        "of masked histories."
    )

    headline: ClassVar[tuple[str, ...]] = (
        "distance",
        "distance_relative",
        "mask_variance",
        "mask_variance_relative",
        "spread",
        "curvature",
        "tau",
        "tau2",
    )
    labels: ClassVar[Mapping[str, str]] = {"tau": "predicted_tau", "tau2": "predicted_tau2"}
    sample: SampleSize
    lambda_a: float
    beta: float
    gamma: float
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
            "distance_se": _standard_error(self.distance),
            "distance_relative": self._relative(float(self.distance.mean()), 1),
            "mask_variance": float(self.mask_variance.mean()),
            "mask_variance_se": _standard_error(self.mask_variance),
            "mask_variance_relative": self._relative(float(self.mask_variance.mean()), 2),
            "posterior_variance": float(self.posterior_variance.mean()),
            "posterior_variance_se": _standard_error(self.posterior_variance),
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
                "distance_learnt_se": _standard_error(self.distance_learnt),
            }
        return found

    def _relative(self, value: float, power: int) -> float:
        return value / self.spread**power if self.spread > 0 else 0.0

    def sentence(self) -> str:
        """Distance, variance across masks, and what Prop. 3.2 says of both."""
        found = self.figures()
        text = (
            f"In this sample a user's code lies "
            f"{uncertain(found['distance'], found['distance_se'])} from the centroid of its items' "
            f"fitted anchors, {number(found['distance_relative'], 2)} of the spread between users; "
            "masks move it with a variance of "
            f"{uncertain(found['mask_variance'], found['mask_variance_se'])}, "
            f"{number(found['mask_variance_relative'], 2)} of the variance between users."
        )
        if self.curvature <= 0:
            return text
        curvature = f"the mean curvature of {uncertain(self.curvature, self.curvature_se)} nats"
        if self.lambda_a == 0:
            return (
                f"{text} Training did not align the codes' means. With {curvature}, a quadratic "
                f"model predicts that λ_A = {number(self.curvature / 2, 3)} halves the distance; "
                f"{ON_MOVIELENS}."
            )
        return (
            f"{text} With {curvature}, by a quadratic model λ_A = {self.lambda_a:g} is predicted "
            f"to leave {number(found['tau'], 2)} of the distance and {number(found['tau2'], 2)} of "
            f"the variance across masks; {ON_MOVIELENS}."
        )

    def hidden(self) -> frozenset[str]:
        """τ and τ² of an unaligned model, which are 1 and predict nothing."""
        return frozenset({"tau", "tau2"}) if self.lambda_a == 0 else frozenset()

    def beside(self, plain: "AlignmentEffect", name: str) -> str:
        """What is left of an unaligned model's distance and variance, beside τ and τ².

        Parameters
        ----------
        plain
            Of a model without alignment that was trained alike.
        name
            What to call it.
        """
        left = {}
        for figure in ("distance", "mask_variance"):
            own, other = (
                (of[figure], of[f"{figure}_se"]) for of in (self.figures(), plain.figures())
            )
            if not other[0] > 0:
                return f"Codes of {name} do not vary, so that nothing of it can be left."
            ratio = own[0] / other[0]
            error = np.hypot(own[1] / other[0], ratio * other[1] / other[0])
            left[figure] = uncertain(ratio, float(error))
        text = (
            f"Of the distance of {name}, which was trained alike without alignment, "
            f"{left['distance']} is left, and {left['mask_variance']} of its variance across masks"
        )
        if plain.curvature <= 0:
            return f"{text}."
        tau, tau2 = (float(of[0]) for of in predicted([self.lambda_a], plain.curvature))
        return (
            f"{text}; by a quadratic model, from that model's curvature, τ = {number(tau, 2)} and "
            f"τ² = {number(tau2, 2)} were predicted."
        )

    def warnings(self) -> list[str]:
        """A curvature that Prop. 3.2 has no prediction for."""
        if self.curvature > 0:
            return []
        return [
            f"The mean curvature is {number(self.curvature, 3)}, not above 0: the quadratic model "
            "of Prop. 3.2 predicts nothing here."
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
                self._relative(1, 2) * self.mask_variance,
                VERMILION,
                "variance across masks\n/ variance between users",
            ),
        )
        axes[0].set_title("Distance from the centroid")
        axes[1].set_title("Movement under masks")
        for axis, (values, color, label) in zip(axes, shown, strict=True):
            dots: Any = {"alpha": 0.25, "linewidths": 0, "rasterized": True}  # thousands of them
            axis.scatter(self.lengths, values, 10, color=color, **dots)
            axis.axhline(values.mean(), color=BLACK, label=f"mean {number(values.mean(), 2)}")
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.set_xlabel("history length (items)")
            axis.set_ylabel(label)
            axis.set_ylim(0, 1.25 * max(float(values.max()), 1e-9))
            axis.legend(loc="upper right")
        return figure


@of_model
def alignment_effect(
    model: VAE,
    user_items: Interactions,
    *,
    lambda_a: float,
    anchors: Tensor | None = None,
    keep_probability: float = 0.5,
    beta: float = 0.2,
    gamma: float = 0.0,
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
        The λ_A that the model was trained with; 0 without alignment, or if that only shrank the
        variance.
    anchors
        Learnt anchors ``[I, K]``, if the model kept them (``Recommender.anchors``) and was pulled
        to their even mean over a history: not if it had weights, or several centroids per user.
    keep_probability
        ρ of the masks, in (0, 1].
    beta, gamma
        The weight ``β + γn`` of the KL term in training, β at its cap and n the user's items: it
        is part of the curvature.
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
    _check(model, lambda_a, anchors, keep_probability, beta, gamma, n_masks)
    available, half = with_histories(user_items), budget.share(0.5)
    sample = _sample_size(model, user_items, half, len(available), n_masks)
    users = choose(available, sample.used, generator)
    codes = across_masks(
        model,
        user_items,
        users,
        keep_probability=keep_probability,
        generator=generator,
        n_masks=n_masks,
    )
    chosen = user_items.rows(users)
    shares, table = shares_of(chosen), fitted_anchors(chosen, codes.mean)
    centroid, squares = shares @ table, shares @ np.square(table).sum(1)
    curved, curvature_sample = curvatures(
        model,
        user_items,
        available,
        keep_probability,
        beta=beta,
        gamma=gamma,
        generator=generator,
        budget=half,
    )
    noise = codes.variance / n_masks  # what the mean over so few masks adds to a squared distance
    learnt = None
    if anchors is not None:
        learnt = _distance(codes.mean, shares @ anchors.detach().double().cpu().numpy(), noise)
    between = float(codes.mean.var(0).sum()) - float(noise.mean())
    return AlignmentEffect(
        sample,
        lambda_a,
        beta,
        gamma,
        keep_probability,
        user_ids=np.asarray(chosen.user_ids.ids),
        lengths=chosen.history_lengths,
        distance=_distance(codes.mean, centroid, noise),
        distance_learnt=learnt,
        mask_variance=codes.variance,
        posterior_variance=codes.posterior_variance,
        anchor_spread=float((squares - np.square(centroid).sum(1)).mean()),
        spread=max(between, 0.0) ** 0.5,
        curvature=float(curved.mean()),
        curvature_se=_standard_error(curved),
        curvature_sample=curvature_sample,
    )


def _check(
    model: VAE,
    lambda_a: float,
    anchors: Tensor | None,
    keep_probability: float,
    beta: float,
    gamma: float,
    n_masks: int,
) -> None:
    if not (0 < keep_probability <= 1 and n_masks >= 2 and min(lambda_a, beta, gamma) >= 0):
        raise ConfigError(
            "The effect of alignment needs a keep_probability in (0, 1], at least 2 masks, and "
            f"lambda_a, beta and gamma of at least 0; got {keep_probability}, {n_masks}, "
            f"{lambda_a}, {beta} and {gamma}."
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


def _distance(mean: Tensor, centroid: np.ndarray, noise: np.ndarray) -> np.ndarray:
    squares = (mean - torch.from_numpy(centroid)).square().sum(1).numpy()
    distance: np.ndarray = np.sqrt(np.maximum(squares - noise, 0))
    return distance


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)
