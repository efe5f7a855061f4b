"""One metric in two arms: difference, relative lift, standard errors, intervals, p-value.

The user is the unit. A mean per user has the usual standard error; a ratio of sums has the delta
method's (Deng, Knoblich & Lu, "Applying the delta method in metric analytics", KDD 2018): the
ratio is linear in the users' values up to terms that vanish, and the variance is that of
``(numerator − ratio · denominator) / mean denominator``.

The lift's interval inverts the test of the difference (Fieller's theorem): it holds every lift
``r − 1`` for which ``treatment − r · control`` is not refused. So interval and p-value never
contradict each other, and the interval is not symmetric where the control is uncertain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from coterie.experiment.moments import Floats, Moments, pooled_mean


@dataclass(frozen=True)
class Indices:
    """Where a metric's values stand among the moments' ``V``.

    ``denominator`` is None for a mean; ``covariates`` are those that CUPED adjusts for.
    """

    numerator: int
    denominator: int | None = None
    covariates: tuple[int, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A metric in one arm.

    Parameters
    ----------
    n
        Users.
    value
        The metric, adjusted if covariates were given; NaN if undefined.
    se
        Its standard error.
    """

    n: int
    value: float
    se: float


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``; infinite where the data set no bound."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Effect:
    """A treatment against the control."""

    control: Estimate
    treatment: Estimate

    @property
    def difference(self) -> float:
        """Treatment − control, in the metric's unit."""
        return self.treatment.value - self.control.value

    @property
    def se(self) -> float:
        """Standard error of the difference; users of two arms are independent."""
        return math.hypot(self.control.se, self.treatment.se)

    @property
    def lift(self) -> float:
        """Relative difference; NaN where the control is zero."""
        base = self.control.value
        return self.difference / base if base else math.nan

    @property
    def relative_se(self) -> float:
        """Standard error of the difference as a share of the control's value."""
        base = abs(self.control.value)
        return self.se / base if base else math.nan

    @property
    def z(self) -> float:
        """Difference in standard errors; NaN if both arms are constant."""
        return self.difference / self.se if self.se else math.nan

    @property
    def degrees_of_freedom(self) -> float:
        """Welch's and Satterthwaite's."""
        parts = [(arm.se**2, arm.n - 1) for arm in (self.control, self.treatment)]
        below = sum(variance**2 / freedom for variance, freedom in parts if freedom > 0)
        return sum(variance for variance, _ in parts) ** 2 / below if below else math.nan

    def multiplier(self, alpha: float) -> float:
        """Standard errors to each side of an interval that is looked at once, at the end."""
        return float(stats.t.ppf(1 - alpha / 2, self.degrees_of_freedom))

    def p_value(self) -> float:
        """Two-sided, of Welch's test that the arms are equal; for one look."""
        return float(2 * stats.t.sf(abs(self.z), self.degrees_of_freedom))

    def difference_interval(self, multiplier: float) -> Interval:
        """Of the difference, ``multiplier`` standard errors to each side."""
        reach = multiplier * self.se
        return Interval(self.difference - reach, self.difference + reach)

    def lift_interval(self, multiplier: float) -> Interval:
        """Of the lift, by Fieller's theorem.

        It has no bounds where the control is not ``multiplier`` standard errors from zero.
        """
        k2 = multiplier**2
        a = self.control.value**2 - k2 * self.control.se**2
        b = self.control.value * self.treatment.value
        c = self.treatment.value**2 - k2 * self.treatment.se**2
        if not a > 0:
            return Interval(-math.inf, math.inf)
        root = math.sqrt(max(b * b - a * c, 0.0))
        return Interval((b - root) / a - 1, (b + root) / a - 1)


def estimates(arms: Sequence[Moments], at: Indices) -> tuple[Estimate, ...]:
    """The metric in each arm, CUPED-adjusted if there are covariates.

    CUPED (Deng, Xu, Kohavi & Walker, WSDM 2013) subtracts what users' pre-period values predict:
    ``value − β · (arm's mean of X − all users' mean of X)`` with one β for all arms, fitted within
    arms. X is from before entry, so no treatment can have changed it, and the expected adjustment
    is zero in every arm. For ratios β is fitted to the linearised values.
    """
    gradients = [_gradient(arm, at) for arm in arms]
    beta, centre = _cuped(arms, gradients, at)
    found = []
    for arm, gradient in zip(arms, gradients, strict=True):
        weights = gradient.copy()
        value = _value(arm, at)
        if len(beta):
            covariates = list(at.covariates)
            weights[covariates] -= beta
            value -= float(beta @ (arm.mean[covariates] - centre))
        variance = float(weights @ arm.cov @ weights) / arm.n if arm.n > 1 else math.nan
        found.append(Estimate(arm.n, value, math.sqrt(max(variance, 0.0))))
    return tuple(found)


def _value(arm: Moments, at: Indices) -> float:
    above = float(arm.mean[at.numerator])
    if at.denominator is None:
        return above
    below = float(arm.mean[at.denominator])
    return above / below if below else math.nan


def _gradient(arm: Moments, at: Indices) -> Floats:
    """Of the metric by the means ``[V]``: the weights of the linearised values."""
    gradient = np.zeros(len(arm.mean))
    if at.denominator is None:
        gradient[at.numerator] = 1.0
        return gradient
    below = float(arm.mean[at.denominator])
    gradient[at.numerator] = 1 / below if below else math.nan
    gradient[at.denominator] -= _value(arm, at) / below if below else math.nan
    return gradient


def _cuped(
    arms: Sequence[Moments], gradients: Sequence[Floats], at: Indices
) -> tuple[Floats, Floats]:
    """β ``[X]`` of the within-arm regression, and the covariates' mean over all users."""
    covariates = list(at.covariates)
    there = [
        (arm, gradient)
        for arm, gradient in zip(arms, gradients, strict=True)
        if arm.n > 1 and np.isfinite(gradient).all()
    ]
    if not covariates or not there:
        return np.zeros(0), np.zeros(0)
    among = sum((arm.n - 1) * arm.cov[np.ix_(covariates, covariates)] for arm, _ in there)
    with_y = sum((arm.n - 1) * (arm.cov[covariates] @ gradient) for arm, gradient in there)
    return np.linalg.pinv(among, hermitian=True) @ with_y, pooled_mean(arms)[covariates]
