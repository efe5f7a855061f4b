"""Is one model better than another? Paired tests of the same users, or the same seeds, and Holm.

Two recommenders are tested on the same users, so that what differs between users (some are easy)
drops out of the difference user by user. All tests here are of such differences ``[n]``; the
hypothesis tested is that their mean over all users (or seeds) is 0. p-values are two-sided.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from coterie.errors import ConfigError, DataError

CONFIDENCE = 0.95
RESAMPLES = 10_000
BLOCK = 1 << 20  # users drawn at a time: 8 MiB of differences, whatever n is
NAN = float("nan")


@dataclass(frozen=True)
class PairedTest:
    """A mean difference, how sure it is, and whether it may be 0.

    Parameters
    ----------
    n
        Users or seeds.
    mean
        Mean difference; NaN if there is none.
    low, high
        Its confidence interval; NaN below two differences.
    p
        Two-sided, in [0, 1]; NaN below two differences.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float


def paired_t_test(differences: np.ndarray, *, confidence: float = CONFIDENCE) -> PairedTest:
    """Student's paired t-test: t = mean / (s/√n) with n − 1 degrees of freedom.

    Source: Student, "The probable error of a mean", Biometrika 6 (1908). Differences need not be
    normal where n is large (users); where it is small (seeds) that they are is an assumption.

    Parameters
    ----------
    differences
        float ``[n]``, of the same user or seed each.
    confidence
        Of the interval, in (0, 1).

    Returns
    -------
    PairedTest
        If all differences are equal there is no spread to test against: p is 1 if they are 0, and
        otherwise 0, the limit of the t-test; the interval is the difference itself.

    Raises
    ------
    DataError
        A difference is NaN or infinite.
    """
    differences = _checked(differences, confidence)
    trivial = _without_spread(differences, p_if_apart=0.0)
    if trivial is not None:
        return trivial
    n, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1) / np.sqrt(n))
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return PairedTest(n, mean, mean - reach, mean + reach, p)


def paired_bootstrap(
    differences: np.ndarray,
    *,
    rng: np.random.Generator | int,
    n_resamples: int = RESAMPLES,
    interval: Literal["bca", "percentile"] = "bca",
    confidence: float = CONFIDENCE,
) -> PairedTest:
    """Paired bootstrap: users are drawn anew, with replacement, ``n_resamples`` times.

    The p-value is that of the studentised test (Efron & Tibshirani 1993, section 16.4): each
    resample's t is that of differences moved to mean 0, and p = (1 + #{|t*| ≥ |t|}) / (1 +
    resamples), so that it is never 0. The interval is of the mean: by percentiles (section 13.3),
    or bias-corrected and accelerated (BCa, section 14.3; Efron, JASA 82, 1987).

    Parameters
    ----------
    differences
        float ``[n]``, of the same user each. Few of them, such as seeds, are too few to draw from:
        intervals are then too short.
    rng
        Draws the resamples; a seed makes a new generator.
    n_resamples
        1 or more. The smallest p is 1 / (1 + this).
    interval
        Which kind.
    confidence
        Of the interval, in (0, 1).

    Raises
    ------
    DataError
        A difference is NaN or infinite.
    ConfigError
        ``n_resamples`` is below 1, or ``interval`` unknown.
    """
    differences = _checked(differences, confidence)
    if n_resamples < 1:
        raise ConfigError(f"n_resamples must be 1 or more, got {n_resamples}.")
    if interval not in ("bca", "percentile"):
        raise ConfigError(f'interval must be "bca" or "percentile", got {interval!r}.')
    trivial = _without_spread(differences, p_if_apart=1 / (n_resamples + 1))
    if trivial is not None:
        return trivial
    n, mean = len(differences), float(differences.mean())
    means, t = _resampled(differences - mean, np.random.default_rng(rng), n_resamples)
    observed = abs(mean) / (differences.std() / np.sqrt(n))
    extreme = int(np.count_nonzero(np.abs(t) >= observed))
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if interval == "bca":
        tails = _bca(tails, differences - mean, means)
    low, high = mean + np.quantile(means, tails)
    return PairedTest(n, mean, float(low), float(high), (1 + extreme) / (1 + n_resamples))


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """p-values corrected for their number by Holm's step-down method.

    Comparing each with α keeps the probability of one or more false rejections at most α, whatever
    the dependence between the tests. The i-th smallest of m becomes the largest of
    (m − j + 1)·p₍ⱼ₎ over j ≤ i, at most 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979).

    Parameters
    ----------
    p_values
        float ``[m]`` in [0, 1]; NaN, a test that could not be made, stays NaN and does not count.

    Returns
    -------
    np.ndarray
        float64 ``[m]``, in the same order.

    Raises
    ------
    ConfigError
        A p-value is outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ConfigError(f"p-values lie between 0 and 1, got {p.tolist()}.")
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sort last
    corrected = np.full(len(p), NAN)
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return corrected


def differences_by_user(
    ours: Sequence[tuple[Sequence[Any] | np.ndarray, np.ndarray]],
    theirs: Sequence[tuple[Sequence[Any] | np.ndarray, np.ndarray]],
) -> np.ndarray:
    """One difference per distinct user, of two models tested in several runs.

    A user whom several runs test counts once, with the mean of its differences: its runs are no
    further users.

    Parameters
    ----------
    ours, theirs
        For each run the ids of the users tested, ``[n]``, and their values, float ``[n]``. Run by
        run the users must be the same, in any order.

    Returns
    -------
    np.ndarray
        float64 ``[distinct users]``, ours − theirs, in the order of the ids.

    Raises
    ------
    DataError
        The models were tested on different users, or one user twice in a run.
    """
    if len(ours) != len(theirs):
        raise DataError(
            f"Paired tests need the same runs of both models, got {len(ours)} and {len(theirs)}."
        )
    users, found = [], []
    for run, ((ids, values), (others, other_values)) in enumerate(zip(ours, theirs, strict=True)):
        ids, others = np.asarray(ids), np.asarray(others)
        order, other_order = np.argsort(ids, kind="stable"), np.argsort(others, kind="stable")
        if not np.array_equal(ids[order], others[other_order]):
            raise DataError(
                f"Run {run + 1}: the models were tested on different users ({len(ids)} and "
                f"{len(others)}); a paired test needs the same."
            )
        users.append(ids[order])
        if len(users[-1]) > 1 and (users[-1][1:] == users[-1][:-1]).any():
            raise DataError(f"Run {run + 1} tests a user twice.")
        found.append(np.asarray(values)[order] - np.asarray(other_values)[other_order])
    if not users:
        return np.empty(0)
    _, which = np.unique(np.concatenate(users), return_inverse=True)
    sums = np.bincount(which, weights=np.concatenate(found))
    means: np.ndarray = sums / np.bincount(which)
    return means


def _checked(differences: np.ndarray, confidence: float) -> np.ndarray:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence}.")
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 1:
        raise DataError(f"Differences must be [n], got {list(differences.shape)}.")
    wrong = np.count_nonzero(~np.isfinite(differences))
    if wrong:
        raise DataError(f"{wrong} of {len(differences)} differences are NaN or infinite.")
    return differences


def _without_spread(differences: np.ndarray, *, p_if_apart: float) -> PairedTest | None:
    """The answer where there is nothing to compute: no difference, one, or all the same."""
    n = len(differences)
    if n < 2:
        return PairedTest(n, float(differences[0]) if n else NAN, NAN, NAN, NAN)
    if np.ptp(differences) > 0:
        return None
    same = float(differences[0])
    return PairedTest(n, same, same, same, 1.0 if same == 0 else p_if_apart)


def _resampled(
    centred: np.ndarray, rng: np.random.Generator, n_resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and t of each resample, float64 ``[n_resamples]``, of differences with mean 0."""
    n = len(centred)
    means, deviations = np.empty(n_resamples), np.empty(n_resamples)
    at_once = max(1, BLOCK // n)
    for start in range(0, n_resamples, at_once):
        rows = slice(start, min(start + at_once, n_resamples))
        drawn = centred[rng.integers(0, n, (rows.stop - start, n))]
        means[rows] = drawn.mean(axis=1)
        deviations[rows] = drawn.std(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # One user drawn n times has no spread: as far apart as can be, unless its mean is 0 too.
        t = np.where(means == 0, 0.0, means / (deviations / np.sqrt(n)))
    return means, t


def _bca(tails: np.ndarray, centred: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The percentiles to take in place of ``tails``; ``centred`` and ``means`` have mean 0.

    The acceleration of a mean has a closed form: the jackknife's values are −difference / (n − 1).
    """
    below = (np.count_nonzero(means < 0) + np.count_nonzero(means <= 0)) / (2 * len(means))
    bias = stats.norm.ppf(np.clip(below, 1 / (len(means) + 1), len(means) / (len(means) + 1)))
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    z = bias + stats.norm.ppf(tails)
    moved: np.ndarray = stats.norm.cdf(bias + z / (1 - acceleration * z))
    return moved
