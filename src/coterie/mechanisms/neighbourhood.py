"""Who helps one user: near users, whether inside the sharing radius, by how much, through what.

Letters: ``N`` candidates, ``S`` draws of z, ``I`` items, ``H`` hidden units, ``K`` latent.
Gradients of the decoder are sums of outer products, so only their two factors are held.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.mechanisms.gradients import DecoderGradients, jackknife
from coterie.mechanisms.measurement import Budget, Measurement, SampleSize, of_model
from coterie.mechanisms.nearby import Nearby, affordable, near_gradients, survey
from coterie.mechanisms.numbers import percent
from coterie.mechanisms.style import BLACK, BLUE, GREEN, ORANGE, new_figure
from coterie.mechanisms.titles import item_names, shortened
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CANDIDATES = 200
CARRIERS = 3  # shared items named per neighbour
KINDS = {"inside radius": GREEN, "certified": BLUE, "outside radius": ORANGE}


@dataclass(frozen=True, eq=False)
class Neighbourhood(Measurement):
    """One user's candidates for help, most helpful first; all arrays ``[N]`` unless said.

    Parameters
    ----------
    sample
        Users searched for near ones, of the community's users with a history.
    n_history
        Items in the user's own history.
    users, user_ids
        Internal rows (int64) and external ids of the candidates.
    w1_low, w1, w1_high
        Wasserstein-1 distance of the posteriors: ``‖μ_u − μ_v‖``, the cost of the coupling by
        common noise (an upper estimate), and W2.
    latent_mismatch, content_mismatch
        ``‖E_{q_u}∇ℓ(x_u,z) − E_{q_v}∇ℓ(x_u,z)‖`` and Δ_x, as shares of ``‖g_u‖``.
    radius
        r_share, in the unit of z; 0 where the content mismatch exceeds ``‖g_u‖``.
    inside
        ``w1 < radius``: the sufficient condition of Theorem 2.3, with the local estimate of L_θz.
    certified
        The mismatches themselves sum to less than ``‖g_u‖``: sufficient too, and less strict.
    help, help_se
        ``⟨g_u, g_v⟩ / ‖g_u‖²`` and its jackknife standard error over the draws: 0.3 means that a
        step on v lowers u's loss by 30 % of what a step on u itself would, to first order.
    cosine, n_shared
        ``⟨g_u, g_v⟩ / (‖g_u‖ ‖g_v‖)``; items in common.
    gradient_norm, lipschitz
        ``‖g_u‖`` (nats per unit of parameters), and L_θz: the largest ratio seen among the draws.
    carriers
        For the ``k`` most helpful: ``rank``, ``user_id``, ``item_id``, ``title`` where known, and
        ``share`` of ``⟨g_u, g_v⟩`` that this shared item carries; largest first, positive ones.
    shared_share
        ``[k]``: share of ``⟨g_u, g_v⟩`` that all shared items carry together in the output layer;
        the rest comes from items that only one has and from the hidden layers (and may be < 0).
    """

    name: ClassVar[str] = "neighbourhood"
    title: ClassVar[str] = "Who helps this user"
    meaning: ClassVar[str] = (
        "Help says how far a training step on another user lowers this user's loss, as a share of "
        "what a step on the user itself does; below 0 it hurts. Inside the sharing radius help is "
        "certain to first order; outside it is possible, not certain."
    )
    method: ClassVar[str] = (
        "Decoder gradients averaged over posterior draws with common noise; sharing radius of "
        "Theorem 2.3 (arXiv 2511.06781) with L_θz estimated from the draws, W1 from the coupling "
        "by common noise. Candidates: the nearest by W2 of the posteriors, and by shared items."
    )

    sample: SampleSize
    n_history: int
    users: np.ndarray
    user_ids: pl.Series
    w1_low: np.ndarray
    w1: np.ndarray
    w1_high: np.ndarray
    latent_mismatch: np.ndarray
    content_mismatch: np.ndarray
    radius: np.ndarray
    inside: np.ndarray
    certified: np.ndarray
    help: np.ndarray
    help_se: np.ndarray
    cosine: np.ndarray
    n_shared: np.ndarray
    gradient_norm: float
    lipschitz: float
    carriers: pl.DataFrame
    shared_share: np.ndarray

    @property
    def k(self) -> int:
        """How many neighbours are shown."""
        return len(self.shared_share)

    def figures(self) -> dict[str, float]:
        """Counts and shares among the candidates, and the help of the nearest in help."""
        return {
            "candidates": len(self.users),
            "inside_share": float(self.inside.mean()),
            "certified_share": float(self.certified.mean()),
            "helping_share": float((self.help > 0).mean()),
            "best_help": float(self.help[0]),
            "best_help_se": float(self.help_se[0]),
            "mean_help_shown": float(self.help[: self.k].mean()),
            "shared_item_share": float(np.median(self.shared_share)),
            "lipschitz": self.lipschitz,
            "gradient_norm": self.gradient_norm,
        }

    def sentence(self) -> str:
        """Who helps most, how many are inside the radius, which item carries it."""
        n, helping = len(self.users), int((self.help > 0).sum())
        text = (
            f"Of {n} candidates near this user, {int(self.inside.sum())} lie inside the sharing "
            f"radius, where help is certain, and {helping} help to first order. "
        )
        if self.help[0] <= 0:
            return text + "None of them helps: what this user needs, no candidate's step gives."
        text += (
            f"Most helpful is user {self.user_ids[0]}: a step on that user helps by "
            f"{percent(self.help[0], self.help_se[0])} of what a step on this user would."
        )
        first = self.carriers.filter(pl.col("rank") == 1)
        if len(first):
            item = item_names(first)[0]
            text += f" The shared item that carries most is {item} ({first['share'][0]:.0%})."
        return text

    def to_frame(self) -> pl.DataFrame:
        """One row per candidate, most helpful first; ``rank`` from 1."""
        names: tuple[str, ...] = (
            "help",
            "help_se",
            "cosine",
            "n_shared",
            "inside",
            "certified",
            "radius",
        )
        names += ("w1_low", "w1", "w1_high", "latent_mismatch", "content_mismatch")
        ranks = np.arange(1, len(self.users) + 1)
        columns = {name: getattr(self, name) for name in names}
        return pl.DataFrame({"rank": ranks, "user_id": self.user_ids, **columns})

    def warnings(self) -> list[str]:
        """Violations of the sufficient condition, should there be any."""
        wrong = int(((self.help <= 0) & (self.inside | self.certified)).sum())
        return [f"{wrong} candidates inside the radius do not help: a violation."] if wrong else []

    def plot(self) -> "Figure":
        """The most helpful as bars, and help against distance for all candidates."""
        figure, (bars, cloud) = new_figure(2)
        self.draw(bars)
        kinds = self._kinds()
        for at, (kind, colour) in enumerate(KINDS.items()):
            of = kinds == at
            if of.any():
                label = f"{kind} ({int(of.sum())})"
                cloud.scatter(self.w1[of], 100 * self.help[of], s=18, color=colour, label=label)
        cloud.axhline(0, color=BLACK, linewidth=0.8)
        cloud.set_xlabel("W1 between posteriors (unit of z)")
        cloud.set_ylabel("help (% of own step)")
        _title(cloud, f"All {len(self.users)} candidates", kinds)
        return figure

    def draw(self, axes: "Axes") -> None:
        """The most helpful candidates as bars, with two standard errors."""
        kinds = self._kinds()[: self.k]
        for at, (kind, colour) in enumerate(KINDS.items()):
            places = np.flatnonzero(kinds == at)
            if len(places):
                error = 200 * self.help_se[places]
                style: dict[str, Any] = {
                    "ecolor": BLACK,
                    "capsize": 2,
                    "error_kw": {"linewidth": 1},
                }
                axes.barh(
                    places, 100 * self.help[places], xerr=error, color=colour, label=kind, **style
                )
        labels = [shortened(str(user), 16) for user in self.user_ids[: self.k]]
        axes.set_yticks(np.arange(self.k), labels)
        axes.invert_yaxis()
        axes.set_axisbelow(True)
        axes.grid(axis="y", visible=False)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_xlabel("help (% of own step, ± 2 standard errors)")
        axes.set_ylabel("user")
        _title(axes, "Who helps most", kinds)

    def _kinds(self) -> np.ndarray:
        return np.where(self.inside, 0, np.where(self.certified, 1, 2))


def _title(axes: "Axes", title: str, kinds: np.ndarray) -> None:
    """The title, with the only kind in it or a legend of several below it, beside the points."""
    if len(set(kinds)) == 1:
        axes.set_title(f"{title} ({list(KINDS)[kinds[0]]})")
        return
    axes.set_title(title, pad=22)
    spacing: Any = {"columnspacing": 0.8, "handletextpad": 0.3}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=3, fontsize=9, **spacing)


@of_model
@torch.no_grad()
def neighbourhood(
    model: VAE,
    user_items: Interactions,
    history: np.ndarray,
    *,
    user: int | None = None,
    generator: torch.Generator,
    budget: Budget | None = None,
    n_draws: int = 8,
    k: int = 10,
    shortlist: int = MOST_CANDIDATES,
    catalogue: pl.DataFrame | None = None,
    nearby: Nearby | None = None,
) -> Neighbourhood:
    """Who of the community helps a user with this history, and through which shared items.

    Parameters
    ----------
    model
        Any VAE of coterie. For a Multi-DAE (a point code) W1 is the distance of the codes.
    user_items
        The community: known users over the model's items.
    history
        Item indices of the user, int ``[n]``, n ≥ 1; the user need not be known.
    user
        The user's own row in the community, if it has one: it is left out.
    generator
        On the CPU.
    budget
        Bounds how many users are searched, and how many of the nearest are measured.
    n_draws
        S, draws of z per user, the same noise for all; 2 or more.
    k
        Neighbours to name with the items that carry their help.
    shortlist
        At most that many candidates are measured.
    catalogue
        The items in order, ``item_id`` and ``title``; for names.
    nearby
        What :func:`survey` found for this user already.

    Raises
    ------
    DataError
        The history is empty or holds what is no item; the community has no other user.
    ConfigError
        ``n_draws``, ``k`` or ``shortlist`` is too small, or the items are not the model's.

    References
    ----------
    arXiv 2511.06781, Theorem 2.3.
    """
    if n_draws < 2 or k < 1 or shortlist < 1:
        raise ConfigError(
            f"Expected n_draws ≥ 2, k ≥ 1 and shortlist ≥ 1, got {n_draws}, {k}, {shortlist}."
        )
    budget = budget or Budget()
    if nearby is None:
        share = budget.share(0.5)
        nearby = survey(model, user_items, history, user=user, generator=generator, budget=share)
    size = affordable(model, min(len(nearby.users), shortlist), n_draws, budget.share(0.5))
    chosen = nearby.nearest(size)
    gradients = near_gradients(
        model,
        user_items,
        nearby,
        [nearby.history],
        chosen,
        n_draws=n_draws,
        generator=generator,
    )
    items = user_items.item_ids.ids.alias("item_id").to_frame() if catalogue is None else catalogue
    return _ranked(gradients, user_items, nearby, chosen, items, k)


def _ranked(
    gradients: DecoderGradients,
    user_items: Interactions,
    nearby: Nearby,
    chosen: np.ndarray,
    items: pl.DataFrame,
    k: int,
) -> Neighbourhood:
    """The candidates, most helpful first, with what carries the help of the first k."""
    pairs = np.stack([np.zeros(len(chosen), np.int64), np.arange(1, len(chosen) + 1)], axis=1)
    found = gradients.pairs(pairs)
    norm, lipschitz = float(found.norm[0]), float(found.steepest.max())
    content, latent = found.content_mismatch / norm, found.latent_mismatch / norm
    radius = norm * np.maximum(1 - content, 0) / max(lipschitz, 1e-30)
    own = gradients.grams(np.zeros((1, 2), np.int64))
    unordered = {
        "users": nearby.users[chosen],
        "w1_low": (nearby.posterior.mu - nearby.own.mu).norm(dim=1).double().numpy()[chosen],
        "w1": found.code_distance,
        "w1_high": nearby.distance[chosen],
        "latent_mismatch": latent,
        "content_mismatch": content,
        "radius": radius,
        "inside": found.code_distance < radius,
        "certified": latent + content < 1,
        "help": found.influence / norm**2,
        "help_se": jackknife(gradients.grams(pairs), own),
        "cosine": found.cosine,
        "n_shared": nearby.n_shared[chosen],
    }
    order = np.lexsort((nearby.distance[chosen], -found.influence))
    ranked = {name: values[order] for name, values in unordered.items()}
    user_ids = user_items.user_ids.to_ids(ranked["users"]).alias("user_id")
    influence = found.influence[order[:k]]
    carriers, shared_share = _carriers(gradients, 1 + order[:k], nearby.history, influence)
    named = items[nearby.history[carriers["item"].to_numpy()]].get_columns()
    of = user_ids.gather(carriers["rank"] - 1)
    return Neighbourhood(
        sample=nearby.sample,
        n_history=len(nearby.history),
        user_ids=user_ids,
        gradient_norm=norm,
        lipschitz=lipschitz,
        carriers=pl.DataFrame([carriers["rank"], of, *named, carriers["share"]]),
        shared_share=shared_share,
        **ranked,
    )


def _carriers(
    gradients: DecoderGradients, shown: np.ndarray, history: np.ndarray, total: np.ndarray
) -> tuple[pl.DataFrame, np.ndarray]:
    """The shared items' terms of the output layer's inner product, as shares of the whole.

    Item i's term is the mean over pairs of draws of ``r_ui r_vi (h_u·h_v + 1)``, ``r = n π − x``.
    Returns ``rank``, ``item`` (its place in the history), ``share``, and all shares' sum, ``[k]``.
    """
    hidden, at = gradients.inputs[-1], torch.from_numpy(history)
    codes = hidden[0] @ hidden[shown].mT + 1  # [k, S, S]
    x = torch.from_numpy(gradients.histories[shown][:, history].toarray())  # [k, n]
    n = gradients.lengths
    of_user = n[0] * gradients.probabilities[0][:, at].double() - 1  # [S, n]
    of_other = n[shown, None, None] * gradients.probabilities[shown][:, :, at].double()
    of_other = of_other - x[:, None]  # [k, S, n]
    terms = ((codes @ of_other) * of_user).mean(1) / codes.shape[-1]
    share = (terms * x).numpy() / total[:, None]
    best = np.argsort(-share, axis=1, kind="stable")[:, :CARRIERS]
    rank, place = np.nonzero(np.take_along_axis(share, best, 1) > 0)
    item = best[rank, place]
    return (
        pl.DataFrame({"rank": rank + 1, "item": item, "share": share[rank, item]}),
        share.sum(1),
    )
