"""Made-up experiments and logs, small enough to count by hand or drawn from a seed."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from coterie.experiment.assignment import places_of
from coterie.experiment.events import SCHEMA
from coterie.experiment.settings import Experiment

START = datetime(2026, 3, 1, tzinfo=UTC)


def settings(**changes):
    return {
        "name": "pia",
        "start": START,
        "end": START + timedelta(days=10),
        "arms": {"control": 0.5, "pia": 0.5},
        **changes,
    }


def experiment(**changes):
    return Experiment.read(settings(**changes))


def events(rows):
    """A log from tuples (event_id, user, kind, hours since the start, changes)."""
    made = [
        {
            "event_id": event_id,
            "user": user,
            "kind": kind,
            "time": START + timedelta(hours=hours),
            "experiment": "pia",
            **changes,
        }
        for event_id, user, kind, hours, changes in rows
    ]
    return pl.DataFrame(made, schema=SCHEMA).lazy()


def crowd(n, *, lift=0.0, seed=0, days=10, keep=(1.0, 1.0), start=START):
    """Events of users of uneven activity and taste, with ten days before the start.

    ``keep`` are shares of the control's and the treatment's users whose events arrive.
    """
    rng = np.random.default_rng(seed)
    arm = places_of(experiment(), np.arange(n))
    there = rng.random(n) < np.where(arm == 1, keep[1], keep[0])
    rate, taste = rng.lognormal(0.5, 0.8, n), rng.beta(2, 10, n)
    parts = []
    for day in range(-10, days):
        seen = rng.poisson(rate) * there
        user = np.repeat(np.arange(n), seen)
        chance = taste[user] * np.where((arm[user] == 1) & (day >= 0), 1 + lift, 1.0)
        clicked = rng.random(len(user)) < chance
        second = 86400 * day + rng.integers(0, 86000, len(user))
        for kind, mask, later in (("impression", clicked | True, 0), ("click", clicked, 1)):
            who = user[mask]
            parts.append(
                pl.DataFrame(
                    {
                        "user": who.astype(str),
                        "kind": np.full(len(who), kind),
                        "second": second[mask] + later,
                        "arm": np.where(arm[who] == 1, "pia", "control"),
                        "labelled": np.full(len(who), day >= 0),
                        "surface": np.where(rng.random(len(who)) < 0.5, "home", "movie"),
                    }
                )
            )
    frame = pl.concat(parts).with_row_index("event_id")
    return frame.select(
        pl.col("event_id").cast(pl.String),
        "user",
        "kind",
        (pl.lit(start) + pl.duration(seconds="second")).cast(SCHEMA["time"]).alias("time"),
        pl.lit(None, pl.String).alias("item"),
        "surface",
        pl.lit(None, pl.Float64).alias("seconds"),
        pl.when("labelled").then(pl.lit("pia")).alias("experiment"),
        pl.when("labelled").then("arm").alias("arm"),
    )
