"""Numbers as people read them: as many digits as are known, a true minus sign."""

import math
from collections.abc import Mapping
from typing import Any

UNCERTAIN = ("se", "low", "high")  # endings of names that belong to another figure
FINEST = 1e-5  # smaller numbers are written with a power of ten
CERTAIN = 1000  # standard errors, from which a small one tells nothing that digits do not
SMALLEST = 0.001  # percent
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: object, digits: int = 4) -> str:
    """That many significant digits, thousands apart by commas, ``–`` for nothing."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if math.isinf(value):
        text = f"{value}"
    elif abs(value) < 1e15 and value == int(value):
        text = f"{int(value):,}"
    elif 1e4 <= abs(value) < 1e9:
        text = f"{value:,.0f}"
    else:
        text, _, power = f"{value:.{digits}g}".partition("e")
        text += f"·10{str(int(power)).translate(RAISED)}" if power else ""
    return minus(text)


def uncertain(value: float, se: float) -> str:
    """``0.013 ± 0.002``: both as far as the first digit of the standard error; alone without one.

    Parameters
    ----------
    value
        An estimate.
    se
        Its standard error; 0 or NaN where there is none. It is left out where it is below 0.00001
        and a thousandth of the value.
    """
    if not (se > 0 and math.isfinite(se) and math.isfinite(value)):
        return number(value)
    power = math.floor(math.log10(se))
    if se < FINEST and abs(value) >= CERTAIN * se:
        return number(value)
    if se < FINEST:
        raised = str(power).translate(RAISED)
        return minus(f"({value / 10**power:,.0f} ± {se / 10**power:.0f})·10{raised}")
    decimals = max(0, -power)
    return minus(f"{value:,.{decimals}f} ± {se:,.{decimals}f}")


def percent(share: float, se: float = 0.0) -> str:
    """``12.3%`` or ``12.3% ± 0.4%``; a share near 0 or 1 keeps the first digit of the distance."""
    if se > 0 and math.isfinite(se):
        return " ± ".join(f"{part}%" for part in uncertain(100 * share, 100 * se).split(" ± "))
    if not math.isfinite(share):
        return number(share)
    size = abs(100 * share)
    apart = min(size, abs(100 - size))  # from nothing, or from all
    if 0 < size < SMALLEST:
        return f"under {SMALLEST:g}%"
    if apart == 0:
        return minus(f"{100 * share:.0f}%")
    decimals = 1 if apart >= 0.1 else min(4, -math.floor(math.log10(apart)))
    return minus(f"{100 * share:.{decimals}f}%")


def size(n_bytes: float) -> str:
    """Memory in the unit that suits it: ``640 bytes``, ``12 kB``, ``1.5 GB``."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= least:
            return f"{number(n_bytes / least, 3)} {unit}"
    return f"{n_bytes:.0f} bytes"


def with_errors(values: Mapping[str, Any]) -> dict[str, str]:
    """Figures as text by readable names, each joined with what tells how uncertain it is.

    That is its standard error ``x_se``, or an interval ``x_low``, ``x_high``.
    """
    shown = {}
    for name, value in values.items():
        stem, _, last = name.rpartition("_")
        if stem in values and last in UNCERTAIN:
            continue
        error = values.get(f"{name}_se")
        low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
        text = number(value)
        known = value is not None and value == value
        if known and error is not None:
            text = uncertain(value, error)
        elif known and low is not None and high is not None:
            text = f"{text} ({number(low)} to {number(high)})"
        shown[name.replace("_", " ")] = text
    return shown


def signed(text: str) -> str:
    """The text of a number with its sign, for differences: ``0.2`` becomes ``+0.2``."""
    return f"+{text}" if text[0].isdigit() else text


def minus(text: str) -> str:
    """The text with true minus signs."""
    return text.replace("-", "−")
