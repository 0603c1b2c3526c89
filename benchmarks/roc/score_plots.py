"""Scores as pictures: those of the circuit's edges against all others, and by the role of the head they come from.

- `plot_distributions`: after Figures 4 and 8 of Syed, Rager and Conmy 2023. Two histograms of |score| for each method, on
  a logarithmic axis, each with area one; edges that score exactly zero stand at the left.
- `plot_by_role`: after its Figure 11. A dot for each edge out of the heads of a role, in colour if it is in the circuit.

Needs matplotlib, which is imported on use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.benchmarks.output.figures import finish, panels, write_figure
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.roc.finding import Finding
from edge_circuits.graphs.nodes import parse_source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IN_CIRCUIT, OTHER = "#d55e00", "#7d8b99"
N_BINS = 26
DECADES = 8  # scores smaller than the largest by more than that are drawn as zero
OTHERS = {"head": "other heads", "mlp": "MLPs", "input": "input"}
CROWDED = 200  # dots in a row of a panel


def plot_distributions(findings: Sequence[Finding], path: Path) -> Path | None:
    """Draw the distributions of one problem's scores, a panel a method; None if no finding has scores."""
    scored = [finding for finding in findings if finding.scored is not None]
    if not scored:
        return None
    problem = scored[0].search.problem
    figure, axes = panels(scored, _draw_distribution, 4.6, 3.1)
    axes[0].legend(loc="upper left", fontsize=8, frameon=False)
    title = f"{problem.name}: |score| of the circuit's {problem.circuit.n_edges} edges and of the others"
    return write_figure(figure, path, title)


def plot_by_role(findings: Sequence[Finding], path: Path) -> Path | None:
    """Draw one problem's scores by the role of the source, a panel a method; None if nothing has scores or a role."""
    scored = [finding for finding in findings if finding.scored is not None]
    if not scored or not scored[0].search.problem.roles:
        return None
    problem = scored[0].search.problem
    groups = sources_by_role(problem)
    draw = lambda axes, finding: _draw_roles(axes, finding, groups)
    figure, _ = panels(scored, draw, 4.0, 0.32 * len(groups) + 1.1, sharey=True)
    return write_figure(figure, path, f"{problem.name}: |score| of edges by their source; the circuit's in colour")


def sources_by_role(problem: Problem) -> dict[str, Bool[Tensor, "source"]]:
    """Which sources have each role, then the other heads, MLPs and `input`, as far as there are any. [source]"""
    kinds = [problem.roles.get(name) or OTHERS[parse_source(name).kind] for name in problem.graph.sources]
    order = [*dict.fromkeys(problem.roles.values()), *OTHERS.values()]
    masks = {kind: torch.tensor([of == kind for of in kinds]) for kind in order}
    return {kind: mask for kind, mask in masks.items() if mask.any()}


def _sizes(finding: Finding) -> tuple[Float[Tensor, "source destination"], float]:
    """|score| of every edge, and what is drawn for zero."""
    sizes = finding.scored.scores.abs().double()
    largest = sizes.max().item() or 1.0
    smallest = sizes[sizes > largest * 10**-DECADES].min().item() if sizes.any() else largest
    floor = smallest / 3
    return sizes.clamp(min=floor), floor


def _draw_distribution(axes: Axes, finding: Finding) -> None:
    graph, circuit = finding.search.problem.graph, finding.search.problem.circuit
    sizes, floor = _sizes(finding)
    bins = torch.logspace(torch.log10(torch.tensor(floor * 0.9)).item(), sizes.max().log10().item() + 0.01, N_BINS + 1)
    for mask, colour, label in (
        (graph.edge_mask & ~circuit.mask, OTHER, "other edges"),
        (circuit.mask, IN_CIRCUIT, "circuit"),
    ):
        values = sizes[mask]
        weights = [1 / len(values)] * len(values)
        axes.hist(values.numpy(), bins=bins.numpy(), weights=weights, color=colour, alpha=0.55, label=label)
    _finish(axes, finding, sizes, floor, "share of edges")


def _draw_roles(axes: Axes, finding: Finding, groups: Mapping[str, Bool[Tensor, "source"]]) -> None:
    """A row a role; dots are spread within their row by a fixed rule."""
    graph, circuit = finding.search.problem.graph, finding.search.problem.circuit
    sizes, floor = _sizes(finding)
    for row, sources in enumerate(groups.values()):
        of_role = graph.edge_mask & sources[:, None]
        for mask, colour, size in ((of_role & ~circuit.mask, OTHER, 4), (of_role & circuit.mask, IN_CIRCUIT, 14)):
            values = sizes[mask]
            spread = (torch.arange(len(values)) * 0.618034) % 1 - 0.5
            size, alpha = (size, 0.8) if len(values) < CROWDED else (2, max(0.05, 0.8 * CROWDED / len(values)))
            axes.scatter(values, row + 0.6 * spread, s=size, color=colour, alpha=alpha, linewidths=0)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(len(groups) - 0.4, -0.6)
    _finish(axes, finding, sizes, floor)


def _finish(axes: Axes, finding: Finding, sizes: Tensor, floor: float, y: str = "") -> None:
    """Words and a logarithmic axis; what stands for zero is set off from the scores that are drawn in their place."""
    axes.set_xscale("log")
    if (sizes[finding.search.problem.graph.edge_mask] <= floor).any():
        axes.axvline(floor * 1.6, color="#bbbbbb", linewidth=0.8)
        look = dict(ha="center", va="top", fontsize=8, color="#666666")
        axes.annotate("0", (floor, 1), xycoords=("data", "axes fraction"), **look)
    finish(axes, "|score|", y, f"{finding.named}, AUC {finding.figures['auc']:.3f}")
