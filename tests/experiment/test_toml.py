"""What is written as TOML is read back as it was."""

import tomllib
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.experiment.settings import QUANTITIES, Experiment, read_experiment
from coterie.experiment.toml import _value, to_toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
NUMBERS = st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = TEXT | NUMBERS | st.booleans() | st.lists(TEXT)
SHARES = st.floats(1e-9, 0.49)


@given(st.dictionaries(TEXT, VALUES))
@settings(deadline=None)
def test_any_value(table):
    assert tomllib.loads(f"x = {_value(table)}")["x"] == table


def test_signs_that_json_escapes_otherwise():
    for text in ("\N{PARTY POPPER}", "\x7f", "\x00", "\x1f", "\\u0041", '"', "\u2028", "\n\t"):
        assert tomllib.loads(f"x = {_value(text)}")["x"] == text


@st.composite
def experiments(draw):
    start = draw(st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1))).replace(tzinfo=UTC)
    control, *arms = draw(st.lists(NAMES, min_size=2, max_size=4, unique=True))
    share = draw(SHARES) / len(arms)
    quantity = st.sampled_from(sorted(QUANTITIES))
    names = draw(st.lists(NAMES.map("m-".__add__), max_size=3, unique=True))
    optional = st.none() | NAMES
    return Experiment.read(
        {
            "name": draw(NAMES),
            "start": start,
            "end": start + draw(st.timedeltas(timedelta(microseconds=1), timedelta(days=400))),
            "arms": {control: 1 - share * len(arms), **dict.fromkeys(arms, share)},
            "salt": draw(optional),
            "surfaces": draw(st.lists(NAMES, max_size=3, unique=True)),
            "metrics": [
                {"name": name, "numerator": draw(quantity), "denominator": draw(quantity),
                 "numerator_surface": draw(optional), "denominator_surface": draw(optional),
                 "window_days": draw(st.none() | st.floats(1e-300, 1e300))}
                for name in names
            ],
            "guardrails": [{"metric": name, "margin": draw(SHARES)} for name in names],
            "exposed": draw(st.floats(0, 1, exclude_min=True)),
            "decision": draw(st.sampled_from(["anytime", "end"])),
            "minimum_effect": draw(SHARES),
        }
    )  # fmt: skip


@given(experiments())
@settings(deadline=None)
def test_an_experiment(tmp_path_factory, experiment):
    path = tmp_path_factory.mktemp("toml") / "experiment.toml"
    path.write_text(to_toml(experiment), encoding="utf-8")
    assert read_experiment(path) == experiment
