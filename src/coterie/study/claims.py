"""The paper's claims as comparisons of one figure between two settings (arXiv 2511.06781)."""

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.study.settings import BETA, CLEAN, MASKING, METRIC, PIA, Plan

UNSEEN = (
    "Both are measured with the same masks; the model of clean input never met masks in training."
)
LIMIT = "The estimate cannot exceed the logarithm of the number of users it is made from."


@dataclass(frozen=True)
class Claim:
    """A figure of one setting is above or below that of another.

    Parameters
    ----------
    name, text
        A word for JSON, and the claim as a sentence.
    of, against
        Settings.
    measure, figure
        Which figure; ``"test"`` for a metric of the test users.
    sign
        +1: ``of`` is above ``against``.
    unit
        What the figure is, for people.
    cohort
        Test users of one group of history lengths only.
    note
        What to keep in mind.
    """

    name: str
    text: str
    of: str
    against: str
    measure: str
    figure: str
    sign: int
    unit: str
    cohort: str | None = None
    note: str = ""


def claims(plan: Plan, cohorts: Sequence[str]) -> list[Claim]:
    """All comparisons, in the order of the paper's argument."""
    return [*_locality(), *_stability(), *_collapse(plan), *_quality(cohorts)]


def _locality() -> list[Claim]:
    return [
        Claim(
            name=name,
            text=text,
            of=of,
            against=against,
            measure="collaboration",
            figure=figure,
            sign=1,
            unit=unit,
        )
        for name, text, of, against, figure, unit in (
            (
                "clean-is-local",
                "Clean input is local: the nearest pairs give more of the help than with masking.",
                CLEAN,
                MASKING,
                "local_share_of_help",
                "Local share of help",
            ),
            (
                "masking-is-global",
                "Masking raises the global share of help.",
                MASKING,
                CLEAN,
                "global_share",
                "Global share of help",
            ),
            (
                "pia-is-global",
                "PIA raises the global share further.",
                PIA,
                MASKING,
                "global_share",
                "Global share of help",
            ),
        )
    ]


def _stability() -> list[Claim]:
    variance = "Variance across masks"
    return [
        Claim(
            name="masking-drifts",
            text="Masking raises drift: neighbours change from mask to mask.",
            of=MASKING,
            against=CLEAN,
            measure="drift",
            figure="drift",
            sign=1,
            unit="Drift",
            note=UNSEEN,
        ),
        Claim(
            name="pia-steadies",
            text="PIA lowers drift.",
            of=PIA,
            against=MASKING,
            measure="drift",
            figure="drift",
            sign=-1,
            unit="Drift",
        ),
        Claim(
            name="pia-shrinks",
            text="PIA lowers the variance of a user's code across masks.",
            of=PIA,
            against=MASKING,
            measure="drift",
            figure="mask_variance",
            sign=-1,
            unit=variance,
        ),
        Claim(
            name="pia-shrinks-relatively",
            text="PIA lowers this variance also relative to the variance between users.",
            of=PIA,
            against=MASKING,
            measure="drift",
            figure="relative_mask_variance",
            sign=-1,
            unit=f"{variance} / between users",
        ),
    ]


def _collapse(plan: Plan) -> list[Claim]:
    """The largest β of the sweep against the base; nothing if none is above the base."""
    base = plan.config.beta
    largest = max(plan.sweeps[BETA], default=base)
    if largest <= base:
        return []
    return [
        Claim(
            name=name,
            text=f"Too large a β collapses the posterior: {what} at {largest:g} than at {base:g}.",
            of=plan.sweeps[BETA][largest],
            against=MASKING,
            measure="information",
            figure=figure,
            sign=-1,
            unit=unit,
            note=note,
        )
        for name, what, figure, unit, note in (
            ("beta-collapses", "fewer active units", "active_units", "Active units", ""),
            ("beta-forgets", "less information", "mutual_information", "I(X; Z) in nats", LIMIT),
        )
    ]


def _quality(cohorts: Sequence[str]) -> list[Claim]:
    pairs = (
        ("masking-helps", "Masking is ahead of clean input", MASKING, CLEAN),
        ("pia-helps", "PIA is ahead of masking", PIA, MASKING),
    )
    groups: list[str | None] = [None, *cohorts]
    return [
        Claim(
            name=name if cohort is None else f"{name}-{slug(cohort)}",
            text=f"{text} in {METRIC.upper()}"
            + ("." if cohort is None else f" for users with {cohort} items."),
            of=of,
            against=against,
            measure="test",
            figure=METRIC,
            sign=1,
            unit=METRIC.upper(),
            cohort=cohort,
        )
        for name, text, of, against in pairs
        for cohort in (groups if of == PIA else groups[:1])
    ]


def slug(cohort: str) -> str:
    """A cohort's name in ASCII: ``5–10`` → ``5-10``, ``>100`` → ``over-100``."""
    return cohort.replace("–", "-").replace(">", "over-").replace(" ", "-")
