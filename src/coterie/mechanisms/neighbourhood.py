"""Who helps one user: near users, whether inside the sharing radius, by how much, through what.

Letters: ``N`` candidates, ``S`` draws of z, ``I`` items, ``H`` hidden units, ``K`` latent.
Gradients of the decoder are sums of outer products, so only their two factors are held.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from torch import Tensor

from coterie.data.batches import UserBatch, user_batch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.encoding import USERS_AT_ONCE, encode
from coterie.mechanisms.gradients import DecoderGradients
from coterie.mechanisms.measurement import Budget, Measurement, SampleSize, choose, with_histories
from coterie.mechanisms.style import BLACK, BLUE, GREEN, ORANGE, new_figure
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CANDIDATES = 200
CARRIERS = 3  # shared items named per neighbour
KINDS = {"inside the radius": GREEN, "certified directly": BLUE, "outside the radius": ORANGE}


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
    help, help_error
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
    help_error: np.ndarray
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
            "best_help_error": float(self.help_error[0]),
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
            f"{self.help[0]:.0%} (± {self.help_error[0]:.1%}) of what a step on this user would."
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
            "help_error",
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
        cloud.set_title(f"All {len(self.users)} candidates")
        cloud.legend(loc="best", fontsize=9)
        return figure

    def draw(self, axes: "Axes") -> None:
        """The most helpful candidates as bars, with two standard errors."""
        kinds = self._kinds()[: self.k]
        for at, (kind, colour) in enumerate(KINDS.items()):
            places = np.flatnonzero(kinds == at)
            if len(places):
                error = 200 * self.help_error[places]
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
        if len(set(kinds)) == 1:
            axes.set_title(f"Who helps most ({list(KINDS)[kinds[0]]})")
            return
        axes.set_title("Who helps most", pad=22)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=3, fontsize=9)

    def _kinds(self) -> np.ndarray:
        return np.where(self.inside, 0, np.where(self.certified, 1, 2))


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
        squared = (self.posterior.mu - self.own.mu).square().sum(1)
        if self.own.logvar is not None and self.posterior.logvar is not None:
            spread = torch.exp(0.5 * self.posterior.logvar) - torch.exp(0.5 * self.own.logvar)
            squared += spread.square().sum(1)
        return squared.sqrt().double().numpy()

    def posterior_of(self, places: np.ndarray) -> Posterior:
        """Posteriors of some of the users, ``[len(places), K]``."""
        at = torch.from_numpy(places)
        logvar = self.posterior.logvar
        return Posterior(self.posterior.mu[at], None if logvar is None else logvar[at])

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
    dense = sum(weight.numel() for weight in model.encoder.layers.parameters())
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
        own = model.encode(batch_of(history, model.n_items).to(model.decoder.table.device))
    spread = None if own.logvar is None else own.logvar.float().cpu()
    return Nearby(
        history,
        Posterior(own.mu.float().cpu(), spread),
        sample,
        users,
        encode(model, user_items, users),
        np.concatenate(shared),
    )


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
        nearby = survey(
            model, user_items, history, user=user, generator=generator, budget=budget.share(0.5)
        )
    noise = draw_noise(model, n_draws, generator)
    size = affordable(model, min(len(nearby.users), shortlist), n_draws, budget.share(0.5))
    chosen = nearby.nearest(size)
    gradients = DecoderGradients(
        model,
        stacked([nearby.history], user_items.rows(nearby.users[chosen]), model.n_items),
        draws(model, [nearby.own, nearby.posterior_of(chosen)], noise),
    )
    pairs = np.stack([np.zeros(size, np.int64), np.arange(1, size + 1)], axis=1)
    found = gradients.pairs(pairs)
    error = jackknife(kernel(gradients, pairs), kernel(gradients, np.zeros((1, 2), np.int64)))
    order = np.lexsort((nearby.distance[chosen], -found.influence))
    norm, lipschitz = float(found.norm[0]), float(found.steepest.max())
    content, latent = found.content_mismatch / norm, found.latent_mismatch / norm
    radius = norm * np.maximum(1 - content, 0) / max(lipschitz, 1e-30)
    carriers, shared_share = _carriers(
        gradients, 1 + order[:k], nearby.history, found.influence[order[:k]]
    )
    users = nearby.users[chosen]
    by_rank = {
        "users": users,
        "w1_low": (nearby.posterior.mu - nearby.own.mu).norm(dim=1).double().numpy()[chosen],
        "w1": found.code_distance,
        "w1_high": nearby.distance[chosen],
        "latent_mismatch": latent,
        "content_mismatch": content,
        "radius": radius,
        "inside": found.code_distance < radius,
        "certified": latent + content < 1,
        "help": found.influence / norm**2,
        "help_error": error,
        "cosine": found.cosine,
        "n_shared": nearby.n_shared[chosen],
    }
    ranked = {name: values[order] for name, values in by_rank.items()}
    user_ids = user_items.user_ids.to_ids(ranked["users"]).alias("user_id")
    items = user_items.item_ids.ids.alias("item_id").to_frame() if catalogue is None else catalogue
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


def draws(model: VAE, posteriors: list[Posterior], noise: Tensor) -> Tensor:
    """Codes ``μ + σ ε`` of all users in turn, float64 ``[N, S, K]``; S is 1 for a point code."""
    mu = torch.cat([posterior.mu for posterior in posteriors]).double()[:, None]
    if not model.config.variational:
        return mu
    logvar = torch.cat([p.logvar for p in posteriors if p.logvar is not None])
    return mu + torch.exp(0.5 * logvar.double())[:, None] * noise


def draw_noise(model: VAE, n_draws: int, generator: torch.Generator) -> Tensor:
    """The same noise for all users, float64 ``[S, K]``."""
    return torch.randn(n_draws, model.config.latent_dim, generator=generator).double()


def stacked(histories: list[np.ndarray], near: Interactions, n_items: int) -> sp.csr_array:
    """Given histories first, then the near users' rows: ``[len(histories) + N, I]`` of ones."""
    lengths = [*map(len, histories), *near.history_lengths]
    indices = np.concatenate([*histories, near.indices])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_array((np.ones(len(indices)), indices, indptr), shape=(len(lengths), n_items))


def kernel(gradients: DecoderGradients, pairs: np.ndarray) -> Tensor:
    """Inner products of the single draws' gradients, float64 ``[P, S, S]``."""
    blocks = [
        gradients._gram(gradients._side(u, u), gradients._side(v, v), gradients._overlap(u, v))
        for u, v in gradients._blocks(pairs)
    ]
    return torch.cat(blocks)


def jackknife(products: Tensor, reference: Tensor) -> np.ndarray:
    """Standard error of ``mean(products) / mean(reference)``, leaving out one draw at a time.

    Both ``[P, S, S]`` over the same draws (or ``[1, S, S]``); the result ``[P]``.
    """
    n_draws = products.shape[-1]
    if n_draws == 1:
        return np.zeros(len(products))  # a point code: nothing is drawn
    ratio = _without_each(products) / _without_each(reference)
    error: np.ndarray = (ratio.var(1, correction=0) * (n_draws - 1)).sqrt().numpy()
    return error


def _without_each(products: Tensor) -> Tensor:
    """Means of ``[P, S, S]`` without row and column of each draw, ``[P, S]``."""
    own = products.diagonal(dim1=1, dim2=2)
    rest = products.sum((1, 2))[:, None] - products.sum(1) - products.sum(2) + own
    return rest / (products.shape[-1] - 1) ** 2


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


def batch_of(history: np.ndarray, n_items: int) -> UserBatch:
    """One history ``[n]``, as a batch of one user."""
    items = torch.from_numpy(history)
    scale = torch.tensor([max(len(items), 1) ** -0.5])
    return UserBatch(torch.tensor([0, len(items)]), items, scale, n_items)


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


def shortened(text: str, most: int) -> str:
    """The text, cut to ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def item_names(items: pl.DataFrame) -> list[str]:
    """Titles where they are known, else ids."""
    ids = items["item_id"].cast(pl.String)
    names = items["title"].fill_null(ids) if "title" in items.columns else ids
    return names.to_list()


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
