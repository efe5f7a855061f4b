"""implicit's ALS: no VAE, it is here for the time of its top-k, the fastest of the field.

Its factors (200) are as many as the VAE's latents. Epoch times are those of ALS sweeps, given for
completeness. New users are recommended to with `recalculate_user=True`.
"""

# The library is installed in an environment of its own only, so its types are unknown here.
# mypy: disable-error-code="import-not-found, import-untyped, misc"

from __future__ import annotations

import sys
import time
from pathlib import Path

import implicit
import numpy as np
from implicit.als import AlternatingLeastSquares

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import contest


def main() -> None:
    """Train, evaluate, write the result."""
    options = contest.parse_options(__doc__)
    start = time.perf_counter()
    data = contest.load(options)
    model = AlternatingLeastSquares(
        factors=contest.LATENT,
        iterations=options.epochs,
        num_threads=options.threads,
        random_state=options.seed,
    )
    setup_seconds = time.perf_counter() - start
    clock = contest.EpochClock()

    def sweep_done(sweep: int, seconds: float, loss: float | None = None) -> None:
        clock.add(seconds)

    model.fit(data.train, show_progress=False, callback=sweep_done)
    train_peak = contest.peak_rss_mb()
    histories = data.train[data.topk_users]
    topk_seconds = contest.median_seconds(
        lambda: model.recommend(data.topk_users, histories, N=contest.K)
    )
    new_users = np.arange(data.fold_in.shape[0])
    ranked, _ = model.recommend(new_users, data.fold_in, N=contest.K, recalculate_user=True)
    contest.write_result(
        options,
        data,
        library="implicit ALS",
        version=implicit.__version__,
        framework="none",
        clock=clock,
        setup_seconds=setup_seconds,
        train_peak_rss_mb=train_peak,
        ranked=ranked,
        topk_seconds=topk_seconds,
        notes={"model": "ALS, 200 factors; for the top-k time"},
    )


if __name__ == "__main__":
    main()
