"""``coterie compare``: a whole comparison, continued, extended, refused, interrupted."""

import json
import re
import shutil
import signal

import polars as pl
import pytest
from command_line import HERE, start, stopped
from scipy import stats

AWKWARD = "a_b 5% &|x"
TINY = """\
[model]
hidden_dims = [12]
latent_dim = 4
[objective]
alignment = {end = 0.5}
[training]
epochs = 2
batch_size = 50
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A VAE's and a baseline's settings as files."""
    folder = tmp_path_factory.mktemp("files")
    (folder / f"{AWKWARD}.toml").write_text(TINY)
    (folder / "ease-2.toml").write_text('[model]\nname = "ease"\n[ease]\nl2 = 2.0\n')
    return folder


def command(data, out, models, *more):
    return ("compare", "--data", data, "--out", out, "--models", *models, *HERE, *more)


@pytest.fixture(scope="module")
def models(files):
    return ("popularity", files / f"{AWKWARD}.toml", files / "ease-2.toml")


@pytest.fixture(scope="module")
def compared(workspace, models, tmp_path_factory):
    """A finished comparison on two seeds, each with its own split."""
    from coterie.cli import main

    out = tmp_path_factory.mktemp("compare") / "c"
    words = command(workspace.data, out, models, "--seeds", 0, 1)
    assert main([str(word) for word in words]) == 0
    return out


def records(out):
    return {file.name: file.stat().st_mtime_ns for file in (out / "runs").iterdir()}


def test_what_a_comparison_leaves(compared):
    assert {file.name for file in compared.iterdir()} == {
        "settings.json",
        "splits",
        "runs",
        "report.html",
        "table.md",
        "table.tex",
        "results.json",
    }
    keys = ("popularity", "a_b%205%25%20%26%7Cx", "ease-2")
    assert set(records(compared)) == {
        f"seed-{seed}-{key}.{end}" for seed in (0, 1) for key in keys for end in ("json", "parquet")
    }
    assert r"a\_b 5\% \&$|$x &" in (compared / "table.tex").read_text()
    assert r"| a\_b 5% \&\|x |" in (compared / "table.md").read_text()
    page = (compared / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "a_b 5% &amp;|x" in page


def test_again_trains_nothing_and_the_table_is_the_runs(compared, coterie, workspace, models):
    before = records(compared)
    ended = coterie(*command(workspace.data, compared, models, "--seeds", 0, 1))
    assert ended.code == 0
    assert records(compared) == before
    assert "3 models on 2 seeds: 6 runs, 6 of them finished before" in ended.err
    assert "fewer than 3 seeds: no test over seeds" in ended.err
    table = ended.out.split("Written:")[0]
    assert max(map(len, table.splitlines())) <= 80
    means = [
        pl.read_parquet(compared / "runs" / f"seed-{seed}-ease-2.parquet")["ndcg@100"].mean()
        for seed in (0, 1)
    ]
    assert f"{sum(means) / 2:.4f} ±{abs(means[0] - means[1]) / 2**0.5:.4f}" in table
    assert "Differences are to popularity" in " ".join(table.split())


def test_json_by_hand(compared, coterie, workspace, models):
    facts = coterie(
        *command(workspace.data, compared, models, "--seeds", 0, 1, "--baseline", "ease-2"),
        *("--metrics", "ndcg@20", "hit_rate@50", "--json"),
    ).json()
    assert facts["metrics"] == ["ndcg@20", "hit_rate@50"]
    assert facts["data"]["split_per_seed"] is True
    popularity, vae, ease = facts["models"]
    assert (vae["name"], ease["name"]) == (AWKWARD, "ease-2")
    assert "difference" not in ease["metrics"]["ndcg@20"]
    assert ease["settings"]["options"] == {"l2": 2.0}
    assert vae["settings"]["experiment"]["objective"]["alignment"]["end"] == 0.5
    assert [run["best_epoch"] in (1, 2) for run in vae["runs"]] == [True, True]
    assert all(run["peak_memory"] > 1 << 20 for run in popularity["runs"])
    by_user = {}
    for seed in (0, 1):
        ours, theirs = (
            pl.read_parquet(compared / "runs" / f"seed-{seed}-{key}.parquet")
            for key in ("popularity", "ease-2")
        )
        both = ours.join(theirs, on="user_id")
        for user, a, b in both.select("user_id", "ndcg@20", "ndcg@20_right").iter_rows():
            by_user.setdefault(user, []).append(a - b)
    means = [sum(each) / len(each) for each in by_user.values()]
    test = popularity["metrics"]["ndcg@20"]["difference"]["over_users"]
    assert test["n"] == len(means) == popularity["metrics"]["ndcg@20"]["users"]
    assert test["p"] == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert test["p_holm"] >= test["p"]
    assert popularity["metrics"]["ndcg@20"]["difference"]["over_seeds"]["p"] is None
    assert facts == json.loads((compared / "results.json").read_text()) | {
        "comparison": str(compared),
        "report": str(compared / "report.html"),
    }


def test_a_model_is_added(compared, coterie, workspace, tmp_path):
    shutil.copytree(compared, tmp_path / "c")
    before = records(tmp_path / "c")
    ended = coterie(
        *command(workspace.data, tmp_path / "c", ("popularity", "item-knn"), "--seeds", 0),
        *("--test", "bootstrap", "--n-resamples", 50, "--json"),
    )
    assert ended.json()["seeds"] == [0]  # of which both are finished
    assert "2 runs, 1 of them finished before" in ended.err
    assert "2 of 2 runs: item-knn, seed 0: ndcg@100 0." in ended.err
    after = records(tmp_path / "c")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2


def test_a_split_and_a_trained_model(coterie, workspace, tmp_path):
    """The model is only loaded, and its figures are those of ``coterie evaluate``."""
    ended = coterie(
        *command(workspace.split, tmp_path / "c", ("popularity", workspace.run), "--seeds", 3),
        "--json",
    )
    facts = ended.json()
    assert [model["name"] for model in facts["models"]] == ["popularity", "run"]
    evaluated = coterie("evaluate", workspace.run, workspace.split, "--json").json()
    found = facts["models"][1]["metrics"]["ndcg@100"]["mean"]
    assert found == pytest.approx(evaluated["metrics"]["ndcg@100"]["mean"])
    assert not (tmp_path / "c" / "splits").exists()


def test_usual_metrics():
    from coterie.cli.compare import usual_metrics

    assert usual_metrics("strong-generalization")[0] == "ndcg@100"
    assert usual_metrics("weak-generalization") == ("recall@20", "ndcg@20")


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        (TINY.replace("[12]", "[13]"), (), "experiment.model.hidden_dims is [12] there and [13]"),
        (TINY, ("--test-users", 30), "data.settings.n_test_users is 20 there and 30 here"),
        (TINY, ("--precision", "bf16"), "precision is 'fp32' there"),
        (TINY, ("--metrics", "ndcg@7"), "did not measure ndcg@7"),
        (TINY, ("--epochs", 1), "experiment.training.epochs is 2 there and 1 here"),
    ],
)
def test_changed_settings_are_named(text, flags, expected, compared, coterie, workspace, tmp_path):
    before = records(compared)
    (tmp_path / f"{AWKWARD}.toml").write_text(text)
    words = command(
        workspace.data, compared, ("popularity", tmp_path / f"{AWKWARD}.toml"), "--seeds", 0, 1
    )
    if flags[:1] == HERE[2:3]:
        words = words[: words.index(flags[0])] + words[words.index(flags[0]) + 2 :]
    ended = coterie(*words, *flags)
    assert ended.code == 2
    assert expected in ended.err
    assert "Traceback" not in ended.err
    assert records(compared) == before


@pytest.mark.parametrize(
    ("data", "models", "flags", "expected"),
    [
        ("data", ("multi-vea", "ease"), (), "did you mean 'multi-vae'"),
        ("data", ("popularity", "eese"), (), "did you mean 'ease'"),
        ("data", ("popularity", "ease"), ("--baseline", "es"), "'es' is none of the models"),
        ("data", ("popularity",), (), "at least two models"),
        ("data", ("ease", "ease"), (), "Two models are called 'ease'"),
        ("data", ("popularity", "ease"), ("--metrics", "ndgc@20"), "did you mean 'ndcg'"),
        ("data", ("popularity", "ease"), ("--metrics", "ndcg"), "reads name@cut"),
        ("data", ("popularity", "ease"), ("--seeds", -1), "--seeds"),
        ("data", ("popularity", "ease"), ("--protocol", "given"), "coterie split --protocol"),
        ("data", ("popularity", "ease"), ("--protocol", "weak", "--test-users", 3), "no use for"),
        ("data", ("popularity", "ease"), ("--test-users", 0), "No test user"),
        ("data", ("popularity", "ease"), ("--checkpoint-minutes", 1), "keep no checkpoints"),
        ("data", ("popularity", "RUN"), (), "may have been trained on them"),
        ("data", ("popularity", "DATA"), (), "is a data set; expected a model"),
        ("split", ("popularity", "ease"), ("--test-users", 3), "is a split already"),
        ("nothing", ("popularity", "ease"), (), "does not exist"),
        ("run/model", ("popularity", "ease"), (), "is a model"),
    ],
)
def test_mistakes_leave_nothing(data, models, flags, expected, coterie, workspace, tmp_path):
    paths = {"RUN": workspace.run, "DATA": workspace.data}
    models = tuple(paths.get(model, model) for model in models)
    ended = coterie(*command(workspace.data.parent / data, tmp_path / "c", models, *flags))
    assert ended.code == 2
    assert expected in ended.message()
    assert not (tmp_path / "c").exists()


def test_wrong_settings_in_a_file(coterie, workspace, tmp_path):
    (tmp_path / "wrong.toml").write_text("[model]\nlatent_dims = 4\n")
    ended = coterie(
        *command(workspace.data, tmp_path / "c", ("popularity", tmp_path / "wrong.toml"))
    )
    assert ended.code == 2
    assert "wrong.toml: " in ended.message()
    assert "did you mean 'latent_dim'" in ended.message()


def test_fewer_epochs(coterie, workspace, models, tmp_path):
    words = command(workspace.data, tmp_path / "c", models, "--seeds", 0, "--epochs", 1, "--json")
    ended = coterie(*words)
    assert "at most 1 epochs: a quick look" in ended.err
    popularity, vae, _ = ended.json()["models"]
    assert vae["settings"]["experiment"]["training"]["epochs"] == vae["runs"][0]["epochs"] == 1
    assert popularity["runs"][0]["epochs"] is None
    odd = coterie(*command(workspace.data, tmp_path / "d", ("recvae", "ease"), "--epochs", 6))
    assert odd.code == 2
    assert "--epochs 6, recvae: " in odd.err
    assert "must be a multiple of 4" in odd.err


def test_a_model_of_other_items(coterie, workspace, tmp_path):
    split = tmp_path / "other"
    few = ("--protocol", "leave-one-out")
    log = pl.read_csv(workspace.log).filter(pl.col("item_id") != 1000)
    log.write_csv(tmp_path / "log.csv")
    coterie("prepare", tmp_path / "log.csv", "--out", tmp_path / "data")
    assert coterie("split", tmp_path / "data", "--out", split, *few).code == 0
    ended = coterie(*command(split, tmp_path / "c", ("popularity", workspace.run), "--seeds", 0))
    assert ended.code == 2
    assert "run knows" in ended.message()
    assert "Compare it on the split that it was trained on" in ended.message()


@pytest.mark.parametrize(("number", "deaf"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_stopped_and_again(number, deaf, coterie, compared, workspace, models, tmp_path):
    """A real signal to a real process, after its first run."""
    out = tmp_path / "c"
    words = command(workspace.data, out, models, "--seeds", 0)
    first = out / "runs" / "seed-0-popularity.json"
    err = stopped(start(*words, deaf=deaf), number, first.exists)
    assert "the same command goes on" in err
    before = records(out)
    assert 2 <= len(before) < 6
    assert coterie(*words).code == 0
    after = records(out)
    assert {name: after[name] for name in before} == before
    for file in (out / "runs").glob("*.parquet"):
        assert pl.read_parquet(file).equals(pl.read_parquet(compared / "runs" / file.name))
