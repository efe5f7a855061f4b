"""Differences between models: which are seen, which cannot be told, and alignment beside τ."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from coterie.mechanisms.alignment_effect import AlignmentEffect
from coterie.mechanisms.compared import differences, effects_of_alignment
from coterie.mechanisms.diagnose import Diagnosis
from coterie.mechanisms.measurement import SampleSize
from mechanisms.fake_measurements import Fake

BASE = {"far": 1.0, "far_se": 0.03, "like": 2.0, "like_se": 0.3, "bare": 1.0}


@dataclass(frozen=True, eq=False)
class Known(Fake):
    known: dict[str, float] = field(default_factory=dict)
    only_bounds: frozenset[str] = frozenset()

    def figures(self) -> dict[str, float]:
        return {**BASE, **self.known}

    def bounds(self) -> frozenset[str]:
        return self.only_bounds


def test_differences_have_errors_combined_in_quadrature() -> None:
    other = Known(known={"far": 1.5, "far_se": 0.04, "like": 2.5, "bare": 9.0})
    assert differences({"a": Known(), "b": other}) == {
        "b": "against a, far +0.50 ± 0.05; no difference can be seen in like."
    }
    other = Known(known={"far": 1.05})
    assert differences({"a": Known(), "b": other}) == {
        "b": "no difference from a can be seen (far, like)."
    }
    assert differences({"a": Known()}) == {}


def test_an_interval_stands_for_an_error() -> None:
    one = {"wide": 0.5, "wide_low": 0.5 - 1.96 * 0.03, "wide_high": 0.5 + 1.96 * 0.03}
    shifted = {name: value + 0.3 for name, value in one.items()}
    found = differences({"a": Known(known=one), "b": Known(known=shifted)})["b"]
    assert "wide +0.30 ± 0.04" in found


def test_bounds_and_other_samples_are_not_compared() -> None:
    other = Known(known={"far": 1.5}, only_bounds=frozenset({"far"}))
    assert "far" not in differences({"a": Known(), "b": other})["b"]
    other = replace(other, sample=SampleSize(41, 1000, "pairs of users"))
    assert "another size" in differences({"a": Known(), "b": other})["b"]


def effect(lambda_a: float, *, scale: float = 1.0, curvature: float = 2.0) -> AlignmentEffect:
    distance = scale * np.linspace(1, 3, 50)
    users, one = SampleSize(50, 50, "users"), np.arange(50)
    return AlignmentEffect(
        users, lambda_a, 0.2, 0.0, 0.5, one, one, distance, None, distance**2, distance,
        anchor_spread=0.1, spread=2.0, curvature=curvature, curvature_se=0.1,
        curvature_sample=users,
    )  # fmt: skip


def told(plain: AlignmentEffect, aligned: AlignmentEffect, **differs: Any) -> dict[str, str]:
    found = {"masking": plain, "pia": aligned}
    training = {"objective.beta.end": 0.2}
    diagnoses = {
        "masking": Diagnosis({}, {}, {}, training={**training, **differs}),
        "pia": Diagnosis({}, {}, {}, training=training),
    }
    return effects_of_alignment(found, diagnoses)


def test_what_alignment_left_stands_beside_the_prediction() -> None:
    found = told(effect(0.0), effect(1.0, scale=0.5, curvature=7.0))
    assert list(found) == ["pia"]
    # ratios .5 and .25; tau = 2 / (2 + 2) with the unaligned model's curvature
    assert "0.50 ± 0.03 is left, and 0.25 ± 0.03 of its variance" in found["pia"]
    assert "τ = 0.5 and τ² = 0.25 were predicted" in found["pia"]


def test_a_model_trained_otherwise_too_is_not_held_against_tau() -> None:
    found = told(effect(0.0), effect(1.0), **{"objective.beta.end": 0.5})
    assert "objective.beta.end: 0.2, there 0.5" in found["pia"]
    assert "predicted" not in found["pia"]
    assert told(effect(0.5), effect(1.0)) == {}
