import io
import json

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from coterie.errors import ConfigError
from coterie.evaluation.cohorts import DEFAULT_COHORTS
from coterie.evaluation.result import Estimate, Evaluation


def example(ks: tuple[int, ...] = (5, 10, 20)) -> Evaluation:
    rng = np.random.default_rng(0)
    names = ("recall", "recall_capped", "ndcg", "map", "mrr", "precision", "hit_rate")
    return Evaluation(
        per_user={f"{name}@{k}": rng.random(30) for name in names for k in ks},
        users=np.arange(30) * 2,
        user_ids=pl.Series([f"u{u}" for u in range(0, 60, 2)]),
        history_lengths=np.arange(30) + 5,
        overall={f"{name}@{k}": rng.random() for name in ("coverage", "novelty") for k in ks},
        n_users=36,
        n_without_held_out=6,
        ks=ks,
        cohorts=DEFAULT_COHORTS,
    )


def text_of(table: object, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_an_estimate_is_the_mean_and_its_standard_error() -> None:
    found = Estimate.of(np.array([1.0, 2.0, 6.0]))
    assert (found.mean, found.n) == (3.0, 3)
    assert found.stderr == pytest.approx(np.sqrt((4 + 1 + 9) / 2 / 3))
    assert str(found) == "3.0000 ±1.5275"
    assert str(Estimate.of(np.array([]))) == "–"
    assert Estimate.of(np.array([0.5])).to_dict() == {"mean": 0.5, "stderr": None, "n": 1}


def test_metrics_are_found_by_name_and_the_nearest_is_suggested() -> None:
    found = example()
    assert found["ndcg@20"] == np.mean(found.per_user["ndcg@20"])
    assert found["coverage@5"] == found.overall["coverage@5"]
    with pytest.raises(ConfigError, match=r"No metric 'ndgc@20'; did you mean 'ndcg@20'"):
        found["ndgc@20"]


def test_cohorts_partition_the_users() -> None:
    found = example()
    estimates = [found.estimate("ndcg@5", cohort) for cohort in found.cohorts]
    assert [estimate.n for estimate in estimates] == [6, 24, 0, 0]
    assert estimates[0].mean == pytest.approx(found.per_user["ndcg@5"][:6].mean())


def test_the_frame_has_a_row_per_user() -> None:
    frame = example().to_frame()
    assert frame.columns[:3] == ["user_id", "history_length", "recall@5"]
    assert frame["user_id"].to_list()[:2] == ["u0", "u2"]
    assert len(frame) == 30


def test_the_dict_is_json_without_nan() -> None:
    found = example()
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (facts["n_users"], facts["n_evaluated"], facts["n_without_held_out"]) == (36, 30, 6)
    assert facts["metrics"]["ndcg@20"]["mean"] == found["ndcg@20"]
    assert facts["overall"]["novelty@5"] == found["novelty@5"]
    assert [cohort["name"] for cohort in facts["cohorts"]] == ["5–10", "11–50", "51–100", ">100"]
    assert facts["cohorts"][3]["metrics"]["ndcg@20"] == {"mean": None, "stderr": None, "n": 0}


@pytest.mark.parametrize("ks", [(20,), (20, 50, 100), (1, 5, 10, 20, 50)])
def test_the_tables_fit_eighty_columns_and_hold_the_figures(ks: tuple[int, ...]) -> None:
    found = example(ks)
    for table in (found.table(), found.cohort_table()):
        text = text_of(table, 200)
        assert max(map(len, text.splitlines())) <= 200
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    text = text_of(found.table())
    for k in ks:
        assert f"@{k} " in text
        assert f"{found[f'ndcg@{k}']:.4f}" in text
        assert f"{found[f'coverage@{k}']:.4f}" in text
    assert "6 users had no held-out item" in text
    assert "11–50" in text_of(found.cohort_table())
