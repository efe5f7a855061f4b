"""Times the preparation of a MovieLens-20M-shaped CSV, beside pandas as the field writes it.

    python benchmarks/prepare_speed.py --out prepare.json          # 20 M rows, medians of 5
    python benchmarks/prepare_speed.py --rows 1000000 --repeats 1  # a quick look

Each measurement runs in a process of its own: read the CSV, keep ratings of 4 and more of users
with at least 5 of them, and leave a data set on disk. Seconds do not count imports; the peak is the
resident memory of the whole process, imports counted; processor seconds count imports too and
vary less on a busy machine. Both must keep the same number of rows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

USERS, ITEMS, LARGEST_ITEM = 138_493, 26_744, 131_262
SUBJECTS = ("coterie", "pandas")


def write_csv(path: Path, rows: int, seed: int, order: str) -> None:
    """Write a skewed log with distinct pairs: userId,movieId,rating,timestamp."""
    import polars as pl

    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0.0, 1.2, USERS) + 0.1
    popularity = 1 / np.arange(1, ITEMS + 1) ** 0.7
    item_ids = rng.permutation(np.sort(rng.choice(LARGEST_ITEM, ITEMS, replace=False) + 1))
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < rows:
        n = int((rows - len(keys)) * 1.3) + 1000
        user = np.searchsorted(np.cumsum(activity / activity.sum()), rng.random(n))
        item = np.searchsorted(np.cumsum(popularity / popularity.sum()), rng.random(n))
        user, item = np.minimum(user, USERS - 1), np.minimum(item, ITEMS - 1)
        keys = np.unique(np.concatenate([keys, user * ITEMS + item]))
    keys = rng.choice(keys, rows, replace=False) if order == "shuffled" else keys[:rows]
    user, item = np.divmod(keys, ITEMS)
    pl.DataFrame(
        {
            "userId": user + 1,
            "movieId": item_ids[item],
            "rating": rng.choice(np.arange(1, 11), rows, p=_RATING_SHARES) / 2,
            "timestamp": rng.integers(789_652_009, 1_427_784_002, rows),
        }
    ).write_csv(path)


# Shares of the ratings 0.5 … 5 in MovieLens 20M, rounded.
_RATING_SHARES = (0.012, 0.034, 0.014, 0.072, 0.044, 0.215, 0.110, 0.278, 0.077, 0.144)


def run_coterie(csv: Path, out: Path) -> dict[str, Any]:
    """Prepare with this package."""
    from coterie.data import PrepareOptions, read_interactions

    start = time.perf_counter()
    options = PrepareOptions(positive_threshold=4, min_user_items=5)
    data = read_interactions(csv, options=options)
    read = time.perf_counter()
    data.save(out)
    end = time.perf_counter()
    return {"seconds": end - start, "save_seconds": end - read, "rows": data.nnz}


def run_pandas(csv: Path, out: Path) -> dict[str, Any]:
    """Prepare as the field's notebooks do: everything in a frame, ids through dictionaries."""
    import pandas as pd
    from scipy import sparse

    start = time.perf_counter()
    frame = pd.read_csv(csv)
    frame = frame[frame["rating"] >= 4]
    counts = frame.groupby("userId").size()
    frame = frame[frame["userId"].isin(counts.index[counts >= 5])]
    users = {user: index for index, user in enumerate(pd.unique(frame["userId"]))}
    items = {item: index for index, item in enumerate(pd.unique(frame["movieId"]))}
    row, column = frame["userId"].map(users), frame["movieId"].map(items)
    ones = np.ones(len(frame))
    matrix = sparse.csr_matrix((ones, (row, column)), shape=(len(users), len(items)))
    read = time.perf_counter()
    out.mkdir()
    sparse.save_npz(out / "matrix.npz", matrix)
    (out / "ids.json").write_text(json.dumps([list(map(int, users)), list(map(int, items))]))
    end = time.perf_counter()
    return {"seconds": end - start, "save_seconds": end - read, "rows": int(matrix.nnz)}


def run_open(folder: Path) -> dict[str, Any]:
    """Open a prepared folder and touch its first row."""
    from coterie.data import Interactions

    start = time.perf_counter()
    data = Interactions.open(folder)
    data.row(0).sum()
    return {"seconds": time.perf_counter() - start, "rows": data.nnz}


def measure(subject: str, *arguments: object) -> dict[str, Any]:
    """Run one subject in a fresh process; its figures and its peak resident memory in MB."""
    command = [sys.executable, __file__, "--run", subject, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_one(subject: str, paths: list[str]) -> None:
    """Be the fresh process."""
    where = [Path(path) for path in paths]
    if subject == "csv":
        write_csv(where[0], int(paths[1]), int(paths[2]), paths[3])
        result = {}
    elif subject == "open":
        result = run_open(where[0])
    else:
        result = {"coterie": run_coterie, "pandas": run_pandas}[subject](*where)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime
    print(json.dumps({**result, "peak_mb": usage.ru_maxrss / 1024, "cpu_seconds": cpu}))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements, the subjects in turn within each repeat."""
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=options.folder) as name:
        folder = Path(name)
        csv = folder / "ratings.csv"
        # in another process, as a child's peak memory begins at that of its parent
        measure("csv", csv, options.rows, options.seed, options.order)
        size = csv.stat().st_size / 2**20
        print(f"{options.rows} rows, {size:.0f} MB, {options.order}", flush=True)
        runs: dict[str, list[dict[str, Any]]] = {subject: [] for subject in (*SUBJECTS, "open")}
        for repeat in range(options.repeats):
            for subject in SUBJECTS:
                runs[subject].append(measure(subject, csv, folder / f"{subject}-{repeat}"))
            runs["open"].append(measure("open", folder / f"coterie-{repeat}"))
            print({s: round(runs[s][-1]["seconds"], 4) for s in runs}, flush=True)
    if len({run["rows"] for of_one in runs.values() for run in of_one}) != 1:
        raise SystemExit("The subjects kept different numbers of rows.")
    return {
        "rows": options.rows,
        "csv_mb": size,
        "order": options.order,
        "seed": options.seed,
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
        },
        "versions": {
            name: importlib.metadata.version(name) for name in ("polars", "numpy", "pandas")
        },
        "medians": {
            subject: {key: statistics.median(run[key] for run in of_one) for key in of_one[0]}
            for subject, of_one in runs.items()
        },
        "runs": runs,
    }


def main() -> None:
    """Parse the command line, compare, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--order", choices=("shuffled", "sorted"), default="shuffled")
    parser.add_argument("--folder", type=Path, help="where to write the temporary files")
    parser.add_argument("--out", type=Path, help="result file (JSON)")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_one(options.run[0], options.run[1:])
        return
    result = compare(options)
    for subject, figures in result["medians"].items():
        print(
            f"{subject:8} {figures['seconds']:9.4f} s, processor {figures['cpu_seconds']:6.1f} s, "
            f"peak {figures['peak_mb']:6.0f} MB, {figures['rows']:.0f} rows kept"
        )
    ours, theirs = (result["medians"][subject] for subject in SUBJECTS)
    print(
        f"pandas / coterie: {theirs['seconds'] / ours['seconds']:.2f} x the time, "
        f"{theirs['peak_mb'] / ours['peak_mb']:.2f} x the memory"
    )
    if options.out:
        options.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
