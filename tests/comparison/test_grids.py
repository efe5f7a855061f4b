"""Cells: the numbers of the comparison, as people read them."""

import math

import pytest
from comparison_runs import METRICS, comparison, run

from coterie.comparison.grids import (
    cohort_grid,
    compact,
    cost_texts,
    main_grid,
    metric_grid,
    notes,
    p_text,
    signed,
)

GAINS = {"base": 0.0, "good": 0.4, "same": 0.0}


def column(grid, head):
    at = grid.head.index(head)
    return [row[at].text for row in grid.rows]


def test_main_grid_shows_the_figures():
    found = comparison(GAINS)
    grid = main_grid(found)
    good = found.figure("good", METRICS[0])
    assert column(grid, "model") == list(GAINS)
    assert column(grid, METRICS[0])[1] == f"{good.mean:.4f} ±{good.deviation:.4f}"
    assert column(grid, "Δ ndcg@100") == [
        "baseline",
        f"{good.difference.mean:+.4f}",
        signed(found.figure("same", METRICS[0]).difference.mean),
    ]
    assert column(grid, "p users")[:2] == ["–", p_text(good.difference.p_users)]
    assert column(grid, "train s") == ["3.0"] * 3
    assert column(grid, "best epoch") == ["10–12"] * 3
    assert [row[1].best for row in grid.rows] == [False, True, False]
    assert grid.title == (
        "invented & <data>, strong-generalization: 3 seeds, 60 distinct test users"
    )


def test_metric_grid_has_the_interval():
    found = comparison(GAINS)
    test = found.figure("good", METRICS[1]).difference.users
    cells = column(metric_grid(found, METRICS[1]), "95 % interval")
    assert cells[0] == "–"
    assert cells[1] == f"{test.low:+.4f} to {test.high:+.4f}"


def test_cohort_grid_stars_what_is_significant():
    found = comparison(GAINS)
    grid = cohort_grid(found)
    assert grid.head == ("model", "5–10 (40 users)", "11–50 (20 users)")
    for row in grid.rows[1:]:
        for cell, cohort in zip(row[1:], ("5–10", "11–50"), strict=True):
            figure = found.figure(row[0].text, METRICS[0], cohort)
            assert cell.text.startswith(f"{figure.mean:.4f} {signed(figure.difference.mean)}")
            assert cell.text.endswith("*") == (figure.difference.p_users < 0.05)
    assert any(cell.text.endswith("*") for cell in grid.rows[1])
    assert grid.rows[0][1].text == f"{found.figure('base', METRICS[0], '5–10').mean:.4f}"


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "1.00"),
        (0.5, "0.50"),
        (0.031, "0.031"),
        (0.0012, "0.0012"),
        (0.00047, "0.0005"),
        (0.0001, "0.0001"),
        (9.9e-5, "<0.0001"),
        (0.0, "<0.0001"),
        (math.nan, "–"),
    ],
)
def test_p_text(p, text):
    assert p_text(p) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9999, "9,999"),
        (10_000, "10.0 k"),
        (812_345, "812 k"),
        (999_999, "1.00 M"),
        (12_187_081, "12.2 M"),
        (1_500_000_000, "1.50 G"),
    ],
)
def test_compact(count, text):
    assert compact(count) == text


def test_costs_over_seeds():
    runs = [run("a", seed, {1: (7, 0.5)}, memory=(300 + seed) << 20) for seed in range(2)]
    assert cost_texts(runs) == ("2.5", "301", "1,234", "–")
    assert cost_texts([run("a", 0, {1: (7, 0.5)}, best_epoch=4, memory=None)])[1:] == (
        "–",
        "1,234",
        "4",
    )


def test_signs():
    assert (signed(0.5), signed(-0.25), signed(math.nan)) == ("+0.5000", "−0.2500", "–")


def test_notes_say_what_was_tested():
    text = " ".join(notes(comparison(GAINS, test="bootstrap")))
    assert "500 resamples" in text
    assert "for 2 models against the baseline" in text
    assert "Each seed draws its own split" in text
    assert "paired t-test over distinct" in " ".join(notes(comparison(GAINS)))
