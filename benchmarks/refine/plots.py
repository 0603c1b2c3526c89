"""Maps of what EAP and then ACDC find, over the size of the pruned graph and ACDC's threshold; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_circuits.benchmarks.output.figures import new_figure, write_figure
from edge_circuits.benchmarks.refine.rows import Row, values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAPS = {
    "true positive rate": "true_positive_rate",
    "false positive rate": "false_positive_rate",
    "Youden's J": "youden",
}


def plot_maps(rows: Sequence[Row], path: Path) -> Path:
    """Draw the true and false positive rate and Youden's J of one task, k down and thresholds across."""
    figure = new_figure(15.0, 1.8 + 0.45 * len(values(rows, "k")))
    for axes, (title, name) in zip(figure.subplots(1, len(MAPS)), MAPS.items()):
        _draw_map(axes, rows, title, name)
    first = rows[0]
    return write_figure(figure, path, f"{first['task']}: {first['method']}, then ACDC with {first['metric']}")


def _draw_map(axes: Axes, rows: Sequence[Row], title: str, name: str) -> None:
    sizes, thresholds = values(rows, "k"), values(rows, "threshold")
    found = {(row["k"], row["threshold"]): row[name] for row in rows}
    cells = [[found[k, threshold] for threshold in thresholds] for k in sizes]
    shown = axes.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for y, line in enumerate(cells):
        for x, value in enumerate(line):
            colour = "black" if value > 0.6 else "white"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    names = ["pruned" if t is None else f"{t:g}" for t in thresholds]
    axes.set_xticks(range(len(thresholds)), names, rotation=45, fontsize=8)
    axes.set_yticks(range(len(sizes)), [f"{k:,}" for k in sizes], fontsize=8)
    axes.set_xlabel("threshold")
    axes.set_ylabel("k")
    axes.set_title(title, fontsize=10)
    axes.figure.colorbar(shown, ax=axes, fraction=0.05)
