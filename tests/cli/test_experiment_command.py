import json

import polars as pl
import pytest

from experiment.made_up import crowd

FILE = """\
name = "pia"
start = 2026-03-01T00:00:00Z
end = 2026-03-11T00:00:00Z
minimum_effect = 0.2
surfaces = ["home"]
guardrails = [{ metric = "ctr_per_user", margin = 0.3 }]

[arms]
control = 0.5
pia = 0.5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("experiment")
    (made / "pia.toml").write_text(FILE)
    frame = crowd(1500, lift=0.5, seed=1)
    frame.write_parquet(made / "events.parquet")
    frame.filter(pl.col("experiment").is_null()).write_parquet(made / "before.parquet")
    crowd(4000, keep=(1.0, 0.8), days=1).write_parquet(made / "lossy.parquet")
    half = frame.height // 2
    for name, part in (("one", frame.head(half + 100)), ("two", frame.tail(frame.height - half))):
        rows = part.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        rows.write_ndjson(made / f"{name}.jsonl")
    return made


@pytest.fixture
def run(coterie, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: coterie("experiment", *arguments)


def test_analyze(run):
    ended = run("analyze", "pia.toml", "--events", "events.parquet")
    assert (ended.code, ended.err) == (0, "")
    assert "pia is better on ctr_per_impression" in ended.out
    assert "Guardrail held" in ended.out
    table = ended.out.split("pia against control")[1].split("Primary metric")[0]
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "ctr_per_impression.home" in table  # in one line


def test_a_long_name_goes_on_in_another_line_at_a_word(run, folder):
    long = "share_of_sessions_with_a_long_watch_on_mobile.home"
    metric = f'[[metrics]]\nname = "{long}"\nnumerator = "clicks"\n\n[arms]'
    (folder / "long.toml").write_text(FILE.replace("[arms]", metric))
    ended = run("analyze", "long.toml", "--events", "events.parquet")
    table = ended.out.split("pia against control")[1].split("Primary metric")[0]
    assert all(len(line) <= 80 for line in table.splitlines())
    first, *rest = [line.split()[0] for line in table[table.index("share_of") :].splitlines()[:3]
                    if line.strip()]  # fmt: skip
    assert "".join([first, *rest]) == long
    assert rest
    assert all(part[0] in "._" for part in rest)


def test_analyze_for_machines_and_from_overlapping_lines(run):
    one = run("analyze", "pia.toml", "--events", "events.parquet", "--json").json()
    other = run("analyze", "pia.toml", "--events", "one.jsonl", "two.jsonl", "--json").json()
    repeated = ("--events", "one.jsonl", "--events", "two.jsonl")
    assert run("analyze", "pia.toml", *repeated, "--json").json() == other
    assert other["log"].pop("duplicates") == 100
    assert one["log"].pop("duplicates") == 0
    assert other["log"].pop("events") == one["log"].pop("events") + 100
    assert one == other
    assert one["finished"]
    assert one["results"][0]["verdict"] == "better"
    assert {point["day"] for point in one["by_day"]} == set(range(1, 11))
    nothing = [r for r in one["results"] if r["metric"] == "watch_seconds_per_user"]
    assert nothing[0]["lift"] is None


def test_analyze_part_of_the_time(run):
    found = run(
        "analyze", "pia.toml", "--events", "events.parquet", "--through", "2026-03-04T00:00:00Z",
        "--json",
    ).json()  # fmt: skip
    assert (found["days"], found["finished"]) == (3, False)


def test_page_and_figures(run, tmp_path):
    arguments = ("analyze", "pia.toml", "--events", "events.parquet")
    written = ("--html", tmp_path / "r.html", "--figures", tmp_path / "figures")
    ended = run(*arguments, *written)
    assert ended.code == 0
    assert f"Written: {tmp_path}/r.html" in ended.out.replace("\n", "")
    assert len(list((tmp_path / "figures").iterdir())) == 6
    again = run(*arguments, *written)
    assert (again.code, "exists already" in again.message()) == (2, True)
    assert run(*arguments, *written, "--overwrite").code == 0


def test_a_mismatch_is_said_first(run):
    ended = run("analyze", "pia.toml", "--events", "lossy.parquet")
    assert ended.code == 0
    assert ended.out.startswith("SAMPLE RATIO MISMATCH")
    assert "better" not in ended.out.split("Intervals are")[0]
    status = run("status", "pia.toml", "--events", "lossy.parquet")
    assert status.out.startswith("pia: SAMPLE RATIO MISMATCH")
    ended = run("analyze", "pia.toml", "--events", "lossy.parquet", "--json").json()
    (one,) = run("status", "pia.toml", "--events", "lossy.parquet", "--json").json()["experiments"]
    assert one["log"]["sample_ratio_mismatch"] == ended["sample_ratio_mismatch"]
    assert ended["sample_ratio_mismatch"]["alarm"]


def test_plan_from_a_log(run):
    ended = run("plan", "pia.toml", "--events", "before.parquet")
    assert ended.code == 0
    assert "users in pia" in ended.out
    facts = run("plan", "pia.toml", "--events", "before.parquet", "--json").json()
    assert facts["users"]["pia"] == facts["users"]["control"]
    assert facts["metric"] == "ctr_per_impression"
    assert max(map(len, ended.out.splitlines()[:12])) <= 80


def test_plan_from_figures(run):
    typed = ("--baseline-mean", 0.1, "--baseline-variance", 0.02)
    without = run("plan", "pia.toml", *typed, "--json").json()
    assert without["days"] is None
    slow = run("plan", "pia.toml", *typed, "--users-per-day", 50)
    assert "The planned 10 days are too short" in slow.out
    fast = run("plan", "pia.toml", *typed, "--users-per-day", 5000)
    assert "The planned 10 days are enough" in fast.out
    assert "times the users above" in fast.out


def test_status(run, folder):
    (folder / "next.toml").write_text(FILE.replace('"pia"', '"next"').replace("2026", "2126"))
    found = run("status", "pia.toml", "next.toml", "--events", "events.parquet", "--json").json()
    one, other = found["experiments"]
    assert (one["state"], one["day"], one["days"]) == ("ended", 10, 10)
    assert (other["state"], other["day"]) == ("planned", 0)
    assert sum(one["log"]["users"].values()) > 1000
    assert "log" not in other
    assert found["warnings"] == []
    assert "ended" in run("status", "pia.toml").out


def test_one_experiment_without_users_does_not_hide_the_others(run, folder):
    for name in ("empty", "odd"):
        (folder / f"{name}.toml").write_text(FILE.replace('"pia"', f'"{name}"'))
    events = pl.read_parquet(folder / "events.parquet")
    stray = events.filter(pl.col("arm") == "pia").head(3).with_columns(
        experiment=pl.lit("odd"), arm=pl.lit("typo"), event_id="s" + pl.col("event_id")
    )  # fmt: skip
    pl.concat([events, stray]).write_parquet(folder / "mixed.parquet")
    files = ("empty.toml", "odd.toml", "pia.toml")
    found = run("status", *files, "--events", "mixed.parquet", "--json").json()
    empty, odd, pia = found["experiments"]
    assert empty["log"] == {"users": {"control": 0, "pia": 0}, "days_with_events": 0}
    assert odd["log"] is None
    assert sum(pia["log"]["users"].values()) > 1000
    (warning,) = found["warnings"]
    assert warning.startswith("odd: ")
    assert "'typo'" in warning
    assert "control 0" in run("status", *files, "--events", "mixed.parquet").out


def test_a_stray_arm_is_a_warning(run, folder):
    events = pl.read_parquet(folder / "events.parquet")
    stray = events.filter(pl.col("arm") == "pia").head(1).with_columns(
        user=pl.lit("mallory"), arm=pl.lit("typo"), event_id=pl.lit("stray")
    )  # fmt: skip
    pl.concat([events, stray]).write_parquet(folder / "stray.parquet")
    ended = run("analyze", "pia.toml", "--events", "stray.parquet")
    assert (ended.code, ended.err) == (0, "")
    assert "arms that the experiment does not have ('typo' 1)" in ended.out.replace("\n", " ")
    found = run("analyze", "pia.toml", "--events", "stray.parquet", "--json").json()
    assert found["log"]["unknown_arms"] == {"typo": 1}
    assert "'typo' 1" in found["warnings"][0]
    assert "'typo' 1" in run("status", "pia.toml", "--events", "stray.parquet").out


def test_a_label_that_contradicts_the_hash_is_a_warning(run, folder):
    events = pl.read_parquet(folder / "events.parquet")
    user = events.filter(pl.col("arm") == "control")["user"][0]
    swapped = pl.when((pl.col("user") == user) & (pl.col("arm") == "control"))
    moved = swapped.then(pl.lit("pia")).otherwise("arm")
    events.with_columns(arm=moved).write_parquet(folder / "moved.parquet")
    said = (
        "1 of 1,498 users have another arm in the log than the hash gives them, for example "
        "'pia' in the log and 'control' by the hash"
    )
    ended = run("analyze", "pia.toml", "--events", "moved.parquet")
    assert (ended.code, ended.err) == (0, "")
    assert said in ended.out.replace("\n", " ")
    assert "pia is better on ctr_per_impression" in ended.out
    found = run("analyze", "pia.toml", "--events", "moved.parquet", "--json").json()
    assert found["log"]["contradicted"] == {"user": user, "arm": "pia", "by_hash": "control"}
    assert said in run("status", "pia.toml", "--events", "moved.parquet").out.replace("\n", " ")
    (folder / "salted.toml").write_text(FILE.replace("[arms]", 'salt = "other"\n[arms]'))
    found = run("analyze", "salted.toml", "--events", "events.parquet", "--json").json()
    assert found["log"]["contradicted_users"] > 600
    assert "name, salt, arms, group or exposed" in found["warnings"][0]


MISTAKES = [
    (("analyze", "pia.toml"), "", "--events"),
    (("analyze", "none.toml", "--events", "events.parquet"), "", "cannot be read"),
    (("analyze", "pia.toml", "--events", "none.parquet"), "", "does not exist"),
    (("analyze", "pia.toml", "--events", "before.parquet"), "", "Nobody in the log entered"),
    (("analyze", "pia.toml", "--events", "events.parquet", "--html", "x.txt"), "", ".html"),
    (("analyze", "pia.toml", "--events", "events.parquet", "--through", "2026-03-04"), "", "zone"),
    (("plan", "pia.toml"), "", "needs --events, or"),
    (("plan", "pia.toml", "--baseline-mean", "1"), "", "needs --events, or"),
    (
        ("plan", "pia.toml", "--events", "before.parquet", "--users-per-day", "5"),
        "",
        "not from both",
    ),
    (("status", "bad.toml"), ("pia = 0.5", "pia = 0.4"), "must sum to 1"),
    (("status", "bad.toml"), ("pia = 0.5", '"" = 0.5'), "arms"),
    (("status", "bad.toml"), ("2026-03-01T00:00:00Z", "2026-03-01T00:00:00"), "needs a zone"),
    (("status", "bad.toml"), ("surfaces", "surface"), "did you mean 'surfaces'"),
    (
        ("status", "bad.toml"),
        ("[arms]", '[[metrics]]\nname = "x"\nnumerator = "money"\n\n[arms]'),
        "'watch_seconds'",
    ),
    (("status", "pia.toml", "bad.toml"), ("0.3", "0.2"), "called 'pia'"),
    (("status", "pia.toml", "bad.toml"), ('name = "pia"', 'name = "b"\nsalt = "pia"'), "one salt"),
]


@pytest.mark.parametrize(("arguments", "change", "expected"), MISTAKES)
def test_mistakes(arguments, change, expected, run, folder):
    if change:
        (folder / "bad.toml").write_text(FILE.replace(*change))
    ended = run(*arguments)
    assert ended.code == 2
    assert expected in ended.message()


def test_slices_that_overlap(run, folder):
    for name, low, high in (("one", 0.0, 0.5), ("two", 0.4, 1.0)):
        group = f'\n[group]\nname = "g"\nslice = [{low}, {high}]\n'
        (folder / f"{name}.toml").write_text(FILE.replace('"pia"', f'"{name}"') + group)
    ended = run("status", "one.toml", "two.toml")
    assert ended.code == 2
    assert "overlap in group 'g': both have the users from 0.4 to 0.5" in ended.message()


def test_a_broken_event_is_shown(run, folder):
    row = {"event_id": "e", "user": 1, "kind": "click", "time": "2026-03-02T10:00:00"}
    (folder / "naive.jsonl").write_text(json.dumps(row) + "\n")
    ended = run("analyze", "pia.toml", "--events", "naive.jsonl")
    assert ended.code == 2
    assert "no time with a time zone" in ended.message()
