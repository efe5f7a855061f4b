"""The position-based click model: who looks at an item, and likes it, clicks it and watches.

``P(click at place r) = examined(r) · attraction(item)`` (Richardson, Dominowska & Ragno, WWW 2007;
Chuklin, Markov & de Rijke, "Click models for web search", 2015), where place ``r`` is examined with
probability ``r^−bias`` (Joachims, Swaminathan & Schnabel, WSDM 2017). Places are independent.
"""

from dataclasses import dataclass

import numpy as np

from coterie.experiment.moments import Floats

SECONDS = (30.0, 600.0)
"""Mean time of watching an item of relevance 0, and 1; between, a straight line."""


@dataclass(frozen=True)
class ClickModel:
    """How people click.

    Parameters
    ----------
    bias
        Of the position; 0: all places are looked at.
    noise
        Chance of a click on an item that one looks at and dislikes.
    """

    bias: float
    noise: float

    def chances(self, relevance: Floats) -> Floats:
        """Of a click at each place, float64 ``[n]``, for items of relevance ``[n]`` in [0, 1]."""
        examined = np.arange(1.0, len(relevance) + 1) ** -self.bias
        chances: Floats = examined * (self.noise + (1 - self.noise) * relevance)
        return chances

    def draw(self, relevance: Floats, rng: np.random.Generator, most: int) -> Floats:
        """Seconds watched at each place ``[n]``; NaN where nobody clicked.

        ``most`` places are drawn for, so that what is drawn for a place does not depend on how
        many there are.
        """
        clicks, lengths = rng.random((2, most))[:, : len(relevance)]
        seconds = -mean_seconds(relevance) * np.log1p(-lengths)
        return np.where(clicks < self.chances(relevance), seconds, np.nan)


def mean_seconds(relevance: Floats) -> Floats:
    """Mean time of watching after a click, ``[n]``; the times are exponential."""
    least, most = SECONDS
    means: Floats = least + (most - least) * relevance
    return means
