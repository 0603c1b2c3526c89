"""Findings as a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean
from typing import NamedTuple

from edge_circuits.benchmarks.output.tables import table
from edge_circuits.benchmarks.roc.finding import FALSE_POSITIVE_RATES, NO_METRIC, Finding, Search


class Skipped(NamedTuple):
    """A method that was not asked, and why."""

    search: Search
    method: str
    reason: str


def text(findings: Sequence[Finding], skipped: Sequence[Skipped] = ()) -> str:
    """A table for each problem, and what the columns are."""
    parts = []
    for problem, group in groupby(findings, key=lambda finding: finding.search.problem):
        found = list(group)
        with_stairs = any(finding.figures.stairs_auc is not None for finding in found)
        parts += [
            _heading(found[0]),
            table(_columns(found[0], with_stairs), [_cells(finding, with_stairs) for finding in found]),
        ]
        parts += [*_left_out([entry for entry in skipped if entry.search.problem is problem]), ""]
    return "\n".join([*parts, *_over_seeds(findings), _legend(findings)])


def skipped_rows(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    """What was not asked, in types that JSON has."""
    return [
        {
            "problem": one.search.problem.name,
            "method": one.method,
            "metric": one.search.metric_name,
            "reason": one.reason,
        }
        for one in skipped
    ]


def _over_seeds(findings: Sequence[Finding]) -> list[str]:
    """What the seed of a model's training makes of the areas: a table of means and ranges for each task with several."""
    groups: dict[tuple[str, str], dict[str, dict[str, Finding]]] = {}
    for finding in findings:
        problem = finding.search.problem
        methods = groups.setdefault((problem.model_name.partition(":")[0], problem.task), {})
        methods.setdefault(finding.named, {})[problem.model_name] = finding
    lines = []
    for (kind, task), methods in groups.items():
        if rows := [[name, *_ranges(list(found.values()))] for name, found in methods.items() if len(found) > 1]:
            models = dict.fromkeys(model for found in methods.values() for model in found)
            heading = f"{kind} {task}, mean (least, most) over {', '.join(models)}"
            lines += [heading, table(["method", "AUC", "AP", "hard AUC", "hard AP"], rows), ""]
    return lines


def _ranges(found: Sequence[Finding]) -> list[str]:
    """Mean, least and most of the areas."""
    all_figures = [finding.figures for finding in found]
    areas = zip(*((figures.auc, figures.average_precision, *figures.hard) for figures in all_figures))
    return [
        "-" if None in values else f"{fmean(values):.3f} ({min(values):.3f}, {max(values):.3f})" for values in areas
    ]


def _heading(finding: Finding) -> str:
    search, problem = finding.search, finding.search.problem
    n, n_positives = search.sizes
    among = "" if search.settings.universe == "all" else f", universe {search.settings.universe}"
    n_groups = min(search.settings.n_groups, len(problem.pairs))
    return (
        f"{problem.name}: {n_positives} of {n:,} edges are the circuit ({problem.origin}{among}); {len(problem.pairs)} "
        f"{problem.prompts} in {n_groups} groups, seed {search.settings.seed}"
    )


def _left_out(skipped: Sequence[Skipped]) -> list[str]:
    """A line for each metric and reason."""
    methods: dict[tuple[str, str], list[str]] = {}
    for entry in skipped:
        methods.setdefault((entry.search.metric_name, entry.reason), []).append(entry.method)
    return [f"{metric} without {', '.join(names)}: {reason}" for (metric, reason), names in methods.items()]


def _columns(finding: Finding, with_stairs: bool) -> list[str]:
    rates = [f"TPR@{rate:.0%}" for rate in FALSE_POSITIVE_RATES]
    at_k = [name for k in finding.figures.rates_at_k for name in (f"TPR k={k}", f"FPR k={k}")]
    areas = ["AUC", "95 % interval", *(["stairs"] if with_stairs else []), "AP"]
    return ["method", "metric", *areas, *rates, "best J", "at k", *at_k, "node AUC", "hard AUC", "hard AP", "seconds"]


def _cells(finding: Finding, with_stairs: bool) -> list[str]:
    figures, (low, high, _) = finding.figures, finding.interval
    return [
        finding.method,
        finding.metric if finding.metric != NO_METRIC else "-",
        f"{figures.auc:.3f}",
        "-" if low is None else f"{low:.3f} - {high:.3f}",
        *([_cell(figures.stairs_auc)] if with_stairs else []),
        f"{figures.average_precision:.3f}",
        *(f"{rate:.3f}" for rate in figures.rates_at.values()),
        f"{figures.youden:.3f}",
        _cell(figures.youden_k, "d"),
        *(cell for rates in figures.rates_at_k.values() for cell in (f"{rates[0]:.3f}", f"{rates[1]:.4f}")),
        _cell(figures.node_auc),
        *map(_cell, figures.hard),
        _cell(finding.seconds, ".1f"),
    ]


def _cell(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def _legend(findings: Sequence[Finding]) -> str:
    lines = [
        "AUC: area under the exact ROC curve of |score|, ties counting half. AP: average precision. TPR@x: largest share of the",
        "circuit's edges found while at most x of the others are chosen. best J: largest TPR - FPR, reached with k edges.",
        "Interval: bootstrap over groups of prompts. Scores are means over prompts, so the groups add up to all exactly;",
        "where a method's scores are not, there is no interval.",
        "hard: AUC and AP among edges from the circuit's own sources to its own destinations. ends: knows these nodes, and no edge.",
    ]
    if any(finding.figures.stairs_auc is not None for finding in findings):
        lines.append(
            "acdc: a circuit a threshold. AUC: trapezoids under the front of these points; stairs: the pessimistic stairs under them."
        )
        lines.append("Neither is to be compared with the AUC of scores, which has a point for every edge.")
    drawn = [finding for finding in findings if finding.interval.over == "draws"]
    if drawn:
        lines.append(
            f"random: mean of {drawn[0].search.settings.n_random} draws of random scores, and the interval that holds 95 % of them."
        )
    return "\n".join(lines)
