"""Figures of the one-unit net: the cliff as a map, with descents on it; fixed points and where they appear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.lab.landscape import Bifurcation, Cliff, Descent, cliff_line, fold_points
from rnn_numpy.report.plots.style import COLOURS, FONT, LINE, MARKERS, Axes, axes_or_new, draw_image, frame, log_norm

SHOWN = {"error": "error E after T steps (log scale)", "gradient": "length of the gradient (dE/dw, dE/db) (log scale)"}
# Of an error, and of a gradient, how many decades to show.
DECADES = {"error": 5.0, "gradient": 12.0}


def plot_cliff(
    grid: Cliff,
    ax: Axes | None = None,
    *,
    show: str = "error",
    descents: Mapping[str, Descent] | None = None,
    guides: bool = True,
) -> Axes:
    """Draw the landscape as a map over (w, b), in colours on a log scale.

    Parameters
    ----------
    grid : Cliff
        On evenly spaced w and b.
    show : {"error", "gradient"}
    descents : mapping of str to Descent, optional
        Paths to draw, under the names that the legend gives them: a marker at each update, a large one at the start and
        a star at the end. A path that leaves the map goes on, unseen; its legend says so.
    guides : bool
        Draw where theory has the cliff: the line on which the start is a fixed point, and the folds.
    """
    arguments.one_of("plot_cliff", "show", show, SHOWN)
    effects = optional_import("matplotlib.patheffects", "a figure")
    ax = axes_or_new(ax, 7.2, 5.2)
    values = grid.error if show == "error" else grid.gradient_norm
    label = SHOWN[show].replace("T steps", f"{grid.steps} steps")
    draw_image(ax, grid.w, grid.b, values, label, log_norm(values, DECADES[show]))
    limits = ax.get_xlim(), ax.get_ylim()
    # A light edge, so that a dark line can be seen on dark and on light ground.
    outline = [effects.withStroke(linewidth=LINE + 2.0, foreground="white")]
    if guides:
        w = np.linspace(*limits[0], 800)
        low, high = fold_points(w)
        # The start is an unstable fixed point where the line lies between the folds.
        line = cliff_line(w, grid.start)
        line[~((low < line) & (line < high))] = np.nan
        dashes, dots = (0, (5, 3)), (0, (1, 1.5))
        for b, style, name in (
            (low, dashes, "folds: two fixed points meet"),
            (high, dashes, None),
            (line, dots, f"cliff: the start {grid.start:g} is an unstable fixed point"),
        ):
            ax.plot(w, b, color="black", linestyle=style, linewidth=1.2, path_effects=outline, label=name)
    for number, (name, descent) in enumerate((descents or {}).items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        w, b = descent.path.T
        inside = (limits[0][0] <= w) & (w <= limits[0][1]) & (limits[1][0] <= b) & (b <= limits[1][1])
        label = name if inside.all() else f"{name}, leaves the map at update {int(inside.argmin())}"
        ax.plot(w, b, color=colour, linewidth=1.0, path_effects=outline, zorder=3)
        ax.plot(w, b, color=colour, linewidth=1.0, marker=marker, markersize=3, zorder=3, label=label)
        for place, shape, size in ((0, marker, 9), (-1, "*", 15)):
            ax.plot(w[place], b[place], marker=shape, markersize=size, markeredgecolor="white", color=colour, zorder=4)
    ax.set(xlim=limits[0], ylim=limits[1])
    frame(ax, "recurrent weight w", "bias b", grid=False)
    if guides or descents:
        # Outside: on the map nothing stays readable.
        ax.legend(
            loc="upper left", bbox_to_anchor=(0.0, -0.13), fontsize=FONT, frameon=False, borderaxespad=0, handlelength=3
        )
    return ax


def plot_bifurcation(diagram: Bifurcation, ax: Axes | None = None) -> Axes:
    """Draw the fixed points along the parameter: stable ones as full lines, unstable ones dashed.

    The values of the diagram rise. Where b varies, dotted lines stand at the folds inside of its range.
    """
    ax = axes_or_new(ax)
    kinds = (("stable", diagram.stable, COLOURS[0], "-"), ("unstable", ~diagram.stable, COLOURS[1], (0, (3, 1.5))))
    for name, shown, colour, style in kinds:
        points = np.where(shown, diagram.points, np.nan)
        if np.isfinite(points).any():
            lines = ax.plot(diagram.values, points, color=colour, linestyle=style, linewidth=LINE)
            lines[0].set_label(f"{name} fixed point")
    parameter, other = ("bias b", "w") if diagram.parameter == "b" else ("recurrent weight w", "b")
    function = {"sigmoid": "sigmoid(x)", "tanh": "tanh(x)"}[diagram.unit]
    frame(ax, parameter, "state x", f"x = w {function} + b, with {other} = {diagram.other:g}".replace("-", "−"))
    ax.set_xlim(float(diagram.values.min()), float(diagram.values.max()))
    if diagram.parameter == "b":
        left, right = ax.get_xlim()
        for fold, side in zip(fold_points(diagram.other, diagram.unit), ("right", "left"), strict=True):
            if left < fold < right:
                ax.axvline(float(fold), color="0.5", linestyle=":", linewidth=1.2)
                place, moved, va = (0.02, 4, "bottom") if side == "left" else (0.98, -4, "top")
                look: dict[str, Any] = {"ha": side, "va": va, "fontsize": FONT, "color": "0.3"}
                look |= {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
                ax.annotate(f"fold at b = {fold:.4f}".replace("-", "−"), (float(fold), place), (moved, 0), **look)
    ax.legend(loc="best", fontsize=FONT, frameon=False)
    return ax
