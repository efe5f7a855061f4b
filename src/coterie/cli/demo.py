"""``coterie demo``: the whole job on invented data, in about a minute or two."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
from cyclopts import Parameter
from rich import box
from rich.console import Console, Group
from rich.table import Table

from coterie.cli.app import new_app
from coterie.cli.options import Json, Overwrite, Seed
from coterie.cli.output import Output, frame_table
from coterie.cli.paths import (
    DATA_FORMAT,
    MODEL,
    SPLIT_FORMAT,
    refuse_foreign,
    remove,
)
from coterie.cli.progress import Display
from coterie.cli.run_folder import RunSettings, refuse_foreign_run, remove_run
from coterie.cli.simulate import Outcome
from coterie.cli.trial import facts, missing_extra, shown, trial
from coterie.data.parts import Split
from coterie.data.splits import strong_generalization
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.errors import StorageError
from coterie.evaluation.protocol import evaluate
from coterie.evaluation.result import Estimate, Evaluation
from coterie.files import refuse_existing
from coterie.models.baselines.popularity import PopularityConfig
from coterie.recommender import Recommender
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import train

EXAMPLES = """\
Examples:
  coterie demo
  coterie demo --out /tmp/demo --seed 7 --json
"""

METRICS = ("recall_capped@20", "ndcg@100", "coverage@20")
EXAMPLE_USERS, EXAMPLE_ITEMS, HISTORY_SHOWN = 2, 5, 5
EPOCHS, LAMBDA_A = 40, 0.1  # chosen on the validation users

POPULARITY, ONLINE = "popularity", "online"

app = new_app("demo", EXAMPLES)


def experiments(seed: int) -> dict[str, Experiment]:
    """The three steps of the theory: clean input, masked input, masked input with PIA."""
    common = {
        "model": {"hidden_dims": (200,), "latent_dim": 64},
        "training": {"epochs": EPOCHS, "batch_size": 100, "patience": 8, "seed": seed},
    }
    beta = {"kind": "linear", "end": 0.2, "epochs": 10}
    return {
        "clean": Experiment.read({**common, "objective": {"beta": beta, "keep_probability": 1.0}}),
        "multi-vae": Experiment.read({**common, "objective": {"beta": beta}}),
        "multi-vae-pia": Experiment.read(
            {**common, "objective": {"beta": beta, "alignment": {"end": LAMBDA_A}}}
        ),
    }


TITLES = {
    POPULARITY: "popularity",
    "clean": "VAE, clean input",
    "multi-vae": "Multi-VAE",
    "multi-vae-pia": "Multi-VAE + PIA",
}


@app.default
def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")] = Path("demo"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Run the whole job on invented data: split, train, evaluate, recommend, test online."""
    output = Output(as_json=json)
    _make_room(out, overwrite=overwrite)
    output.note(f"1/5  inventing users and items: {out / 'data'}")
    data = synthetic(SyntheticConfig(), seed).interactions
    data.save(out / "data")
    output.note(f"2/5  splitting, {data.n_users // 10} users each held out: {out / 'split'}")
    held_out = data.n_users // 10
    split = strong_generalization(
        data, n_validation_users=held_out, n_test_users=held_out, rng=seed
    )
    split.save(out / "split")
    baseline = Recommender.fit(PopularityConfig(), split.train)
    baseline.save(out / POPULARITY / MODEL)
    results = {POPULARITY: _evaluate(baseline, split)}
    recommender: Recommender | None = None
    for name, experiment in experiments(seed).items():
        output.note(f"3/5  training {TITLES[name]}: {out / name}")
        recommender = _train(split, experiment, out, name)
        results[name] = _evaluate(recommender, split)
    assert recommender is not None
    output.note("4/5  recommending")
    examples = _examples(recommender, split)
    online = _online(out, seed, output)
    output.result(
        {
            "out": str(out),
            "results": {name: result.to_dict() for name, result in results.items()},
            "examples": examples,
            "online": online and facts(online),
        },
        _result_table(results),
        _paired(results, "multi-vae-pia", "multi-vae"),
        *map(_example, examples),
        *(shown(online, out / ONLINE) if online else ()),
        _where(out),
    )


def _online(out: Path, seed: int, output: Output) -> Outcome | None:
    """The last model against the first; None, and it is said, where what serves is missing."""
    if lacks := missing_extra():
        output.note(f"5/5  left out: the A/B test on a real server {lacks}")
        return None
    first, last = POPULARITY, "multi-vae-pia"
    output.note(f"5/5  an A/B test on a real server, {first} against {last}: {out / ONLINE}")
    arms = [(name, out / name / MODEL) for name in (first, last)]
    return trial(arms[0], arms[1], out / "split", out / ONLINE, output, seed=seed)


def _train(split: Split, experiment: Experiment, out: Path, name: str) -> Recommender:
    """Train into ``out/name``, on one thread: matrices this small gain nothing from more."""
    context = RunContext(device="cpu", precision="fp32")
    RunSettings(out / "split", experiment, context).save(out / name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        console = Console(stderr=True, highlight=False)
        with Display(console, line_per_epoch=False).running() as display:
            result = train(
                split.train,
                split.validation,
                experiment,
                context=context,
                folder=out / name,
                observer=display,
            )
    finally:
        torch.set_num_threads(threads)
    if result.stop_requested:
        raise KeyboardInterrupt
    result.recommender.save(out / name / MODEL)
    return result.recommender


def _make_room(out: Path, *, overwrite: bool) -> None:
    parts = {"data": DATA_FORMAT, "split": SPLIT_FORMAT}
    runs = [out / name for name in (POPULARITY, *experiments(0))]
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file; the demo needs a folder. Choose another path.")
    if overwrite:
        for name, format_ in parts.items():
            refuse_foreign(out / name, format_)
        for run in runs:
            refuse_foreign_run(run)
        for run in runs:
            remove_run(run)
        remove([out / name for name in parts])
    else:
        for path in (*(out / name for name in (*parts, ONLINE)), *runs):
            refuse_existing(path, overwrite=False)


def _evaluate(recommender: Recommender, split: Split) -> Evaluation:
    return evaluate(recommender, split.test, item_counts=split.train.item_counts())


def _examples(recommender: Recommender, split: Split) -> list[dict[str, Any]]:
    """The first test users: some of what they know, and what they are recommended."""
    users = split.test.fold_in.rows(np.arange(EXAMPLE_USERS))
    lists = recommender.recommend(users, k=EXAMPLE_ITEMS)
    frame = lists.to_frame()
    titles = recommender.catalogue
    return [
        {
            "user_id": user,
            "history": titles[users.row(place)[:HISTORY_SHOWN]]["title"].to_list(),
            "items_in_history": len(users.row(place)),
            "recommended": frame.filter(frame["user_id"] == user).drop("user_id").to_dicts(),
        }
        for place, user in enumerate(lists.user_ids)
    ]


def _result_table(results: dict[str, Evaluation]) -> Table:
    first = next(iter(results.values()))
    table = Table(
        title=f"{first.n_evaluated} test users, mean ± standard error",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("model")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for name, result in results.items():
        cells = [
            f"{result[metric]:.3f}"
            + ("" if metric in result.overall else f" ±{result.estimate(metric).stderr:.3f}")
            for metric in METRICS
        ]
        table.add_row(TITLES[name], *cells)
    return table


def _paired(results: dict[str, Evaluation], name: str, other: str) -> str:
    """The difference of two models on the same users, with its standard error."""
    metric = METRICS[1]
    gain = results[name].per_user[metric] - results[other].per_user[metric]
    return f"{TITLES[name]} against {TITLES[other]}, user by user: {metric} {Estimate.of(gain)}\n"


def _example(example: dict[str, Any]) -> Group:
    more = example["items_in_history"] - len(example["history"])
    knows = f"{example['user_id']} knows {', '.join(example['history'])} and {more} more."
    frame = pl.DataFrame(example["recommended"]).select("rank", "item_id", "title", "score")
    return Group(knows, frame_table(frame))


def _where(out: Path) -> str:
    run, split = str(out / "multi-vae-pia"), str(out / "split")
    lines = (
        ("info", run),
        ("evaluate", run, split),
        ("recommend", run, "--history", "i0001", "i0002", "-k", "5"),
    )
    tried = "\n".join(f"  {shlex.join([*_program(), *line])}" for line in lines)
    return f"Data set {out / 'data'}, split {out / 'split'}, models {out}/*/{MODEL}. Try:\n{tried}"


def _program() -> list[str]:
    """What calls the command line from here: an environment need not be activated."""
    if shutil.which("coterie"):
        return ["coterie"]
    beside = Path(sys.executable).with_name("coterie")
    return [os.path.relpath(beside)] if beside.exists() else [sys.executable, "-m", "coterie"]
