"""Corrections for looking at several p-values at once."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control

from coterie.experiment.moments import Floats


def holm(p_values: Sequence[float]) -> Floats:
    """Holm's adjusted p-values ``[N]``: the chance of any false alarm stays below α (Holm 1979).

    NaN stays NaN and counts for nothing.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    there = np.flatnonzero(~np.isnan(p))
    order = there[np.argsort(p[there], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> Floats:
    """Adjusted p-values ``[N]``: the expected share of false among the alarms stays below α.

    Benjamini & Hochberg 1995; NaN stays NaN and counts for nothing.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    there = ~np.isnan(p)
    if there.any():
        adjusted[there] = false_discovery_control(p[there], method="bh")
    return adjusted
