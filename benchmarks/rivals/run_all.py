"""Runs the rivals and our own runner in turn (A B C, A B C, ...) on one shape; prints medians.

    python benchmarks/rivals/run_all.py --data /tmp/small --out /tmp/results --rounds 3 --epochs 5

Our own: `--ours "python benchmarks/run_coterie.py"`. `--model recvae` has RecVAE trained, an epoch
of which is a set of 3 encoder epochs and 1 decoder epoch, by the rivals that have one.

Each run is a process of its own, in the environment that setup.sh made, on the CPU. `--ours` is
given the same options as a rival's runner and must write the same result file; it may be repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RIVALS = ("plain", "recbole", "recpack", "cornac", "recommenders", "implicit")
HAVE_RECVAE = ("plain", "recbole", "recpack", "cornac")
FIGURES = (
    "epoch_seconds_median",
    "epoch_seconds_best",
    "train_peak_rss_mb",
    "peak_rss_mb",
    "ndcg100",
    "topk_seconds",
    "busy_cores_of_others",
)


def environments() -> Path:
    """Folder of the rivals' virtual environments."""
    default = Path.home() / ".cache" / "coterie-rivals"
    return Path(os.environ.get("COTERIE_RIVALS", default))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder made by shapes.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result files")
    parser.add_argument("--model", choices=("multi-vae", "recvae"), default="multi-vae")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, help="all that have the model")
    parser.add_argument("--ours", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--topk-users", type=int, default=2_000)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--timeout", type=float, default=3_600, help="seconds for one run")
    arguments = parser.parse_args()
    able = HAVE_RECVAE if arguments.model == "recvae" else RIVALS
    if arguments.rivals is None:
        arguments.rivals = able
    if unable := set(arguments.rivals) - set(able):
        parser.error(f"no {arguments.model} in {', '.join(sorted(unable))}")
    if arguments.device != "cpu" and arguments.rivals != ["plain"]:
        parser.error(f"on {arguments.device} only --rivals plain runs")
    return arguments


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Name and command, without options, of each contestant; ours come first."""
    table = {}
    for place, command in enumerate(arguments.ours):
        table["ours" if place == 0 else f"ours-{place + 1}"] = shlex.split(command)
    for name in arguments.rivals:
        python = environments() / name / "bin" / "python"
        if not python.exists():
            sys.exit(f"no environment for {name}: run {HERE / 'setup.sh'} {name}")
        table[name] = [str(python), str(HERE / f"run_{name}.py")]
    return table


def foreign_cpu_seconds() -> float:
    """CPU seconds that the whole machine has used, less those of our finished runs (Linux)."""
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, ticks)
    machine = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    return machine - ours.ru_utime - ours.ru_stime


def run_once(
    name: str, command: list[str], arguments: argparse.Namespace, turn: int
) -> dict[str, Any]:
    """Run one contestant once; a failure becomes a result with an `error`."""
    out = (arguments.out / f"{name}-{turn}.json").resolve()
    out.unlink(missing_ok=True)
    options = {
        "--model": arguments.model,
        "--data": arguments.data.resolve(),
        "--out": out,
        "--epochs": arguments.epochs,
        "--threads": arguments.threads,
        "--topk-users": arguments.topk_users,
        "--seed": turn,
    }
    if arguments.max_steps:
        options["--max-steps"] = arguments.max_steps
    if arguments.device != "cpu":
        options["--device"] = arguments.device
    for option, value in options.items():
        command = [*command, option, str(value)]
    threads = str(arguments.threads)
    blas = "1" if name == "implicit" else threads  # implicit has threads of its own, and says so
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": blas,
    }
    if arguments.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    log = out.with_suffix(".log")
    start, foreign = time.perf_counter(), foreign_cpu_seconds()
    error = None
    with log.open("w") as stream:
        try:
            code = subprocess.run(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=arguments.timeout,
                check=False,
            ).returncode
            error = f"exit status {code}" if code else None
        except subprocess.TimeoutExpired:
            error = f"longer than {arguments.timeout:.0f} s"
    if error is None and not out.exists():
        error = "no result file"
    result = {"error": f"{error}, see {log}"} if error else json.loads(out.read_text())
    if result.get("epoch_seconds"):  # on a shared machine the best epoch is the least disturbed
        result["epoch_seconds_best"] = min(result["epoch_seconds"])
    wall = time.perf_counter() - start
    # Near 0 on a quiet machine. OpenMP's waiting threads make torch many times slower well below 1.
    others = (foreign_cpu_seconds() - foreign) / wall
    return result | {
        "contestant": name,
        "round": turn,
        "wall_seconds": wall,
        "busy_cores_of_others": others,
    }


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median, lowest and highest of each figure, per contestant, in order of first appearance."""
    rows = []
    for name in dict.fromkeys(result["contestant"] for result in results):
        good = [r for r in results if r["contestant"] == name and "error" not in r]
        if not good:
            first = next(r for r in results if r["contestant"] == name)
            rows.append({"contestant": name, "error": first["error"]})
            continue
        row: dict[str, Any] = {"contestant": name, "runs": len(good)}
        row |= {key: good[0].get(key) for key in ("library", "version", "framework", "python")}
        for figure in FIGURES:
            values = [r[figure] for r in good if r.get(figure) is not None]
            if values:
                row[figure] = statistics.median(values)
                row[f"{figure}_range"] = [min(values), max(values)]
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Lay the summary out as a Markdown table."""
    lines = [
        "| library | version | s/epoch (range) | best epoch | RSS, training | RSS, whole "
        "| NDCG@100 | top-100, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['contestant']} | | {row['error']} | | | | | |")
            continue
        low, high = row["epoch_seconds_median_range"]
        lines.append(
            f"| {row['library']} | {row['version']} | {row['epoch_seconds_median']:.2f} "
            f"({low:.2f} - {high:.2f}) | {row['epoch_seconds_best_range'][0]:.2f} "
            f"| {row['train_peak_rss_mb']:.0f} MiB "
            f"| {row['peak_rss_mb']:.0f} MiB | {row['ndcg100']:.4f} | {row['topk_seconds']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all rounds, write `summary.json` after each, print the table at the end."""
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    contestants = commands(arguments)
    results: list[dict[str, Any]] = []
    for turn in range(arguments.rounds):
        for name, command in contestants.items():
            result = run_once(name, command, arguments, turn)
            results.append(result)
            state = result.get("error") or f"{result['epoch_seconds_median']:.2f} s/epoch"
            print(
                f"round {turn + 1}, {name}: {state} ({result['wall_seconds']:.0f} s; others kept "
                f"{result['busy_cores_of_others']:.1f} cores busy)",
                flush=True,
            )
        summary = {"summary": summarise(results), "results": results}
        (arguments.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(table(summarise(results)))
    if any("error" in result for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
