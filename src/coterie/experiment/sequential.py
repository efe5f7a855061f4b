"""Always-valid intervals and p-values: right however often one looks, and whenever one stops.

The normal mixture boundary of Robbins (1970), as mSPRT (Johari, Koomen, Pekelis & Walsh, "Always
valid inference", Operations Research 2022) and as asymptotic confidence sequence (Waudby-Smith,
Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics 2024). With a relative standard error s and the mixture's standard
deviation τ, the interval reaches

    s · sqrt((1 + s²/τ²) · log((1 + τ²/s²) / α²))

to each side. 1/s² plays the part of time in those papers, where it is n/σ². τ has to be chosen
before the data; at τ = 2.8 s the interval is about as tight as it can be, and a test with power
80 % at α = 5 % ends where the smallest effect is 2.8 standard errors: hence τ is that effect.

The guarantee is asymptotic, and for estimates whose changes between looks are independent of their
past, as when each user counts once. Users who stay and go on counting make successive estimates
resemble each other more, which leaves fewer chances to err; ``benchmarks/experiment_validity.py``
measures both cases.
"""

import math

from scipy.optimize import brentq
from scipy.stats import norm


def multiplier(relative_se: float, effect: float, alpha: float) -> float:
    """Standard errors to each side of the always-valid interval.

    Parameters
    ----------
    relative_se
        Standard error of the difference as a share of the control's value, above 0.
    effect
        τ: the smallest relative change worth finding, fixed in advance.
    alpha
        Chance that the truth is ever outside, over all looks.
    """
    if not relative_se > 0:
        return math.nan
    ratio = (effect / relative_se) ** 2
    return math.sqrt((1 + 1 / ratio) * (math.log1p(ratio) - 2 * math.log(alpha)))


def p_value(z: float, relative_se: float, effect: float) -> float:
    """The smallest α at which the always-valid interval excludes zero; at most 1."""
    if not relative_se > 0 or math.isnan(z):
        return math.nan
    ratio = (effect / relative_se) ** 2
    return min(1.0, math.exp(0.5 * math.log1p(ratio) - 0.5 * z * z * ratio / (1 + ratio)))


def price(alpha: float, power: float) -> float:
    """How many times the users a decision at any time needs, for the same power at the latest.

    That is the worst case: larger effects are found earlier than by a test at the end.
    """
    reach = float(norm.ppf(power))
    once = float(norm.ppf(1 - alpha / 2)) + reach

    def short(u: float) -> float:
        """How far an effect of u standard errors is beyond the boundary, less what power asks."""
        return u - multiplier(1 / u, 1.0, alpha) - reach

    always: float = brentq(short, once, 10 * once)
    return (always / once) ** 2
