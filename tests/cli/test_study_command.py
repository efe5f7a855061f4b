"""``coterie study settings``: a whole study, continued, refused, interrupted."""

import json
import re
import shutil
import signal

import pytest
from command_line import start, stopped

TINY = {
    "--hidden-dims": [12],
    "--latent-dim": [5],
    "--batch-size": [50],
    "--epochs": [2],
    "--evaluate-every": [1],
    "--betas": [0.2],
    "--rhos": [0.5],
    "--lambdas": [0, 2],
    "--no-ablation": [],
    "--beta-ramp": [1],
    "--measured-users": [120],
    "--budget": [0.5],
    "--device": ["cpu"],
    "--precision": ["fp32"],
}
KEYS = ("clean", "masking", "pia", "lambda_a-2")


@pytest.fixture(scope="module")
def study(workspace, tmp_path_factory):
    """A finished study of two seeds, each with its own split."""
    from coterie.cli import main

    out = tmp_path_factory.mktemp("study") / "s"
    assert main([str(word) for word in command(workspace.data, out, "--seeds", 0, 1)]) == 0
    return out


def command(data, out, *more):
    """A tiny study; a flag among ``more`` takes the place of the same one here."""
    flags = [word for flag, values in TINY.items() if flag not in more for word in (flag, *values)]
    return ("study", "settings", "--data", data, "--out", out, *flags, *more)


def records(out):
    return {file.name: file.stat().st_mtime_ns for file in (out / "runs").iterdir()}


def test_what_a_study_leaves(study):
    names = {file.name for file in study.iterdir()}
    assert names == {"settings.json", "runs", "models", "report.html", "summary.md", "results.json"}
    assert set(records(study)) == {f"seed-{seed}-{key}.json" for seed in (0, 1) for key in KEYS}
    page = (study / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "latent" in page.lower()


def test_again_trains_nothing(study, coterie, workspace, tmp_path):
    before = records(study)
    ended = coterie(*command(workspace.data, study, "--seeds", 0, 1, "--figures", tmp_path / "f"))
    assert ended.code == 0
    assert records(study) == before
    assert "8 runs, 8 of them finished before" in ended.err
    assert "masking + PIA" in ended.out
    assert "UNCLEAR" in ended.out
    assert max(map(len, ended.out.split("Of ")[0].splitlines())) <= 80
    assert (tmp_path / "f" / "quality.svg").exists()


def test_a_file_gives_the_same_settings_as_flags(study, coterie, workspace, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(
        "[study]\nhidden_dims = [12]\nlatent_dim = 5\nbatch_size = 50\nepochs = 2\n"
        "evaluate_every = 1\nbetas = [0.2]\nrhos = [0.5]\nlambdas = [0, 2]\nablation = false\n"
        "beta_ramp = 1\nmeasured_users = 120\nbudget = 9\n"
        '[run]\ndevice = "cpu"\nprecision = "fp32"\n'
    )
    given = ("--config", file, "--seeds", 0, 1)
    run = ("study", "settings", "--data", workspace.data, "--out", study, *given)
    ended = coterie(*run, "--budget", 0.5)
    assert ended.code == 0, ended.err
    assert "8 runs, 8 of them finished before" in ended.err
    other = coterie(*run)
    assert other.code == 2
    assert "budget is 0.5 there and 9.0 here" in other.message()


def test_another_seed_is_added_and_told(study, coterie, workspace, tmp_path):
    shutil.copytree(study, tmp_path / "s")
    before = records(tmp_path / "s")
    ended = coterie(*command(workspace.data, tmp_path / "s", "--seeds", 5, "--json"))
    facts = ended.json()
    assert facts["seeds"] == [0, 1, 5]
    assert len(facts["findings"]) > 5
    assert facts["settings"]["pia"]["figures"]["ndcg@100"]["mean"] > 0
    assert "4 of 4 runs" in ended.err
    assert "left" in ended.err
    after = records(tmp_path / "s")
    assert len(after) == 12
    assert {name: after[name] for name in before} == before


def test_a_kept_split(coterie, workspace, tmp_path):
    assert coterie(*command(workspace.split, tmp_path / "s", "--seeds", 0)).code == 0
    settings = json.loads((tmp_path / "s" / "settings.json").read_text())
    assert settings["data"]["split_per_seed"] is False
    assert "The split is the same for all seeds" in (tmp_path / "s" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--epochs", 3), "study.epochs is 2 there and 3 here"),
        (("--lambdas", 0, 3), "study.lambdas"),
        (("--test-users", 30), "data.settings.n_test_users is 20 there and 30 here"),
        (("--precision", "bf16"), "precision is 'fp32' there"),
    ],
)
def test_another_study_in_the_same_folder(flags, expected, study, coterie, workspace):
    before = records(study)
    ended = coterie(*command(workspace.data, study, *flags))
    assert ended.code == 2
    assert expected in ended.message()
    assert records(study) == before


@pytest.mark.parametrize(
    ("data", "flags", "expected"),
    [
        ("nothing", (), "does not exist"),
        ("split", ("--test-users", 3), "is a split already"),
        ("run/model", (), "is a model"),
        ("data", ("--rho", 1), "study.rho"),
        ("data", ("--seeds", -1), "--seeds"),
        ("data", ("--test-users", 0), "No test user"),
        ("data", ("--device", "mps"), "not available"),
        ("data", ("--lambda", 3), "--lambda"),
    ],
)
def test_mistakes_leave_nothing(data, flags, expected, coterie, workspace, tmp_path):
    source = workspace.data.parent / data
    ended = coterie(*command(source, tmp_path / "s", *flags))
    assert ended.code == 2
    assert expected in ended.message()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("number", "deaf"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_stopped_and_again(number, deaf, study, coterie, workspace, tmp_path):
    """A real signal to a real process, after its first run."""
    words = command(workspace.data, tmp_path / "s", "--seeds", 0)
    first = tmp_path / "s" / "runs" / "seed-0-clean.json"
    err = stopped(start(*words, deaf=deaf), number, first.exists)
    assert "the same command goes on" in err
    before = records(tmp_path / "s")
    assert 1 <= len(before) < 4
    assert coterie(*words).code == 0
    after = records(tmp_path / "s")
    assert {name: after[name] for name in before} == before

    def users(folder, name):
        return json.loads((folder / "runs" / name).read_text())["per_user"]

    assert all(users(tmp_path / "s", name) == users(study, name) for name in after)
