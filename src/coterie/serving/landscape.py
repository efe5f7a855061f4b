"""A flat map of the community, on which anyone can be placed at once.

The axes are the first two principal components of users' posterior means, each brought to length 1:
means grow with the history, so that a visitor of three titles would always stand in the middle. A
component is a fixed direction, so a visitor is placed by one encoding and one product; t-SNE
separates groups better, but has no place for newcomers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.data.interactions import Interactions
from coterie.errors import DataError
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import choose, with_histories
from coterie.models.vae import VAE

MOST_USERS = 2_000  # more dots hide each other
CANDIDATES = 400  # of the most popular items, to be landmarks
LANDMARKS = 16


@dataclass(frozen=True, eq=False)
class Landscape:
    """The map: axes, dots, landmarks. The unit is the standard deviation along the first axis.

    Parameters
    ----------
    model
        Whose latent space it is.
    centre, axes
        float64 ``[K]`` and ``[K, 2]``: a posterior mean μ stands at ``(μ / ‖μ‖ - centre) @ axes``.
    users
        Dots of a sample of the community, float64 ``[n, 2]``.
    available
        Users of the community, of whom n were drawn.
    variance
        Share of the users' variance along each axis; the rest does not show.
    landmarks
        Indices of popular items that stand apart from one another, int64 ``[m]``.
    """

    model: VAE
    centre: Tensor
    axes: Tensor
    users: np.ndarray
    available: int
    variance: tuple[float, float]
    landmarks: np.ndarray

    @classmethod
    def of(cls, model: VAE, community: Interactions, counts: np.ndarray) -> "Landscape":
        """The map of a model's community.

        Parameters
        ----------
        community
            Histories over the model's items.
        counts
            Popularity of the items, ``[I]``.

        Raises
        ------
        DataError
            Nobody in the community has an item that the model knows.
        """
        available = with_histories(community)
        if not len(available):
            raise DataError("Nobody in the community has an item that the model knows.")
        generator = torch.Generator().manual_seed(0)  # the same map after a restart
        users = choose(available, min(MOST_USERS, len(available)), generator)
        codes = _directions(encode(model, community, users).mu)
        centre = codes.mean(0)
        axes, variance = _principal(codes - centre)
        dots = ((codes - centre) @ axes).numpy()
        popular = np.argsort(-counts, kind="stable")[:CANDIDATES]
        alone = cls(model, centre, axes, dots, len(available), variance, popular[:0])
        at = alone.place(list(popular[:, None]))
        return cls(model, centre, axes, dots, len(available), variance, popular[_apart(at)])

    @torch.inference_mode()
    def place(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Where users of these histories stand, float64 ``[B, 2]``.

        An item stands where a user stands who has nothing else.

        Parameters
        ----------
        histories
            Distinct item indices of each, at least one.
        """
        batch = UserBatch.of(histories, self.model.n_items)
        codes = self.model.encode(batch.to(self.model.decoder.table.device)).mu
        found: np.ndarray = ((_directions(codes.cpu()) - self.centre) @ self.axes).numpy()
        return found


def _directions(codes: Tensor) -> Tensor:
    return torch.nn.functional.normalize(codes.double(), dim=1)


def _principal(centred: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """The first two components ``[K, 2]`` in the map's unit, and their shares of the variance."""
    covariance = centred.T @ centred / len(centred)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.clamp(min=0).flip(0), vectors.flip(1)
    axes = torch.zeros(len(values), 2, dtype=torch.float64)
    axes[:, : min(2, len(values))] = vectors[:, :2]
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    unit, total = float(values[0].sqrt()) or 1.0, float(values.sum()) or 1.0
    shares = [float(value) / total for value in values[:2]] + [0.0]
    return axes * signs / unit, (shares[0], shares[1])


def _apart(at: np.ndarray) -> list[int]:
    """The first place, and each time the one farthest from all before it; none twice."""
    chosen = [0]
    distance = np.linalg.norm(at - at[0], axis=1)
    while len(chosen) < LANDMARKS and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(at - at[chosen[-1]], axis=1))
    return chosen
