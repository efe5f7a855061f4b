import hashlib
import subprocess
import sys
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import START, experiment
from scipy.stats import chi2_contingency, chisquare

from coterie.errors import ConfigError, DataError
from coterie.experiment.assignment import OUTSIDE, Roster, arm_of, places_of

USERS = np.arange(20_000)
USER = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(min_size=1, max_size=40))
WEIGHTS = st.lists(st.integers(1, 50), min_size=2, max_size=6)


def by_the_book(one, user):
    """The documented rule, written out for one user with Python's integers."""
    digest = hashlib.sha256(f"{one.seasoning}:{user}".encode()).digest()
    ramp, place = (int.from_bytes(digest[at : at + 8]) // 2**11 / 2**53 for at in (0, 8))
    if one.group is not None:
        grouped = hashlib.sha256(f"group/{one.group.name}:{user}".encode()).digest()
        within = int.from_bytes(grouped[:8]) // 2**11 / 2**53
        if not one.group.slice[0] <= within < one.group.slice[1]:
            return None
    if ramp >= one.exposed:
        return None
    upto = 0.0
    for name, share in one.arms.items():
        upto += share
        if place < upto:
            return name
    return name


@given(USER, st.floats(0.01, 1.0), WEIGHTS, st.floats(0.0, 0.4), st.floats(0.5, 1.0))
def test_the_rule_that_other_languages_can_follow(user, exposed, weights, low, high):
    arms = {f"arm{at}": weight / sum(weights) for at, weight in enumerate(weights)}
    one = experiment(arms=arms, exposed=exposed, group={"name": "g", "slice": [low, high]})
    assert arm_of(one, user) == by_the_book(one, user)


@given(st.integers(-(2**63), 2**63 - 1))
def test_ids_spelled_alike_are_one_user(user):
    assert arm_of(experiment(), user) == arm_of(experiment(), str(user))


def test_many_are_as_one():
    one = experiment(exposed=0.7, group={"name": "g", "slice": [0.1, 0.9]})
    places = places_of(one, USERS)
    names = [None if place == OUTSIDE else one.arm_names[place] for place in places]
    assert names[:500] == [arm_of(one, int(user)) for user in USERS[:500]]
    assert (places == places_of(one, pl.Series(USERS).cast(pl.String))).all()
    assert (places == places_of(one, USERS.astype(str).tolist())).all()


def test_another_process_answers_the_same():
    """Python's own hash is salted anew in each."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from made_up import experiment; "
        "from coterie.experiment.assignment import places_of; "
        "print(*places_of(experiment(), range(200)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(__file__).rpartition("/")[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == [str(place) for place in places_of(experiment(), range(200))]


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_a_growing_ramp_moves_nobody(one, other):
    small, large = sorted((one, other))
    before = places_of(experiment(exposed=small), USERS[:2000])
    after = places_of(experiment(exposed=large), USERS[:2000])
    inside = before != OUTSIDE
    assert (before[inside] == after[inside]).all()


def test_shares_are_those_of_weights_and_ramp():
    one = experiment(arms={"a": 0.2, "b": 0.3, "c": 0.5}, exposed=0.4)
    places = places_of(one, np.arange(100_000))
    inside = places[places != OUTSIDE]
    assert len(inside) == pytest.approx(40_000, abs=4 * (100_000 * 0.24) ** 0.5)
    expected = len(inside) * np.array([0.2, 0.3, 0.5])
    assert chisquare(np.bincount(inside), expected).pvalue > 1e-4


def test_slices_exclude_and_cover():
    slices = [(0.0, 0.3), (0.3, 0.7), (0.7, 1.0)]
    inside = [
        places_of(experiment(name=f"e{at}", group={"name": "g", "slice": one}), USERS) != OUTSIDE
        for at, one in enumerate(slices)
    ]
    assert (np.sum(inside, axis=0) == 1).all()


def test_salts_and_ramp_are_independent():
    one, other = (places_of(experiment(salt=salt), USERS) for salt in ("spring", "autumn"))
    ramp = places_of(experiment(salt="spring", exposed=0.5), USERS) != OUTSIDE
    for left, right in ((one, other), (one, ramp)):
        table = np.histogram2d(left, right, bins=2)[0]
        assert chi2_contingency(table).pvalue > 1e-4


def test_a_roster_answers_for_what_runs():
    later = experiment(
        name="later", start=START + timedelta(days=20), end=START + timedelta(days=30)
    )
    half = experiment(name="half", group={"name": "g", "slice": [0.0, 0.5]})
    roster = Roster([experiment(), later, half])
    for user in range(50):
        found = roster.arms_of(user, START + timedelta(days=1))
        assert found.get("half") == arm_of(half, user)
        assert set(found) <= {"pia", "half"}
    assert set(roster.arms_of(1, START + timedelta(days=20))) == {"later"}
    assert roster.arms_of(1, START - timedelta(seconds=1)) == {}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, "called 'pia'"),
        ({"name": "x", "salt": "pia"}, "one salt, 'pia'"),
        ({"name": "x", "group": {"name": "g", "slice": [0.4, 0.6]}}, "users from 0.4 to 0.5"),
    ],
)
def test_experiments_that_cannot_run_together(other, expected):
    with pytest.raises(ConfigError, match=expected):
        Roster([experiment(group={"name": "g", "slice": [0.0, 0.5]}), experiment(**other)])


def test_slices_may_overlap_at_other_times_and_in_other_groups():
    one = experiment(group={"name": "g", "slice": [0.0, 0.5]})
    Roster([one, experiment(name="x", group={"name": "h", "slice": [0.0, 0.5]})])
    after = {"start": one.end, "end": one.end + timedelta(days=1)}
    Roster([one, experiment(name="x", group={"name": "g", "slice": [0.0, 0.5]}, **after)])


def test_a_user_is_an_integer_or_a_string():
    with pytest.raises(DataError, match="integers, strings"):
        places_of(experiment(), [1.5])


def test_nothing_needs_torch():
    code = (
        "import sys; import coterie.experiment.assignment, coterie.experiment.record, "
        "coterie.experiment.power, coterie.experiment.plots, coterie.experiment.report, "
        "coterie.cli.experiment; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
