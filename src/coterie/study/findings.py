"""The paper's claims, and the rules by which each is confirmed, not confirmed, or left unclear.

The rules stand here, in code, before any result is looked at:

- A claim that one setting is above (or below) another is decided by a paired t-test, two-sided,
  over the seeds. p < 0.05 and the claimed sign: *confirmed*. p < 0.05 and the other sign: *not
  confirmed*. Otherwise, and with fewer than two seeds: *unclear*.
- The claim that a measured ratio equals a predicted one is *confirmed* if the 95 % confidence
  interval of measured / predicted over the seeds lies within 1/1.25 … 1.25; if it does not, and
  p < 0.05 that the two differ, it is *not confirmed*; otherwise *unclear*.

No correction is made for the number of claims: of twenty without substance one would be expected to
be decided by chance, half of those "confirmed". Source of the claims: arXiv 2511.06781.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from coterie.evaluation.significance import PairedTest, differences_by_user, paired_t_test
from coterie.mechanisms.numbers import minus, number, percent, signed
from coterie.study.claims import Claim, claims
from coterie.study.folder import NAN, RunRecord
from coterie.study.settings import MASKING, METRIC, PIA, Plan

ALPHA = 0.05
MARGIN = 1.25  # largest ratio of two figures that count as equal
Verdict = Literal["confirmed", "not confirmed", "unclear"]


@dataclass(frozen=True)
class Finding:
    """What became of a claim.

    Parameters
    ----------
    name
        A word for JSON.
    claim
        What the paper says, as a sentence.
    verdict
        By the rules of this module.
    sentence
        The numbers behind it.
    figures
        The same numbers by name; NaN where one does not exist.
    """

    name: str
    claim: str
    verdict: Verdict
    sentence: str
    figures: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {
            "name": self.name,
            "claim": self.claim,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "figures": self.figures,
        }


def paired(differences: np.ndarray) -> PairedTest:
    """Test whether the mean of the differences ``[seeds]`` is 0; NaN among them are left out."""
    return paired_t_test(differences[np.isfinite(differences)])


def verdict_of(test: PairedTest, sign: int) -> Verdict:
    """Whether a difference has the claimed sign (+1 or −1), by the rule above."""
    if not test.p < ALPHA:  # also where p is NaN
        return "unclear"
    return "confirmed" if np.sign(test.mean) == sign else "not confirmed"


def verdict_of_equality(test: PairedTest) -> Verdict:
    """Whether log(measured / predicted) is 0, by the rule above."""
    if test.n >= 2 and max(abs(test.low), abs(test.high)) < np.log(MARGIN):
        return "confirmed"
    return "not confirmed" if test.p < ALPHA else "unclear"


def decide(records: Sequence[RunRecord], plan: Plan) -> list[Finding]:
    """All claims, in the order of the paper's argument.

    Parameters
    ----------
    records
        Of all settings and one or more seeds.
    plan
        What the settings are.
    """
    table = Records(records)
    found = [_compared(claim, table, plan) for claim in claims(plan, table.cohorts)]
    return [*found, *_predicted(table, plan)]


class Records:
    """The records of a study by setting and seed."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self._found = {(record.key, record.seed): record for record in records}
        self.seeds = sorted({record.seed for record in records})
        self.cohorts = [
            cohort
            for cohort in (records[0].cohorts if records else [])
            if any(record.cohort_size(cohort, METRIC) for record in records)
        ]

    def of(self, key: str) -> list[RunRecord]:
        """A setting's records in the order of the seeds."""
        return [self._found[key, seed] for seed in self.seeds if (key, seed) in self._found]

    def values(self, key: str, measure: str, figure: str, cohort: str | None = None) -> np.ndarray:
        """One figure of a setting by seed, float64 ``[seeds]``; NaN where it is missing.

        ``measure`` is a measure's name, or ``"test"`` for a metric of the test users.
        """
        values = []
        for seed in self.seeds:
            record = self._found.get((key, seed))
            if record is None:
                values.append(NAN)
            elif measure == "test":
                values.append(record.metric(figure, cohort))
            else:
                values.append(record.figure(measure, figure))
        return np.array(values)

    def over_users(self, key: str, against: str, cohort: str | None = None) -> tuple[int, float]:
        """Distinct test users, and p of a paired t-test over them.

        A user whom several seeds test counts once, with the mean of its differences.
        """
        test = paired_t_test(
            differences_by_user(self._users(key, cohort), self._users(against, cohort))
        )
        return test.n, test.p

    def _users(self, key: str, cohort: str | None) -> list[tuple[list[Any], np.ndarray]]:
        found = [record.users(cohort) for record in self.of(key)]
        return [(list(users), np.array(list(users.values()))) for users in found]


def _compared(claim: Claim, table: Records, plan: Plan) -> Finding:
    ours = table.values(claim.of, claim.measure, claim.figure, claim.cohort)
    theirs = table.values(claim.against, claim.measure, claim.figure, claim.cohort)
    differences = (ours - theirs)[np.isfinite(ours - theirs)]
    test = paired(differences)
    won = int(np.sum(np.sign(differences) == claim.sign))
    word = "higher" if claim.sign > 0 else "lower"
    first, second = plan[claim.of].label, plan[claim.against].label
    text = (
        f"{claim.unit}: {spread(ours)} with {first}, {spread(theirs)} with {second}; difference "
        f"{signed(number(test.mean))}, {p_text(test)}, {word} in {won} of {test.n} seeds."
    )
    figures = {
        "of": _mean(ours),
        "against": _mean(theirs),
        "difference": test.mean,
        "low": test.low,
        "high": test.high,
        "p": test.p,
        "n_seeds": float(test.n),
        "seeds_with_the_sign": float(won),
    }
    if claim.measure == "test" and test.n:
        users, p_users = table.over_users(claim.of, claim.against, claim.cohort)
        gain = figures["difference"] / figures["against"] if figures["against"] else NAN
        shown = f"p = {number(p_users, 2)}" if not p_users < 1e-4 else "p < 0.0001"
        text += "" if np.isnan(gain) else f" That is {signed(percent(gain))}."
        text += f" Over {users:,} distinct test users {shown}."
        figures |= {"gain": gain, "n_users": float(users), "p_users": p_users}
    if not test.n:
        text = f"{claim.unit}: it was not measured for both {first} and {second}."
    note = "".join(f" {one}" for one in (claim.note, _below_cap(claim.of, table, plan)) if one)
    return Finding(claim.name, claim.text, verdict_of(test, claim.sign), text + note, figures)


def _below_cap(key: str, table: Records, plan: Plan) -> str:
    """A caveat where the chosen epochs came before β was at its cap."""
    beta = plan[key].objective.beta
    assert beta is not None, "a study's models are weighted by β"
    cap = beta.end
    reached = np.array([record.beta for record in table.of(key)])
    if not (reached < 0.99 * cap).any():
        return ""
    return (
        f"Validation chose epochs of {plan[key].label} in which β was {spread(reached)}, not yet "
        f"{cap:g}."
    )


def _predicted(table: Records, plan: Plan) -> list[Finding]:
    """Prop. 3.2: what alignment leaves of distance and variance, against τ and τ²."""
    found = []
    lambda_a = plan[PIA].lambda_a
    for name, figure, power, text in (
        ("tau-squared", "mask_variance", 2, "of its variance across masks"),
        ("tau", "distance", 1, "of its distance from the centroid"),
    ):
        tau = predicted_tau(table, lambda_a)
        measured = table.values(PIA, "alignment_effect", figure) / table.values(
            MASKING, "alignment_effect", figure
        )
        test = paired(np.log(measured) - power * np.log(tau))
        symbol = "τ²" if power == 2 else "τ"
        ratio, low, high = (float(np.exp(of)) for of in (test.mean, test.low, test.high))
        interval = f" (95 % interval {number(low, 3)} to {number(high, 3)})" if test.n > 1 else ""
        sentence = (
            f"At λ_A = {lambda_a:g}: measured {spread(measured)}, predicted {spread(tau**power)}; "
            f"measured / predicted {number(ratio, 3)}{interval}, {p_text(test)}."
        )
        if not test.n:
            sentence = "Measured and predicted values were not found for both settings."
        figures = {
            "measured": _mean(measured),
            "predicted": _mean(tau**power),
            "ratio": ratio,
            "low": low,
            "high": high,
            "p": test.p,
            "n_seeds": float(test.n),
        }
        claim = f"PIA leaves {symbol} = {'(' * (power - 1)}L/(L + 2λ_A){')²' * (power - 1)} {text}."
        found.append(Finding(name, claim, verdict_of_equality(test), sentence, figures))
    return found


def predicted_tau(table: Records, lambda_a: float) -> np.ndarray:
    """τ = L/(L + 2λ_A) by seed, with the curvature L of masking alone (Prop. 3.2)."""
    curvature = table.values(MASKING, "alignment_effect", "curvature")
    curvature = np.where(curvature > 0, curvature, NAN)  # else the quadratic model says nothing
    return curvature / (curvature + 2 * lambda_a)


def spread(values: np.ndarray) -> str:
    """Mean ± standard deviation over seeds, the deviation with two significant digits."""
    values = values[np.isfinite(values)]
    if not len(values):
        return "–"
    mean, deviation = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
    if deviation == 0:
        return minus(f"{mean:.4g}") + (" ±0" if len(values) > 1 else "")
    digits = int(np.clip(1 - np.floor(np.log10(deviation)), 0, 6))
    return minus(f"{mean:.{digits}f} ±{deviation:.{digits}f}")


def p_text(test: PairedTest) -> str:
    """``p = …``, or why there is none."""
    if test.n < 2:
        return "no p from fewer than 2 seeds"
    if test.low == test.high:
        return f"p = {test.p:.0f} (no spread between seeds)"
    return f"p = {test.p:.2g}" if test.p >= 1e-4 else "p < 0.0001"


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else NAN
