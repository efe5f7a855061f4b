import json
from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
from made_up import START, events

from coterie.errors import ConfigError, DataError
from coterie.experiment.events import SCHEMA, Event, check_events, events_frame, read_events

EVENT = {"event_id": "e1", "user": 12, "kind": "click", "time": "2026-03-01T10:00:00+02:00"}


def test_an_event():
    event = Event.read({**EVENT, "item": 7, "experiment": "pia", "arm": "control"})
    assert (event.user, event.item) == ("12", "7")
    assert event.time == datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert events_frame([event]).collect().schema == SCHEMA


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"time": "2026-03-01T10:00:00"}, "timezone"),
        ({"kind": "buy"}, "'impression', 'click' or 'watch'"),
        ({"kind": "watch"}, "a watch has seconds"),
        ({"seconds": 3}, "only a watch"),
        ({"kind": "watch", "seconds": -1}, "greater than or equal to 0"),
        ({"kind": "watch", "seconds": 1e300}, "less than or equal to 1000000"),
        ({"time": "9999-12-31T23:59:59Z"}, "2200"),
        ({"time": "0001-01-01T00:00:00Z"}, "2000"),
        ({"experiment": "pia"}, "come together"),
        ({"arm": "pia"}, "come together"),
        ({"user": True}, "user"),
        ({"user": ""}, "user"),
        ({"usr": 1}, "did you mean 'user'"),
    ],
)
def test_what_is_no_event(changes, expected):
    with pytest.raises(ConfigError) as raised:
        Event.read({**EVENT, **changes})
    assert expected in str(raised.value)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_lines_and_parquet_are_alike(tmp_path):
    rows = [
        {"event_id": "a", "user": 5, "kind": "click", "time": "2026-03-01T10:00:00Z"},
        {"event_id": "b", "user": "x", "kind": "watch", "time": "2026-03-01T10:00:00.5+02:00",
         "seconds": 3, "else": [1]},
    ]  # fmt: skip
    lines = read_events([write_lines(tmp_path / "log.jsonl", rows)]).collect()
    lines.write_parquet(tmp_path / "log.parquet")
    assert read_events([tmp_path / "log.parquet"]).collect().equals(lines)
    assert lines["user"].to_list() == ["5", "x"]
    assert lines["time"].to_list() == [
        datetime(2026, 3, 1, 10, tzinfo=UTC),
        datetime(2026, 3, 1, 8, 0, 0, 500000, tzinfo=UTC),
    ]
    both = read_events([tmp_path / "log.jsonl", tmp_path / "log.parquet"]).collect()
    assert len(both) == 4


def test_integers_zones_and_missing_columns_of_parquet(tmp_path):
    east = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    frame = pl.DataFrame(
        {"event_id": [1], "user": [5], "kind": ["click"], "time": [east]},
        schema_overrides={"time": pl.Datetime("ms", "Europe/Helsinki")},
    )
    frame.write_parquet(tmp_path / "log.parquet")
    (row,) = read_events([tmp_path / "log.parquet"]).collect().to_dicts()
    assert row["time"] == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert (row["event_id"], row["user"], row["arm"]) == ("1", "5", None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"time": [datetime(2026, 3, 1)]}, "times need a time zone"),
        ({"user": [1.5]}, "column 'user' is String, got Float64"),
        ({"seconds": ["long"]}, "column 'seconds' is Float64"),
    ],
)
def test_parquet_of_other_types(changes, expected, tmp_path):
    good = {"event_id": ["a"], "user": ["u"], "kind": ["click"], "time": [START]}
    pl.DataFrame({**good, **changes}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=expected):
        read_events([tmp_path / "log.parquet"])


def test_files_that_are_no_logs(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_events([tmp_path / "log.parquet"])
    (tmp_path / "log.csv").write_text("user\n1\n")
    with pytest.raises(DataError, match=r"ends in .parquet, .pq, .jsonl, .ndjson"):
        read_events([tmp_path / "log.csv"])
    (tmp_path / "log.parquet").write_bytes(b"PAR1 no, not really")
    with pytest.raises(DataError, match="could not be read"):
        read_events([tmp_path / "log.parquet"])
    pl.DataFrame({"user": ["u"]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="lacks the column 'event_id'; it has: user"):
        read_events([tmp_path / "log.parquet"])
    (tmp_path / "bad.jsonl").write_text('{"event_id": "a", "user": \n')
    with pytest.raises(DataError):
        check_events(read_events([tmp_path / "bad.jsonl"]))
    with pytest.raises(DataError, match="A log of events is needed"):
        read_events([])


def test_naive_times_in_json_lines_are_found(tmp_path):
    rows = [{**EVENT, "event_id": str(at)} for at in range(3)]
    rows.append({**EVENT, "event_id": "late", "time": "2026-03-01T10:00:00"})
    with pytest.raises(
        DataError, match="1 events of the log have no time with a time zone"
    ) as found:
        check_events(read_events([write_lines(tmp_path / "log.jsonl", rows)]))
    assert "event_id late" in str(found.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"event_id": "a", "user": ', 'Syntax.* A line is one event.*: {"event_id": "a", "user":'),
        ("[1, 2]", r"JSON object.*\[1, 2\]"),
        (json.dumps({**EVENT, "seconds": "long"}), "'long'"),
        (json.dumps({**EVENT, "user": None}), "2 events of the log have no user"),
        ("{}", "2 events of the log have no event_id, for example: an empty one"),
    ],
)
@pytest.mark.parametrize("block", [2, 100])
def test_a_bad_line_is_named(line, expected, block, tmp_path, monkeypatch):
    monkeypatch.setattr("coterie.experiment.events.BLOCK", block)
    good = [json.dumps({**EVENT, "event_id": str(at)}) for at in range(5)]
    rest = "\n".join([*good[:3], "", line, good[3], line, good[4]])  # an empty line is none
    write_lines(tmp_path / "good.jsonl", [EVENT])
    (tmp_path / "bad.jsonl").write_text(rest)
    with pytest.raises(DataError, match=f"bad.jsonl, line 5: .*{expected}"):
        read_events([tmp_path / "good.jsonl", tmp_path / "bad.jsonl"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"event_id": None}, "have no event_id"),
        ({"user": None}, "have no user"),
        ({"kind": "buy"}, "are of no kind"),
        ({"kind": None}, "are of no kind"),
        ({"kind": "watch"}, "without seconds"),
        ({"seconds": 1.0}, "are no watch"),
        ({"kind": "watch", "seconds": -1.0}, "below 0"),
        ({"kind": "watch", "seconds": float("nan")}, "below 0 or above 1,000,000"),
        ({"kind": "watch", "seconds": 1e300}, "above 1,000,000"),
        ({"time": datetime(9999, 1, 1, tzinfo=UTC)}, "before 2000 or from 2200 on"),
        ({"time": datetime(1, 1, 1, tzinfo=UTC)}, "before 2000 or from 2200 on"),
        ({"arm": None}, "experiment without arm"),
        ({"experiment": None}, "arm without experiment"),
    ],
)
def test_rules_hold_for_every_row(changes, expected):
    good = ("a", "u", "click", 1, {"arm": "pia"})
    bad = ("b", "v", "click", 1, {"arm": "pia", **changes})
    with pytest.raises(DataError, match=expected) as raised:
        check_events(events([good, bad]))
    assert "1 events of the log" in str(raised.value)


def test_a_log_in_figures():
    log = events(
        [("a", "u", "click", 1, {"arm": "pia"})] * 2 + [("b", "v", "click", 5, {"arm": "pia"})]
    )
    (row,) = check_events(log).to_dicts()
    assert (row["events"], row["distinct"]) == (3, 2)
    assert row["last"] - row["first"] == timedelta(hours=4)
