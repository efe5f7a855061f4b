"""Numbers as text: no more digits than are known, and a true minus sign."""

import math

import pytest

from coterie.mechanisms.numbers import number, percent, signed, size, uncertain, with_errors


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "inf"),
        (3, "3"),
        (-12345.0, "−12,345"),
        (12345.6, "12,346"),
        (0.123456, "0.1235"),
        (-0.5, "−0.5"),
        (1.5e-7, "1.5·10⁻⁷"),
        (-2.5e12 - 0.5, "−2.5·10¹²"),
        (True, "True"),
        ("a-b", "a-b"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


def test_figures_carry_their_uncertainty() -> None:
    figures = {
        "mean_gap": -0.12345,
        "mean_gap_se": 0.0021,
        "large": 1234.5,
        "large_se": 12.0,
        "exact": 1.0,
        "exact_se": 0.0,
        "w1": 0.5,
        "w1_low": 0.4,
        "w1_high": 0.6,
        "missing": float("nan"),
        "missing_se": 0.1,
        "bad": 0.5,
        "bad_se": float("nan"),
    }
    assert with_errors(figures) == {
        "mean gap": "−0.123 ± 0.002",
        "large": "1,234 ± 12",
        "exact": "1",
        "w1": "0.5 (0.4 to 0.6)",
        "missing": "–",
        "bad": "0.5",
    }


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (0.00341, 0.00023, "0.0034 ± 0.0002"),
        (-0.01234, 0.004, "−0.012 ± 0.004"),
        (12345.6, 123.0, "12,346 ± 123"),
        (0.0, 0.5, "0.0 ± 0.5"),
        (3.21e-6, 2.2e-7, "(32 ± 2)·10⁻⁷"),
        (-3.21e-6, 2.2e-7, "(−32 ± 2)·10⁻⁷"),
        (0.25, 0.0, "0.25"),
        (0.99999, 4e-6, "1"),
        (0.25, 4e-7, "0.25"),
        (0.25, math.nan, "0.25"),
        (math.nan, 0.1, "–"),
    ],
)
def test_an_estimate_has_the_digits_of_its_error(value: float, se: float, text: str) -> None:
    assert uncertain(value, se) == text


@pytest.mark.parametrize("exponent", range(-12, 6))
def test_no_error_is_written_as_zero_and_none_loses_its_first_digit(exponent: int) -> None:
    for digit in range(1, 10):
        text = uncertain(digit * 7.3 * 10.0**exponent, digit * 10.0**exponent)
        error = text.split(" ± ")[1]
        assert str(digit) in error.split("·")[0]
        assert "-" not in text
        assert "e" not in text


@pytest.mark.parametrize(
    ("share", "se", "text"),
    [
        (0.1234, 0.0, "12.3%"),
        (0.1234, 0.004, "12.3% ± 0.4%"),
        (0.9999, 0.0, "99.99%"),
        (1.0, 0.0, "100%"),
        (0.00034, 0.0, "0.03%"),
        (3e-7, 0.0, "under 0.001%"),
        (0.0, 0.0, "0%"),
        (-0.5, math.nan, "−50.0%"),
        (math.nan, 0.0, "–"),
    ],
)
def test_percentages(share: float, se: float, text: str) -> None:
    assert percent(share, se) == text


def test_a_difference_has_a_sign() -> None:
    texts = [signed(number(0.5)), signed(number(-0.5)), signed(percent(0.1)), signed(number(None))]
    assert texts == ["+0.5", "−0.5", "+10.0%", "–"]


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(10, "10 bytes"), (1234, "1.23 kB"), (5e6, "5 MB"), (1.5e9, "1.5 GB"), (999, "999 bytes")],
)
def test_memory_has_a_unit_that_suits_it(n_bytes: float, text: str) -> None:
    assert size(n_bytes) == text
