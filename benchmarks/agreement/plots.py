"""Agreement with exact patching as pictures.

- `plot_scatter`: after Figure 10 of Syed, Rager and Conmy 2023. A dot an edge, a panel a method, with the least squares
  line, its slope and R squared.
- `plot_interpolation`: after its Figure 5. The metric as an edge goes from clean to corrupted, and linear estimates.
- `plot_bars`: after Figure 1 of Jafari et al. 2025. Pearson's correlation by kind of node, with intervals.
- `plot_map`: the budget map.
- `plot_heat_maps`: after its Figures 2, 4 and 5. Layer by position, exact patching beside its estimates.

Needs matplotlib, which is imported on use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from edge_circuits.benchmarks.agreement.budget_map import Point
from edge_circuits.benchmarks.agreement.edges import ALL, INPUT, RULES, Compared, edge_classes
from edge_circuits.benchmarks.agreement.nodes import NodeAgreement
from edge_circuits.benchmarks.agreement.report import Result
from edge_circuits.benchmarks.output.figures import GREY, PALETTE, colour_of, finish, new_figure, panels, write_figure
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.correlation import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = dict(zip(("q", "k", "v", "mlp", "logits", INPUT), (*PALETTE[:5], GREY)))
HEAT_MAPS = ("resid_pre", "attention_out", "mlp_out")
MARKERS = {"norm": "s", "softmax": "^", "exact": "D"}
NOT_DRAWN = ("random", *RULES)


def plot_scatter(result: Result, path: Path) -> Path:
    """Draw every edge's estimate over its exact score, a panel a method."""
    problem = result.problem
    classes = edge_classes(problem.graph)
    figure, axes = panels(result.compared, lambda axes, one: _draw_scatter(axes, one, result.exact, classes), 4.3, 3.7)
    axes[0].legend(fontsize=8, frameon=False, markerscale=2)
    sizes = f"{problem.graph.n_edges:,} edges, {len(problem.pairs)} prompts"
    return write_figure(figure, path, f"{problem.name}: {sizes}, {problem.metric_name}")


def _draw_scatter(axes: Axes, compared: Compared, exact: ScoredGraph, classes: Mapping[str, Tensor]) -> None:
    """One method: dots by class of edges, and the line of all of them."""
    estimates, values = compared.scored.scores, exact.scores
    if compared.by_size:
        estimates, values = estimates.abs(), values.abs()
    for name, mask in classes.items():
        if name != ALL:
            axes.scatter(values[mask], estimates[mask], s=9, color=COLOURS[name], alpha=0.5, linewidths=0, label=name)
    whole = compared.classes[ALL]
    title = compared.method
    if whole.slope is not None:
        ends = [values.min().item(), values.max().item()]
        axes.plot(ends, [whole.intercept + whole.slope * end for end in ends], color="black", linewidth=1)
        title += f"   slope {whole.slope:.3g}" + ("" if whole.r_squared is None else f", R² {whole.r_squared:.3f}")
    size = "size of " if compared.by_size else ""
    finish(axes, f"{size}exact score", f"{size}estimate", title)


def plot_interpolation(
    curves: Mapping[str, Float[Tensor, "share"]], shares: Sequence[float], result: Result, path: Path
) -> Path:
    """Draw the metric of one or more edges over the share by which they are cut, with each method's straight line."""
    figure, problem = new_figure(4.6 * len(curves), 3.8), result.problem
    drawn = [one for one in result.compared if not one.by_size and one.method not in NOT_DRAWN]
    for axes, (edge, values) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items()):
        axes.plot(shares, values, color="black", linewidth=2, label="measured")
        for one in drawn:
            line = [values[0].item() + share * one.scored.score(edge) for share in shares]
            axes.plot(shares, line, color=colour_of(one.method), linestyle="--", linewidth=1.2, label=one.method)
        finish(axes, "share of the edge that is cut", problem.metric_name.replace("_", " "), edge)
    axes.legend(fontsize=8, frameon=False)
    return write_figure(figure, path, f"{problem.name}: one edge from clean to corrupted")


def plot_bars(agreements: Sequence[NodeAgreement], title: str, path: Path) -> Path:
    """Draw Pearson's correlation with exact node patching, a panel a direction, a bar a method and kind."""
    directions = list(dict.fromkeys(one.direction for one in agreements))
    figure = new_figure(5.4 * len(directions), 3.6)
    for axes, direction in zip(figure.subplots(1, len(directions), squeeze=False, sharey=True)[0], directions):
        _draw_bars(axes, [one for one in agreements if one.direction == direction])
        finish(axes, y="Pearson with exact patching", title=direction)
    shown = axes.get_legend_handles_labels()
    figure.legend(*shown, loc="outside lower center", ncols=len(shown[1]), fontsize=8, frameon=False)
    return write_figure(figure, path, title)


def _draw_bars(axes: Axes, agreements: Sequence[NodeAgreement]) -> None:
    kinds = list(agreements[0].per_kind)
    for number, one in enumerate(agreements):
        measured = [agreement.pearson for agreement in one.per_kind.values()]
        places = [place + (number - (len(agreements) - 1) / 2) * 0.38 for place in range(len(kinds))]
        heights, ends = [each.value or 0.0 for each in measured], list(zip(*map(_error_bar, measured)))
        look = dict(width=0.36, color=colour_of(one.method), label=one.method, ecolor="#444444")
        axes.bar(places, heights, yerr=ends, **look)
    axes.set_xticks(range(len(kinds)), kinds, rotation=25, fontsize=8)


def plot_heat_maps(
    exact: Mapping[str, Float[Tensor, "layer *head pos"]], agreements: Sequence[NodeAgreement], title: str, path: Path
) -> Path:
    """Draw layer by position of one direction: a row a kind of node, a column exact patching or an estimate of it."""
    kinds = [kind for kind in HEAT_MAPS if kind in exact]
    columns = {"exact": exact, **{one.method: one.means for one in agreements}}
    figure = new_figure(3.8 * len(columns), 2.5 * len(kinds) + 0.5)
    for row, kind in zip(figure.subplots(len(kinds), len(columns), squeeze=False), kinds):
        largest = max(values[kind].nan_to_num().abs().max().item() for values in columns.values()) or 1.0
        for axes, (name, values) in zip(row, columns.items()):
            image = axes.imshow(values[kind], cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", origin="lower")
            axes.set_title(f"{name}, {kind}", fontsize=9)
            axes.set_yticks(range(0, len(values[kind]), -(-len(values[kind]) // 6)))
            axes.set_xlabel("position", fontsize=8)
            axes.set_ylabel("layer", fontsize=8)
        figure.colorbar(image, ax=list(row), shrink=0.85)
    return write_figure(figure, path, title)


def plot_map(points: Sequence[Point], figure_name: str, path: Path) -> Path:
    """Draw one figure of the budget map over the price, a panel a problem, a colour a method, a marker a reader."""

    def draw(axes: Axes, problem: Problem) -> None:
        for point in (each for each in points if each.problem is problem):
            measured = point.figures[figure_name]
            if measured.value is None:
                continue
            method, _, reader = point.method.partition(":reader=")
            look = dict(color=colour_of(method), marker=MARKERS.get(reader, "o"), markersize=6, label=point.method)
            ends = [[end] for end in _error_bar(measured)]
            axes.errorbar([max(point.cost, 0.05)], [measured.value], yerr=ends, linestyle="", elinewidth=0.8, **look)
        axes.set_xscale("log")
        finish(axes, "price in plain passes", figure_name, problem.name)

    figure, axes = panels(list(dict.fromkeys(point.problem for point in points)), draw, 4.6, 3.6)
    axes[0].legend(fontsize=6, frameon=False)
    return write_figure(figure, path)


def _error_bar(measured: Measured) -> tuple[float, float]:
    """Its lengths down and up; none where there is no interval."""
    if measured.low is None or measured.high is None:
        return 0.0, 0.0
    return max(0.0, measured.value - measured.low), max(0.0, measured.high - measured.value)
