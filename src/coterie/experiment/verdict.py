"""What the figures mean, in sentences that are honest about peeking and about many metrics."""

import math
from collections.abc import Iterator

from coterie.experiment.analysis import Analysis, Result
from coterie.experiment.effect import Interval
from coterie.experiment.log import LogFacts, arms_text
from coterie.experiment.mismatch import Mismatch
from coterie.experiment.settings import DAY, Experiment

UNIT = "\N{NO-BREAK SPACE}%"
CROSSED = 0.01  # share of users in two arms from which assignment is in doubt


def percent(share: float, *, sign: bool = True, unit: str = UNIT) -> str:
    """``+1.23 %``; three digits, ``–`` for nothing."""
    if not math.isfinite(share):
        return "–"
    size = abs(100 * share)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2
    plus = "−" if share < 0 else "+" if sign else ""
    return f"{plus}{size:,.{decimals}f}{unit}"


def span(interval: Interval, *, unit: str = UNIT) -> str:
    """``−0.10 % to +2.30 %``, or that there are no bounds."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return "no bounds"
    return f"{percent(interval.low, unit=unit)} to {percent(interval.high, unit=unit)}"


def p_text(p: float) -> str:
    """Two digits; ``< 0.0001`` below that."""
    if math.isnan(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def sentence(result: Result, analysis: Analysis) -> str:
    """The verdict as a sentence or two."""
    one, experiment = result.comparison, analysis.experiment
    name, control = one.metric.name, experiment.arm_names[0]
    level = f"{100 * (1 - experiment.alpha):g} %"
    found = (
        f"{percent(one.effect.lift)} against {control} ({level} interval {span(result.interval)}"
    )
    if result.verdict == "not valid":
        return (
            f"No verdict on {name}: the arms did not get their share of the users, so a difference "
            "may come from who is in them."
        )
    if result.verdict == "no data":
        return f"No verdict on {name}: it is zero, or the same for everybody, in {control}."
    if result.verdict == "too early":
        return f"No verdict on {name} yet: {_why_early(result, analysis)}"
    if result.role == "guardrail":
        return _guardrail(result, f"{name} of {one.arm}: {found})")
    p = f"{'adjusted ' if _corrected(result, analysis) else ''}p {_equals(result.p_value)}"
    if result.verdict == "undecided":
        return (
            f"No difference in {name} is shown for {one.arm}: {found}, {p}). "
            f"{_what_remains(result, analysis)}"
        )
    return f"{one.arm} is {result.verdict} on {name}: {found}, {p})."


def _equals(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def _corrected(result: Result, analysis: Analysis) -> bool:
    return sum(other.role == result.role for other in analysis.results) > 1


def _why_early(result: Result, analysis: Analysis) -> str:
    effect, experiment = result.comparison.effect, analysis.experiment
    fewest = min(effect.control.n, effect.treatment.n)
    if fewest < experiment.least_users:
        return f"{experiment.least_users:,} users per arm are needed, an arm has {fewest:,}."
    return (
        f"this experiment is decided once, at its end ({experiment.end:%Y-%m-%d %H:%M %Z}). "
        "Looking at p-values before would raise false alarms."
    )


def _what_remains(result: Result, analysis: Analysis) -> str:
    smallest = analysis.experiment.effect_of(result.comparison.metric)
    low, high = result.interval.low, result.interval.high
    if 0 not in result.interval:
        return (
            "The interval, which is not corrected, excludes zero; with several metrics looked at, "
            "that is not enough."
        )
    if -smallest < low and high < smallest:
        return f"Any effect of {percent(smallest, sign=False)} or more is ruled out."
    return (
        f"That is not proof of none: an effect of {percent(smallest, sign=False)}, the smallest "
        "worth finding, is not ruled out."
    )


def _guardrail(result: Result, found: str) -> str:
    margin = percent(result.margin or 0.0, sign=False)
    means = {
        "held": f"a worsening of more than {margin} is ruled out",
        "violated": f"it is worse by more than the accepted {margin}",
        "open": f"a worsening of more than {margin} is neither shown nor ruled out",
    }
    return f"Guardrail {result.verdict}: {means[result.verdict]}. {found}."


def warnings(analysis: Analysis) -> Iterator[str]:
    """What puts the verdicts in doubt, gravest first."""
    return doubts(analysis.mismatch, analysis.facts, analysis.experiment)


def doubts(mismatch: Mismatch, facts: LogFacts, experiment: Experiment) -> Iterator[str]:
    """:func:`warnings`, of what is known before the arms are compared."""
    if mismatch.alarm:
        yield _mismatch(mismatch, experiment)
    crossed, unknown = facts.crossed_users, sum(facts.unknown_arms.values())
    total = sum(mismatch.observed) + crossed + unknown
    if crossed > CROSSED * total:
        yield (
            f"{crossed:,} of {total:,} users were seen in two arms and left out: the assignment "
            "did not hold."
        )
    if facts.contradicted:
        yield _contradicted(facts, sum(mismatch.observed))
    if unknown:
        yield (
            f"{unknown:,} of {total:,} users were seen in arms that the experiment does not have "
            f"({arms_text(facts.unknown_arms)}) and left out."
        )


def _contradicted(facts: LogFacts, total: int) -> str:
    """That the log and the hash disagree; no user is named, as pages show this too."""
    one = facts.contradicted or {}
    hashed = "no arm" if one["by_hash"] is None else repr(one["by_hash"])
    return (
        f"{facts.contradicted_users:,} of {total:,} users have another arm in the log than the "
        f"hash gives them, for example {one['arm']!r} in the log and {hashed} by the hash "
        "(`analyze --json` names one: log.contradicted). They count in the log's arm. Unless "
        "something else assigns your users, labels are wrong, or name, salt, arms, group or "
        "exposed are not those of the events: find out which before believing the figures."
    )


def _mismatch(found: Mismatch, experiment: Experiment) -> str:
    """The alarm, with observed and expected users."""
    counts = ", ".join(
        f"{name} {seen:,} (expected {wanted:,.0f})"
        for name, seen, wanted in zip(
            experiment.arm_names, found.observed, found.expected, strict=True
        )
    )
    return (
        f"SAMPLE RATIO MISMATCH (p {_equals(found.p_value)}): {counts}. Users are lost or assigned "
        "wrongly in one arm; find the cause before believing any figure here."
    )


def _why_plain(experiment: Experiment) -> str:
    """Why CUPED adjusts nothing, and what would change that."""
    days, start = experiment.pre_period_days, experiment.start
    if not days:
        return "Values are not adjusted (CUPED), as pre_period_days = 0 says."
    return (
        f"Values are not adjusted (CUPED): that takes what these users did in the {days} days "
        "before the start; the log has no such events, or the same for everybody. For narrower "
        f"intervals add the site's events from {start - days * DAY:%Y-%m-%d} to "
        f"{start:%Y-%m-%d}, which need no experiment or arm."
    )


def method(analysis: Analysis) -> tuple[str, ...]:
    """How the verdicts come about: peeking, multiplicity, adjustment, what was left out."""
    experiment, facts = analysis.experiment, analysis.facts
    level, alpha = f"{100 * (1 - experiment.alpha):g} %", f"{100 * experiment.alpha:g} %"
    looks = (
        f"Decided at any time: intervals and p-values are always-valid, so that looking daily and "
        f"stopping when a verdict is there keeps false alarms below {alpha}. They are wider than "
        "those of a single look."
        if experiment.decision == "anytime"
        else "Decided once, at the end: intervals and p-values are for that single look."
    )
    adjusted = any(result.comparison.variance_reduction for result in analysis.results)
    cuped = (
        f"Values are adjusted for what the same users did in the {experiment.pre_period_days} days "
        "before the start (CUPED), which narrows intervals and moves no expectation: they need not "
        "be what the plain sums give."
        if adjusted
        else _why_plain(experiment)
    )
    return (
        f"{looks} Intervals are {level} each, for one metric; they are not corrected.",
        "p-values are corrected: of the primary metric by Holm over the treatments; of the "
        "secondary metrics by Benjamini–Hochberg over all of them and the treatments, so that of "
        f"those called better or worse about {alpha} may be false. Guardrails are not corrected: "
        "all must hold.",
        "The user is the unit; ratios have the delta method's standard errors; lifts have "
        f"Fieller's intervals. {cuped}",
        f"{facts.events:,} events read; {facts.duplicates:,} came twice and count once; "
        f"{facts.before_entry:,} before their user's entry do not count; {facts.crossed_users:,} "
        f"users in two arms and {sum(facts.unknown_arms.values()):,} in unknown arms are left out; "
        f"{facts.outside_users:,} users never entered.",
    )
