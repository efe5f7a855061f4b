"""Quality of our Multi-VAE, RecVAE and EASE beside RecBole's and plain PyTorch's, MovieLens-1M.

    benchmarks/rivals/setup.sh plain recbole
    python benchmarks/parity.py --data ../shared/data --out benchmarks/results/parity.json

Strong generalisation: of each seed's own split 600 users are for testing; 600 more, whom quality.py
validates on, nobody sees here. All train with the settings in contest.py, for a number of epochs
(of RecVAE: sets of 3 + 1) that is fixed beforehand, without early stopping; one function computes
NDCG@100 from everyone's lists. The rivals run in their own environments, by their runners of the
speed benchmark, to which the test users are given as if they were the validation users.

RecBole's VAEs differ as shipped: in training they draw z with a hundredth of the posterior's
deviation (`normal_(std=0.01)`), so that little of the posterior's noise reaches the decoder. Under
RecVAE's sampled KL the encoder can answer with a deviation a hundred times as large, but then the
old posterior in the composite prior is a hundred times too wide. Its RecVAE begins from Xavier
weights and biases of 0 where the authors' code keeps PyTorch's default. Each deviation is given to
our own training here (`DEVIATIONS`), to see whether it explains a difference.

Finished runs are kept in the output file, so that the script resumes.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy import sparse, stats
from torch import Tensor

import contest
import run_coterie
from coterie.data.interactions import Interactions
from coterie.data.prepare import PrepareOptions
from coterie.data.readers import read_interactions
from coterie.data.splits import strong_generalization
from coterie.files import atomic_file
from coterie.models import encoders, posterior, vae
from coterie.models.layers import xavier_normal

HERE = Path(__file__).resolve().parent
RECBOLE_NOISE = 0.01  # of the posterior's deviation


@contextmanager
def small_noise() -> Iterator[None]:
    """RecBole's defect: z is drawn with a hundredth of the posterior's deviation."""

    def draw(mu: Tensor, logvar: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.empty_like(mu).normal_(0, RECBOLE_NOISE, generator=generator)
        return torch.addcmul(mu, noise, torch.exp(0.5 * logvar))

    with mock.patch.object(posterior, "draw_normal", draw):
        yield


@contextmanager
def xavier_weights() -> Iterator[None]:
    """RecBole's first weights of RecVAE (but that ours draw mean and log-variance as one layer)."""

    def draw(weight: Tensor, bias: Tensor, n_in: int, generator: torch.Generator) -> None:
        xavier_normal(weight, bias, n_in, generator)
        with torch.no_grad():
            bias.zero_()

    with (
        mock.patch.object(encoders, "fan_in_uniform", draw),
        mock.patch.dict(vae.DECODER_DRAWS, {"densely-connected": draw}),
    ):
        yield


Deviations = tuple[Callable[[], Any], ...]
DEVIATIONS: dict[str, dict[str, Deviations]] = {
    "multi-vae": {"ours": (), "ours, noise of std 0.01": (small_noise,)},
    "recvae": {
        "ours": (),
        "ours, noise of std 0.01": (small_noise,),
        "ours, Xavier weights": (xavier_weights,),
        "ours, both": (small_noise, xavier_weights),
    },
    "ease": {"ours": ()},
}
RIVALS = {"multi-vae": ("recbole", "plain"), "recvae": ("recbole", "plain"), "ease": ("recbole",)}


def csr(data: Interactions) -> sparse.csr_matrix:
    """The histories as a matrix of ones."""
    ones = np.ones(data.nnz, dtype=np.float32)
    return sparse.csr_matrix((ones, data.indices, data.indptr), (data.n_users, data.n_items))


def write_split(raw: Path, folder: Path, seed: int) -> None:
    """Ratings of 4 and 5, users with 5 or more; the test users take the validation users' place."""
    rules = PrepareOptions(positive_threshold=4, min_user_items=5)
    data = read_interactions(raw / "ml-1m" / "ratings.parquet", options=rules)
    split = strong_generalization(data, n_validation_users=600, n_test_users=600, rng=seed)
    parts = {"train": split.train, "val_fold_in": split.test.fold_in}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (parts | {"val_held_out": split.test.held_out}).items():
        sparse.save_npz(folder / f"{name}.npz", csr(part))


def run_ours(options: contest.Options, deviations: Deviations) -> dict[str, Any]:
    """Train ours, with deviations; the lists' NDCG@100."""
    data = contest.load(options)
    clock = contest.EpochClock.of(options, data)
    with ExitStack() as stack:
        for deviation in deviations:
            stack.enter_context(deviation())
        recommender, _ = run_coterie.fitted(options, data, clock)
    ranked = run_coterie.top_lists(recommender, run_coterie.interactions(data.fold_in))
    precision = str(run_coterie.context(options).torch_dtype()).removeprefix("torch.")
    return {
        "ndcg100": contest.ndcg_at_k(ranked, data.held_out),
        "epoch_seconds": clock.seconds,
        "precision": "float32" if options.model == "ease" else precision,
    }


def run_rival(name: str, options: contest.Options) -> dict[str, Any]:
    """Run a rival's runner in its environment; the figures that it wrote."""
    root = Path(os.environ.get("COTERIE_RIVALS", Path.home() / ".cache" / "coterie-rivals"))
    command = [str(root / name / "bin" / "python"), str(HERE / "rivals" / f"run_{name}.py")]
    for option, value in vars(options).items():
        if value is not None:
            command += [f"--{option.replace('_', '-')}", str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    with options.out.with_suffix(".log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=True)
    result = json.loads(options.out.read_text())
    return {key: result[key] for key in ("ndcg100", "epoch_seconds", "library", "version")}


def interval(values: np.ndarray) -> str:
    """Mean of paired differences with its 95 % confidence interval by the t distribution."""
    if len(values) < 2:
        return f"{values.mean():+.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():+.4f} ({values.mean() - half:+.4f} to {values.mean() + half:+.4f})"


def table(runs: dict[str, dict[str, Any]], models: list[str], seeds: list[int]) -> str:
    """A Markdown table: mean and deviation over the seeds, differences paired by seed."""
    lines = [
        "| model | trained by | NDCG@100 | less ours (95 %) | less RecBole's (95 %) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for model in models:
        figures = {
            name: np.array([runs[f"{model}/{name}/{seed}"]["ndcg100"] for seed in seeds])
            for name in (*DEVIATIONS[model], *RIVALS[model])
        }
        for name, values in figures.items():
            spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
            differences = [
                "" if name == base else interval(values - figures[base])
                for base in ("ours", "recbole")
            ]
            lines.append(
                f"| {model} | {name} | {values.mean():.4f}{spread} | {' | '.join(differences)} |"
            )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with ml-1m/")
    parser.add_argument("--out", type=Path, required=True, help="JSON; runs are kept in it")
    parser.add_argument("--work", type=Path, default=Path("/tmp/coterie-parity"))
    parser.add_argument("--models", nargs="+", choices=contest.MODELS, default=list(contest.MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=100, help="of Multi-VAE")
    parser.add_argument("--sets", type=int, default=50, help="of RecVAE, of 3 + 1 epochs each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-steps", type=int, help="cut each epoch here, to try the script out")
    return parser.parse_args()


def run_options(arguments: argparse.Namespace, model: str, seed: int) -> contest.Options:
    """The options that all who train one model on one split are given."""
    folder = (arguments.work / f"split-{seed}").resolve()
    return contest.Options(
        model=model,
        data=folder,
        out=folder / f"{model}.json",
        epochs={"multi-vae": arguments.epochs, "recvae": arguments.sets, "ease": 1}[model],
        threads=arguments.threads,
        topk_users=10,
        max_steps=arguments.max_steps,
        seed=seed,
    )


def run(name: str, options: contest.Options) -> dict[str, Any]:
    """Train one contestant: a rival, or ours with the deviations that the name stands for."""
    if name in RIVALS[options.model]:
        out = options.out.with_stem(f"{options.model}-{name}")
        return run_rival(name, replace(options, out=out))
    return run_ours(options, DEVIATIONS[options.model][name])


def main() -> None:
    """Run what is not in the output file yet, seed by seed; print the table."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    settings = {key: getattr(arguments, key) for key in ("epochs", "sets", "max_steps")}
    record: dict[str, Any] = {"settings": settings, "runs": {}}
    if arguments.out.exists():
        record = json.loads(arguments.out.read_text())
        if record["settings"] != settings:
            raise SystemExit(f"{arguments.out} has runs with {record['settings']}; take another.")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        write_split(arguments.data, arguments.work / f"split-{seed}", seed)
        for model in arguments.models:
            for name in (*DEVIATIONS[model], *RIVALS[model]):
                key = f"{model}/{name}/{seed}"
                if key in record["runs"]:
                    continue
                found = run(name, run_options(arguments, model, seed))
                record["runs"][key] = found
                with atomic_file(arguments.out) as aside:
                    aside.write_text(json.dumps(record, indent=1) + "\n")
                seconds = sum(found["epoch_seconds"])
                print(f"{key}: {found['ndcg100']:.4f} in {seconds:.0f} s", flush=True)
    print(table(record["runs"], arguments.models, arguments.seeds))


if __name__ == "__main__":
    main()
