"""Curves as SVG that can be read on a light page and on a dark one: no background, and inks of middle lightness."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

# Each has a contrast of at least 3 : 1 to white and to black alike.
TEXT = "#7d8590"
INKS = ("#2f81f7", "#d9730d", "#2da44e", "#bf4b8a", "#8957e5", "#a8852a", "#1b94a0")
MARKS = "osD^vPX"

mpl.rcParams.update(
    {
        "svg.hashsalt": "bench",  # the same picture from the same numbers
        "svg.fonttype": "none",
        "font.size": 11,
        "text.color": TEXT,
        "axes.labelcolor": TEXT,
        "axes.edgecolor": TEXT,
        "axes.titlecolor": TEXT,
        "xtick.color": TEXT,
        "ytick.color": TEXT,
        "grid.color": TEXT,
        "grid.alpha": 0.25,
        "legend.labelcolor": TEXT,
    }
)

Curve = Sequence[tuple[float, float]]


def exponent(curve: Curve) -> float:
    """The k of cost = c · n^k that fits best: 0 is flat, 1 is proportional."""
    points = [(math.log(n), math.log(cost)) for n, cost in curve if n > 0 and cost > 0]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def draw(path: Path, title: str, across: str, up: str, curves: Mapping[str, Curve]) -> None:
    """Both axes logarithmic; the exponent stands beside each curve's name."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    for number, (name, curve) in enumerate(curves.items()):
        label = f"{name}: n^{exponent(curve):.2f}"
        axes.plot(
            *zip(*curve, strict=True), color=INKS[number % 7], marker=MARKS[number % 7], markersize=5, label=label
        )
    axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up, title=title)
    highest = max(cost for curve in curves.values() for _, cost in curve)
    lowest = min(cost for curve in curves.values() for _, cost in curve)
    axes.set_ylim(lowest / 2, highest * 3)  # so that what is flat looks flat
    axes.grid(True, which="major")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)
