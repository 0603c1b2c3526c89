"""ROC curves as pictures: one for each problem with all methods, and beside published ones.

- `plot_problem`: the whole curve, and beside it the same with a logarithmic false positive rate, because a method is
  used for its first few edges.
- `plot_beside_published`: after Figure 3 of Syed, Rager and Conmy 2023. What was measured here in solid lines; published
  scores of MIB as dashed lines; published circuits of ACDC and its rivals, one per threshold, as points with the
  pessimistic stairs under them, so that their areas are lower bounds.

Needs matplotlib, which is imported on use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_circuits.benchmarks.output.figures import colour_of, finish, new_figure, write_figure
from edge_circuits.benchmarks.published import POINT_METHODS, SCORES, figures, published_roc, published_scores
from edge_circuits.benchmarks.reference.circuits import load_reference
from edge_circuits.benchmarks.reference.universes import candidates
from edge_circuits.benchmarks.roc.finding import NO_METRIC, Finding
from edge_circuits.benchmarks.statistics.roc_curves import roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_STYLES: tuple[Any, ...] = ("-", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))  # dashed is published, dotted random
PUBLISHED_AS = {"EAP": "eap", "EAP-IG": "eap-ig", "exact patching": "exact"}
MARKERS = {"acdc": "o", "sp": "s", "hisp": "^"}


def plot_problem(findings: Sequence[Finding], path: Path) -> Path:
    """Draw the ROC curves of one problem, all methods and metrics."""
    figure = new_figure(11.0, 4.9)
    whole, start = figure.subplots(1, 2)
    for finding in findings:
        _draw_curve(whole, finding, findings)
        _draw_curve(start, finding, findings)
    _finish_axes(whole)
    search = findings[0].search
    n, n_positives = search.sizes
    _finish_axes(start, lowest=0.5 / (n - n_positives))
    whole.legend(title="AUC", alignment="left", loc="lower right", fontsize=8.5, frameon=False)
    title = f"{search.problem.name}: {n_positives} of {n:,} edges, {len(search.problem.pairs)} prompts"
    return write_figure(figure, path, title)


def plot_beside_published(findings: Sequence[Finding], path: Path) -> Path:
    """Draw the ROC curves of real models beside the published ones, a panel a task."""
    problems = list(dict.fromkeys(finding.search.problem for finding in findings))
    figure = new_figure(4.6 * len(problems), 7.6)
    panels = figure.subplots(2, len(problems), squeeze=False, height_ratios=(4.4, 2.6))
    for axes, below, problem in zip(*panels, problems):
        here = [finding for finding in findings if finding.search.problem is problem]
        for finding in here:
            _draw_curve(axes, finding, here)
        _draw_published_scores(axes, problem.task, here[0].search.settings.universe)
        _draw_published_points(axes, problem.task)
        _finish_axes(axes)
        axes.set_title(problem.name, fontsize=11)
        below.axis("off")
        look = dict(title="AUC", alignment="left", loc="upper center", fontsize=8, frameon=False)
        below.legend(*axes.get_legend_handles_labels(), **look)
    figure.suptitle("Solid: measured here. Dashed: published scores. Points: published circuits.", fontsize=10)
    return write_figure(figure, path)


def _draw_curve(axes: Axes, finding: Finding, shown: Sequence[Finding]) -> None:
    """One curve; metrics differ by line style where there are several."""
    metrics = list(dict.fromkeys(other.metric for other in shown if other.metric != NO_METRIC))
    label, look = finding.method, {"linestyle": ":", "linewidth": 1.2}
    if finding.metric in metrics:
        label += f", {finding.metric}" if len(metrics) > 1 else ""
    if finding.interval.over != "draws":
        at = metrics.index(finding.metric) if finding.metric in metrics else 0
        look = {"linestyle": LINE_STYLES[at % len(LINE_STYLES)]}
    if finding.figures["stairs_auc"] is not None:
        look |= {"marker": "o", "markersize": 3.5}
    axes.plot(*finding.curve, color=colour_of(finding.method), label=f"{label}  {finding.figures['auc']:.3f}", **look)


def _draw_published_scores(axes: Axes, task: str, universe: str) -> None:
    for name, (of, method) in SCORES.items():
        if of != task:
            continue
        among = candidates(published_scores(name), load_reference(task), universe)
        curve, colour = roc_curve(among.labels, among.scores), colour_of(PUBLISHED_AS.get(method, method))
        look = dict(color=colour, linestyle="--", linewidth=1.2, label=f"MIB's {method}  {curve.auc:.3f}")
        axes.plot(curve.false_positive_rates, curve.true_positive_rates, **look)


def _draw_published_points(axes: Axes, task: str) -> None:
    """The points that the ACDC paper tells of, where corrupted prompts were patched in."""
    for entry in _published_points(task):
        _, method, objective, *_ = entry["points"].split("-")
        roc, colour = published_roc(entry["points"]), "black" if method == "acdc" else "#777777"
        words, line, fill = ("KL", "-", colour) if objective == "kl" else ("task metric", ":", "white")
        look = dict(color=colour, linewidth=0.8, linestyle=line, drawstyle="steps-post")
        look |= dict(marker=MARKERS[method], markersize=3.5, markerfacecolor=fill)
        label = f"{POINT_METHODS[method]}, {words}  {roc.stairs_auc:.3f} (stairs)"
        axes.plot(roc.false_positive_rates, roc.true_positive_rates, label=label, **look)


def _published_points(task: str) -> list[dict[str, Any]]:
    return [
        entry
        for entry in figures()["points"]
        if entry["table"] == "paper"
        and entry["level"] == "edge"
        and entry["points"].startswith(f"{task}-")
        and "-random-" in entry["points"]
    ]


def _finish_axes(axes: Axes, lowest: float | None = None) -> None:
    """Labels and limits; a logarithmic false positive rate from `lowest` if it is given."""
    finish(axes, "false positive rate", "true positive rate")
    axes.set_ylim(-0.02, 1.02)
    if lowest is None:
        axes.set_xlim(-0.02, 1.02)
        axes.set_aspect("equal")
    else:
        axes.set_xscale("symlog", linthresh=lowest * 2, linscale=0.5)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, *(10.0**-power for power in range(9, -1, -1) if 10.0**-power > lowest * 2)])
        axes.minorticks_off()
    axes.grid(color="#e5e5e5", linewidth=0.6)
