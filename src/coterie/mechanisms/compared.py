"""Differences between models that were measured on the same users."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from coterie.mechanisms.alignment_effect import AlignmentEffect
from coterie.mechanisms.measurement import Measurement
from coterie.mechanisms.numbers import number, signed, uncertain

if TYPE_CHECKING:
    from coterie.mechanisms.diagnose import Diagnosis

SEEN = 1.96  # standard errors
HOW = (
    "A difference counts as seen beyond 1.96 standard errors; the errors of the two models are "
    "combined in quadrature, which is cautious, as both were measured on the same users."
)


def differences(found: Mapping[str, Measurement]) -> dict[str, str]:
    """By model: how its headline figures differ from the first model's, in one sentence.

    Only figures with a standard error or an interval are compared, and only if both models'
    samples have one size, so that they are the same users. Errors are combined in quadrature.

    Parameters
    ----------
    found
        One measure by model; nothing comes of fewer than two.
    """
    if len(found) < 2:
        return {}
    (first, reference), *others = found.items()
    return {model: f"{_against(first, reference, other)}" for model, other in others}


def _against(first: str, reference: Measurement, other: Measurement) -> str:
    if other.sample != reference.sample:
        return (
            f"not compared with {first}, whose sample is of another size ({reference.sample} "
            f"there, {other.sample} here)."
        )
    seen, unseen = [], []
    left_out = reference.bounds() | other.bounds() | reference.hidden() | other.hidden()
    for name in reference.headline or reference.figures():
        difference = _difference(name, reference.figures(), other.figures())
        if name in left_out or difference is None:
            continue
        text = reference.labels.get(name, name).replace("_", " ")
        value, error = difference
        if abs(value) > SEEN * error:
            seen.append(f"{text} {signed(uncertain(value, error))}")
        else:
            unseen.append(text)
    if not seen and not unseen:
        return f"no figure has a standard error by which to compare it with {first}."
    if not seen:
        return f"no difference from {first} can be seen ({', '.join(unseen)})."
    rest = f"; no difference can be seen in {', '.join(unseen)}" if unseen else ""
    return f"against {first}, {', '.join(seen)}{rest}."


def _difference(
    name: str, reference: Mapping[str, float], other: Mapping[str, float]
) -> tuple[float, float] | None:
    """The difference and its standard error; None where a figure has none."""
    errors = [_error(name, figures) for figures in (reference, other)]
    if any(error is None or not math.isfinite(error) for error in errors):
        return None
    return other[name] - reference[name], math.hypot(*(error or 0.0 for error in errors))


def _error(name: str, figures: Mapping[str, float]) -> float | None:
    """The standard error, or a 95 % interval as one."""
    if f"{name}_low" in figures:
        return (figures[f"{name}_high"] - figures[f"{name}_low"]) / (2 * SEEN)
    return figures.get(f"{name}_se")


def effects_of_alignment(
    found: Mapping[str, Measurement], diagnoses: Mapping[str, "Diagnosis"]
) -> dict[str, str]:
    """By aligned model: what is left of a model's distance that was trained alike without it.

    Where every unaligned model was trained otherwise too, the sentence says in what the first of
    them differs.
    """
    of = {model: one for model, one in found.items() if isinstance(one, AlignmentEffect)}
    plain = {model: one for model, one in of.items() if one.lambda_a == 0}
    told = {}
    for model, one in of.items():
        if one.lambda_a == 0 or not plain:
            continue
        apart = {
            name: _unlike(diagnoses[model].training, diagnoses[name].training) for name in plain
        }
        name = min(apart, key=lambda other: len(apart[other]))
        if not apart[name]:
            told[model] = one.beside(plain[name], name)
        else:
            told[model] = (
                f"{name} was trained otherwise in more than alignment ({', '.join(apart[name])}), "
                "so that τ is not compared with it."
            )
    return told


def _unlike(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """What differs, with both values: ``objective.beta.end: 0.2, there 0.5``."""
    names = dict.fromkeys([*one, *other])
    return [
        f"{name}: {number(one.get(name))}, there {number(other.get(name))}"
        for name in names
        if one.get(name) != other.get(name)
    ]
