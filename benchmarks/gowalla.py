"""Quality of Multi-VAE with and without PIA, and of RecVAE, on Gowalla's published split.

    python benchmarks/gowalla.py --data ../shared/data --out benchmarks/results/gowalla.json

Each model is tuned on items of some users kept from the train set, by the metric in its settings.
The chosen values and number of epochs are then trained anew on all of the published train set, each
seed drawing its own weights, and the published test set is looked at once. Finished trials and runs
are kept in the output file, so that the script resumes.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy import stats

from coterie import presets
from coterie.comparison.contestants import VaeContestant
from coterie.data.parts import HeldOut, Split
from coterie.data.readers import read_interactions
from coterie.data.splits import given_split
from coterie.evaluation.protocol import evaluate
from coterie.evaluation.result import Evaluation
from coterie.files import atomic_file
from coterie.recommender import Recommender
from coterie.reproduce.models import usual_contestant
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import train

console = Console(stderr=True)
VALIDATION_SAMPLE = 5000  # of Gowalla's users: validating all would take longer than an epoch
METRICS = ("recall@20", "ndcg@20", "recall_capped@20", "recall_capped@50", "ndcg@100")


def shallow(
    beta: float, lambda_a: float, keep: float = 0.5, metric: str = "recall@20"
) -> Experiment:
    """Multi-VAE without hidden layers (200 latents), which trains fastest here."""
    training = {"batch_size": 1000, "learning_rate": 3e-3, "evaluate_every": 5, "patience": 3}
    settings = {
        "model": {"hidden_dims": []},
        "objective": {
            "keep_probability": keep,
            "beta": {"kind": "linear", "end": beta, "epochs": 10},
            "alignment": {"end": lambda_a},
        },
        "training": {**training, "metric": metric},
    }
    return presets.experiment("multi-vae", settings)


def decayed(model: str) -> Experiment:
    """What `coterie reproduce gowalla` trains: `shallow` with a learning rate that falls to 0."""
    contestant = usual_contestant(model, "gowalla")
    assert isinstance(contestant, VaeContestant)
    return contestant.experiment


def recvae(gamma: float, lambda_a: float = 0.0) -> Experiment:
    """RecVAE with its paper's network; Gowalla's short histories want a larger γ."""
    training: dict[str, Any] = {"batch_size": 1000, "learning_rate": 1e-3, "evaluate_every": 2}
    objective = {"gamma": gamma, "alignment": {"end": lambda_a}}
    training |= {"metric": "ndcg@20", "patience": 3}
    return presets.experiment("recvae", {"objective": objective, "training": training})


GOWALLA: dict[str, list[Experiment]] = {
    "Multi-VAE": [shallow(beta, 0.0) for beta in (0.5, 1.0)],
    "Multi-VAE + PIA": [shallow(1.0, lambda_a) for lambda_a in (0.1, 1.0)],
    "Multi-VAE, by ndcg": [
        shallow(beta, 0.0, keep, "ndcg@20") for beta, keep in ((2.0, 0.5), (1.0, 0.3), (1.0, 0.7))
    ],
    "Multi-VAE, decayed": [decayed("multi-vae")],
    "Multi-VAE + PIA, decayed": [decayed("multi-vae+pia")],
    "RecVAE": [recvae(gamma) for gamma in (0.01, 0.02, 0.04)],
}


COMPARED = [
    ("Multi-VAE + PIA", "Multi-VAE"),
    ("Multi-VAE + PIA, decayed", "Multi-VAE, decayed"),
]
"""Pairs that the same settings but for one thing are behind."""


def gowalla_split(folder: Path, seed: int) -> Split:
    """The published train and test; of some users 10 % of the train items are for validation."""
    train_data, test = (
        read_interactions(folder / "gowalla" / f"{part}.parquet") for part in ("train", "test")
    )
    split = given_split(train_data, test, validation_fraction=0.1, rng=seed)
    some = np.sort(np.random.default_rng(seed).permutation(train_data.n_users)[:VALIDATION_SAMPLE])
    held = split.validation
    return replace(split, validation=HeldOut(held.fold_in.rows(some), held.held_out.rows(some)))


def trained_for(settings: Experiment, seed: int, epochs: int) -> Experiment:
    """The same with another seed and number of epochs: all of them if its learning rate falls."""
    if settings.training.learning_rate_schedule.end == 0:
        epochs = settings.training.epochs
    training = settings.training.model_copy(update={"seed": seed, "epochs": epochs})
    return settings.model_copy(update={"training": training})


def machine() -> dict[str, Any]:
    """What a trial or run was made on, by RunContext's own choice."""
    context = RunContext()
    on_gpu = context.torch_device().type == "cuda"
    processor = torch.cpu.get_capabilities().get("cpu_name")
    return {
        "processor": torch.cuda.get_device_name() if on_gpu else processor,
        "precision": str(context.torch_dtype()).removeprefix("torch."),
        "cores": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


class Study:
    """Tuning, final runs and comparison of one data set's settings."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.path = options, options.out
        self.metric = "recall@20"
        self.grid = {name: GOWALLA[name] for name in options.models}
        self.record: dict[str, Any] = {"tuning": {}, "runs": {}}
        if self.path.exists():
            self.record = json.loads(self.path.read_text())

    def split(self, seed: int) -> Split:
        """The data of one seed; the test part is the published one for all seeds."""
        return gowalla_split(self.options.data, seed)

    def kept(self, section: str, key: str, make: Callable[[], Any]) -> Any:
        """The record under ``key``, made and saved if it is not there yet."""
        if key not in self.record[section]:
            start = time.perf_counter()
            made = make()
            made["seconds"] = time.perf_counter() - start
            made["machine"] = machine()
            self.record[section][key] = made
            with atomic_file(self.path) as aside:
                aside.write_text(json.dumps(self.record, indent=1))
        found = self.record[section][key]
        shown = {k: v for k, v in found.items() if not isinstance(v, list | dict)}
        console.print(section, key, shown)
        return found

    def trial(self, split: Split, settings: Experiment) -> dict[str, Any]:
        """Validation figure and best epoch of one candidate."""
        settings = trained_for(settings, self.options.seeds[0], self.options.epochs)
        result = train(split.train, split.validation, settings)
        return {"validation": result.best_value, "best_epoch": result.best_epoch}

    def choose(self, name: str) -> tuple[Experiment, int]:
        """The candidate with the best validation figure, and its best number of epochs."""
        split = self.split(self.options.seeds[0])
        trials = [
            self.kept("tuning", f"{name} {index}", partial(self.trial, split, settings))
            for index, settings in enumerate(self.grid[name])
        ]
        best = int(np.argmax([trial["validation"] for trial in trials]))
        return self.grid[name][best], trials[best]["best_epoch"]

    def run(self, settings: Experiment, epochs: int, seed: int) -> dict[str, Any]:
        """Train ``epochs`` epochs on all of the train set, and look at the test once."""
        split = self.split(seed)
        result = train(split.test.fold_in, None, trained_for(settings, seed, epochs))
        return self.figures(result.recommender, split) | {
            "settings": settings.model_dump(mode="json"),
            "best_epoch": result.best_epoch,
            "epochs": len(result.history),
        }

    def figures(self, recommender: Recommender, split: Split) -> dict[str, Any]:
        """Test means by metric and cohort, and the per-user values for the paired test."""
        found: Evaluation = evaluate(recommender, split.test)
        return {
            **{metric: found[metric] for metric in METRICS},
            "cohorts": {
                cohort.name: found.estimate(self.metric, cohort).to_dict()
                for cohort in found.cohorts
            },
            "users": found.user_ids.to_list(),
            "per_user": found.per_user[self.metric].round(6).tolist(),
        }

    def has_users(self, *names: str) -> bool:
        """Whether the runs have their users' figures, which a record may be stripped of."""
        keys = [f"{name} {seed}" for name in names for seed in self.options.seeds]
        return all("per_user" in self.record["runs"][key] for key in keys)

    def differences(self, name: str, baseline: str) -> dict[int, list[float]]:
        """Per user, the differences ``name`` − ``baseline`` in each seed that tests that user."""
        by_user: dict[int, list[float]] = {}
        for seed in self.options.seeds:
            ours, theirs = (self.record["runs"][f"{each} {seed}"] for each in (name, baseline))
            rows = zip(ours["users"], ours["per_user"], theirs["per_user"], strict=True)
            for user, mine, other in rows:
                by_user.setdefault(user, []).append(mine - other)
        return by_user

    def compare(self, name: str, baseline: str) -> dict[str, Any]:
        """Relative gain of ``name`` over ``baseline``, with two paired t-tests.

        Over users: a user whom several seeds test counts once, with the mean difference. Over
        seeds: one mean per seed.
        """
        per_user = [float(np.mean(found)) for found in self.differences(name, baseline).values()]
        means = np.array(
            [
                [np.mean(self.record["runs"][f"{each} {seed}"]["per_user"]) for each in pair]
                for seed in self.options.seeds
                for pair in [(name, baseline)]
            ]
        )
        several = len(means) > 1
        return {
            "metric": self.metric,
            "gain": float(means[:, 0].mean() / means[:, 1].mean() - 1),
            "p_users": float(stats.ttest_1samp(per_user, 0).pvalue),
            "n_users": len(per_user),
            "p_seeds": float(stats.ttest_rel(means[:, 0], means[:, 1]).pvalue) if several else None,
            "seeds_won": int(np.sum(means[:, 0] > means[:, 1])),
        }

    def main(self) -> None:
        """Tune, run, compare, print."""
        for name in self.grid:
            settings, epochs = self.choose(name)
            for seed in self.options.seeds:
                self.kept(
                    "runs",
                    f"{name} {seed}",
                    partial(self.run, settings, epochs, seed),
                )
        names = list(self.grid)
        self.record.setdefault("comparisons", {})
        self.record["comparisons"] |= {
            f"{name} / {baseline}": self.compare(name, baseline)
            for name, baseline in COMPARED
            if {name, baseline} <= set(names) and self.has_users(name, baseline)
        }
        with atomic_file(self.path) as aside:
            aside.write_text(json.dumps(self.record, indent=1))
        for name in names:
            runs = [self.record["runs"][f"{name} {seed}"] for seed in self.options.seeds]
            for metric in (
                "recall_capped@20",
                "recall_capped@50",
                "ndcg@100",
                "recall@20",
                "ndcg@20",
            ):
                values = np.array([run[metric] for run in runs])
                spread = values.std(ddof=1) if len(values) > 1 else float("nan")
                print(f"{name:18} {metric:17} {values.mean():.4f} ± {spread:.4f} n={len(values)}")
        print(json.dumps(self.record["comparisons"], indent=1))


def main() -> None:
    """Read the options and run the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds gowalla/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=GOWALLA, default=list(GOWALLA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=200, help="most epochs of a run")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Study(options).main()


if __name__ == "__main__":
    main()
