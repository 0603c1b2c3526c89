"""Faithfulness over the share of edges kept, as a picture: the most helpful edges first, and the largest first.

Needs matplotlib, which is imported on use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_circuits.benchmarks.faithfulness.finding import HELPFUL, LARGEST, RANDOM, Row
from edge_circuits.benchmarks.faithfulness.report import Result
from edge_circuits.benchmarks.output.figures import GREY, colour_of, finish, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {HELPFUL: ("most helpful edges first", "cpr", "CPR"), LARGEST: ("largest scores first", "cmd", "CMD")}


def plot_problem(result: Result, path: Path) -> Path:
    """Draw every method's curves, a panel a ranking, with bands that hold 95 % of the samples of prompts."""
    figure = new_figure(11.0, 4.6)
    for axes, (ranking, (title, name, word)) in zip(figure.subplots(1, 2, sharey=True), PANELS.items()):
        for row in result.rows:
            _draw_curve(axes, row, ranking, f"{row.method}  {row.figures[name].value:.3f}")
        if result.known is not None:
            at = result.known.circuit.n_edges / result.problem.graph.n_edges
            look = dict(marker="*", markersize=13, color="black", linestyle="", label="known circuit")
            axes.plot([at], [result.known.faithfulness], **look)
        _finish(axes, title, word)
    problem = result.problem
    title = f"{problem.name}: {problem.graph.n_edges:,} edges, {len(problem.held_out)} held-out prompts, {problem.metric_name}, {result.intervention}"
    return write_figure(figure, path, title)


def _draw_curve(axes: Axes, row: Row, ranking: str, label: str) -> None:
    curve, colour = row.curves[ranking], colour_of(row.method)
    style = {"linestyle": ":", "linewidth": 1.3} if row.method == RANDOM else {"marker": "o", "markersize": 3.5}
    axes.plot(curve.shares, row.faithfulness[ranking], color=colour, label=label, **style)
    if row.method != RANDOM:
        low, high = curve.resampled_faithfulness().quantile(curve.values.new_tensor([0.025, 0.975]), dim=0)
        axes.fill_between(curve.shares, low, high, color=colour, alpha=0.12, linewidth=0)


def _finish(axes: Axes, title: str, word: str) -> None:
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xscale("log")
    axes.legend(title=word, alignment="left", fontsize=8.5, frameon=False)
    finish(axes, "share of edges kept, before dead ends are removed", "faithfulness", title)
