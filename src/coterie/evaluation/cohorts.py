"""Groups of users by the length of their history."""

import numpy as np
from pydantic import Field

from coterie.config import Config


class Cohort(Config):
    """Users with ``low`` to ``high`` items, both included; no upper limit if ``high`` is None."""

    name: str
    low: int = Field(ge=0)
    high: int | None = Field(None, ge=0)

    def holds(self, lengths: np.ndarray) -> np.ndarray:
        """Which of the history lengths ``[n]`` belong here, bool ``[n]``."""
        inside: np.ndarray = np.asarray(lengths) >= self.low
        if self.high is not None:
            inside &= lengths <= self.high
        return inside


DEFAULT_COHORTS = (
    Cohort(name="5–10", low=5, high=10),
    Cohort(name="11–50", low=11, high=50),
    Cohort(name="51–100", low=51, high=100),
    Cohort(name=">100", low=101),
)
"""As in the PIA paper's table by history length."""
