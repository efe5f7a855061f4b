"""The effect of alignment along its weight, beside the prediction (Prop. 3.2)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coterie.errors import ConfigError
from coterie.mechanisms.alignment_effect import AlignmentEffect
from coterie.mechanisms.curvature import predicted
from coterie.mechanisms.style import BLACK, BLUE, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_by_lambda(results: Sequence[AlignmentEffect]) -> "Figure":
    """Distance and variance across masks against λ_A, relative to λ_A = 0, beside τ and τ².

    The line takes the curvature of the model trained without alignment; the crosses take each
    model's own, because decoder and curvature change when the codes move together.

    Raises
    ------
    ConfigError
        Not exactly one of the results has λ_A = 0, or there is no other.
    """
    plain = [result for result in results if result.lambda_a == 0]
    if len(plain) != 1 or len(results) < 2:
        raise ConfigError(
            "A comparison by λ_A needs exactly one result with lambda_a = 0 and at least one "
            f"other, got the weights {[result.lambda_a for result in results]}."
        )
    results = sorted(results, key=lambda result: result.lambda_a)
    weights = np.array([result.lambda_a for result in results])
    line = np.linspace(0, weights[1], 100)
    line = np.concatenate([line, np.geomspace(weights[1], weights[-1], 100)])
    figure, axes = new_figure(2, height=4.2)
    panels = (("distance", "distance to centroid"), ("mask_variance", "variance across masks"))
    for at, (axis, (key, label)) in enumerate(zip(axes, panels, strict=True)):
        symbol = ("τ", "τ²")[at]
        if plain[0].curvature > 0:
            theory = predicted(line, plain[0].curvature)[at]
            axis.plot(line, theory, "--", color=BLACK, label=f"predicted {symbol}, L at λ_A = 0")
        own = [result.prediction[at][0] for result in results]
        axis.plot(weights, own, "x", color=BLACK, label=f"predicted {symbol}, each model's L")
        for suffix, marker, color, name in (
            ("", "o-", BLUE, "measured"),
            ("_relative", "s-", VERMILION, "measured, relative to users' spread"),
        ):
            base = plain[0].figures()[key + suffix]
            if base > 0:  # nothing varies across masks that keep everything
                ratios = [result.figures()[key + suffix] / base for result in results]
                axis.plot(weights, ratios, marker, color=color, label=name)
        axis.set_xscale("symlog", linthresh=weights[1])
        axis.set_xticks(weights, [f"{weight:g}" for weight in weights])
        axis.minorticks_off()
        axis.set_xlabel("weight of the alignment, λ_A")
        axis.set_ylabel(f"{label}\n/ that at λ_A = 0")
        axis.set_ylim(0, 1.6 * max(1.0, float(axis.dataLim.y1)))
        axis.legend(loc="upper right")
    return figure
