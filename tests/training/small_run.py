"""A small run for tests; as a script, a process of its own that can be killed at a known place."""

import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie import presets
from coterie.data.interactions import Interactions
from coterie.data.parts import Split
from coterie.data.splits import strong_generalization
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.training import checkpoint
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import StepReport, TrainingResult, train

DATA = {"n_users": 500, "n_items": 160, "n_communities": 5, "n_niches": 8, "mean_history": 15}
NEVER, ALWAYS = 60.0, 1e-9  # minutes between checkpoints within an epoch


@cache
def small_split(seed: int = 0) -> Split:
    """340 users to train on, in 17 batches of 20; 80 to validate and 80 to test on."""
    data = synthetic(SyntheticConfig.read(DATA), seed).interactions
    return strong_generalization(data, n_validation_users=80, n_test_users=80, rng=seed)


def experiment(
    *,
    model: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    pia: float = 1.0,
    **training: Any,
) -> Experiment:
    """Three epochs of a small network, with PIA unless ``pia`` is 0."""
    defaults = {
        "epochs": 3,
        "batch_size": 20,
        "learning_rate": 5e-3,
        "metric": "ndcg@20",
        "patience": None,
    }
    model = {"hidden_dims": [24], "latent_dim": 8, **(model or {})}
    ramp = {"beta": {"kind": "linear", "end": 0.2, "epochs": 2}}
    weighs = {} if model.get("name") == "multi-dae" else ramp
    return Experiment.read(
        {
            "model": model,
            "objective": {**weighs, "alignment": {"end": pia}, **(objective or {})},
            "training": {**defaults, **training},
        }
    )


SMALL_MODELS: dict[str, dict[str, Any]] = {
    "multi-vae": {"hidden_dims": [24], "latent_dim": 8},
    "multi-dae": {"hidden_dims": [], "latent_dim": 8},
    "recvae": {"hidden_dims": [24] * 3, "latent_dim": 8},
    "h-vamp-gated": {
        "hidden_dims": [24, 24],
        "latent_dim": 16,
        "prior": {"n_pseudo_inputs": 20},
    },
}


def preset(name: str, **training: Any) -> Experiment:
    """A preset with a small network; eight epochs, which are two sets of RecVAE's."""
    settings = {"epochs": 8, "batch_size": 20, "metric": "ndcg@20", "patience": None, **training}
    model = SMALL_MODELS[name.removesuffix("+pia")]
    return presets.experiment(name, {"model": model, "training": settings})


def context(*, precision: str = "fp32", checkpoint_minutes: float = NEVER) -> RunContext:
    """On the CPU."""
    values = {"device": "cpu", "precision": precision, "checkpoint_minutes": checkpoint_minutes}
    return RunContext.read(values)


def run(
    settings: Experiment | None = None, *, within: RunContext | None = None, **options: Any
) -> TrainingResult:
    """Train on the small split."""
    split = small_split()
    options = {"validation": split.validation, **options}
    settings, within = settings or experiment(), within or context()
    return train(split.train, experiment=settings, context=within, **options)


class Popularity:
    """What every model must beat."""

    def __init__(self, data: Interactions) -> None:
        self.n_items = data.n_items
        self.counts = torch.from_numpy(data.item_counts()).float()

    def score(self, fold_in: Interactions) -> Tensor:
        return self.counts.repeat(fold_in.n_users, 1)


class StopAt:
    """At one step of one epoch: leave a mark, then do nothing until there is a file ``go``."""

    def __init__(self, folder: Path, epoch: int, step: int) -> None:
        self.folder, self.at = folder, (epoch, step)

    def wait(self) -> None:
        (self.folder / "reached").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.01)

    def step(self, report: StepReport) -> None:
        if (report.epoch, report.step_in_epoch) == self.at:
            self.wait()

    def epoch(self, record: dict[str, Any]) -> None:
        pass


class StopWithinCheckpoint(StopAt):
    """Stop in the middle of writing the first checkpoint after the given step."""

    def step(self, report: StepReport) -> None:
        if (report.epoch, report.step_in_epoch) == self.at:
            save = checkpoint.save_file

            def half(tensors: Any, path: Path, header: Any) -> None:
                save(tensors, path, header)
                content = path.read_bytes()
                path.write_bytes(content[: len(content) // 2])
                self.wait()

            checkpoint.save_file = half


def main() -> None:
    """Arguments: folder, epoch, step, minutes between checkpoints, where to stop, preset."""
    torch.set_num_threads(1)
    folder, epoch, step, minutes, where, *name = sys.argv[1:]
    stop = {"step": StopAt, "write": StopWithinCheckpoint}[where]
    observer = stop(Path(folder), int(epoch), int(step))
    result = run(
        preset(*name) if name else None,
        within=context(checkpoint_minutes=float(minutes)),
        folder=Path(folder) / "run",
        observer=observer,
    )
    print(json.dumps({"interrupted": result.interrupted, "epochs": len(result.history)}))


if __name__ == "__main__":
    main()
