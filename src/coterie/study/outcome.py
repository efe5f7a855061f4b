"""What a study found: its records, the findings, and the table by setting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from coterie.errors import DataError
from coterie.study.findings import Finding, Records, decide, spread
from coterie.study.folder import RunRecord, StudyFolder
from coterie.study.settings import METRIC, Plan

COLUMNS = (
    (METRIC, "test", METRIC),
    ("recall_capped@20", "test", "recall_capped@20"),
    ("drift", "drift", "drift"),
    ("variance across masks", "drift", "relative_mask_variance"),
    ("global share", "collaboration", "global_share"),
    ("active units", "information", "active_units"),
    ("information", "information", "mutual_information"),
)
"""Of the table by setting: heading, measure, figure."""


@dataclass(frozen=True, eq=False)
class Study:
    """A finished study.

    Parameters
    ----------
    plan
        What was trained.
    records
        Of every setting and seed.
    findings
        The claims.
    identity
        Settings, data and precision, as the folder was claimed for.
    """

    plan: Plan
    records: Sequence[RunRecord]
    findings: Sequence[Finding]
    identity: dict[str, Any]

    @classmethod
    def read(cls, plan: Plan, folder: StudyFolder) -> "Study":
        """From the records of all seeds that are finished.

        Raises
        ------
        DataError
            No seed is.
        """
        records = folder.finished(plan.keys)
        if not records:
            raise DataError(f"{folder.path} holds no seed of which all settings were run.")
        return cls(plan, records, decide(records, plan), folder.identity() or {})

    @property
    def seeds(self) -> list[int]:
        """Ascending."""
        return Records(self.records).seeds

    @property
    def span(self) -> str:
        """``"3 seeds"``."""
        return f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"

    def by_setting(self) -> pl.DataFrame:
        """Mean ± standard deviation over seeds of the headline figures, one row per setting."""
        table = Records(self.records)
        rows = [
            {"setting": self.plan[key].label}
            | {head: spread(table.values(key, *which)) for head, *which in COLUMNS}
            for key in self.plan.keys
        ]
        return pl.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Findings and figures by setting and seed, for JSON (NaN where one is missing)."""
        table = Records(self.records)
        return {
            "seeds": self.seeds,
            "runs": len(self.records),
            "data": self.identity.get("data"),
            "findings": [finding.to_dict() for finding in self.findings],
            "settings": {
                key: {
                    "label": self.plan[key].label,
                    "objective": self.plan[key].objective.model_dump(mode="json"),
                    "figures": {
                        name: _moments(table.values(key, *which)) for name, *which in COLUMNS
                    },
                    "cohorts": {
                        cohort: _moments(table.values(key, "test", METRIC, cohort))
                        for cohort in table.cohorts
                    },
                }
                for key in self.plan.keys
            },
        }


def tally(findings: Sequence[Finding]) -> str:
    """How many claims are confirmed, not confirmed, unclear."""
    counts = [
        f"{sum(finding.verdict == verdict for finding in findings)} {verdict}"
        for verdict in ("confirmed", "not confirmed", "unclear")
    ]
    return f"Of {len(findings)} claims: {', '.join(counts)}."


def _moments(values: np.ndarray) -> dict[str, Any]:
    found = values[np.isfinite(values)]
    return {
        "mean": float(found.mean()) if len(found) else None,
        "deviation": float(found.std(ddof=1)) if len(found) > 1 else None,
        "seeds": values.tolist(),
    }
