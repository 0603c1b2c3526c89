"""Findings as a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean
from typing import NamedTuple

from edge_circuits.benchmarks.output.tables import shown, table
from edge_circuits.benchmarks.roc.finding import FALSE_POSITIVE_RATES, NO_METRIC, Finding, Search

AREAS = {"AUC": "auc", "AP": "average_precision", "hard AUC": "hard_auc", "hard AP": "hard_average_precision"}


class Skipped(NamedTuple):
    """A method that was not asked, and why."""

    search: Search
    method: str
    reason: str


class Column(NamedTuple):
    """A figure of the table."""

    heading: str
    name: str
    form: str = ".3f"


def text(findings: Sequence[Finding], skipped: Sequence[Skipped] = ()) -> str:
    """A table for each problem, and what the columns are."""
    parts = []
    for problem, group in groupby(findings, key=lambda finding: finding.search.problem):
        found = list(group)
        left_out = _left_out([entry for entry in skipped if entry.search.problem is problem])
        parts += [_heading(found[0]), _table(found), *left_out, ""]
    return "\n".join([*parts, *_over_seeds(findings), _legend(findings)])


def skipped_rows(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    """What was not asked, in types that JSON has."""
    return [
        dict(problem=search.problem.name, method=method, metric=search.metric_name, reason=reason)
        for search, method, reason in skipped
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
            lines += [heading, table(["method", *AREAS], rows), ""]
    return lines


def _ranges(found: Sequence[Finding]) -> list[str]:
    """Mean, least and most of the areas."""
    areas = ([finding.figures[name] for finding in found] for name in AREAS.values())
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


def _table(found: Sequence[Finding]) -> str:
    """A line a method; the interval stands behind the AUC."""
    (auc, *columns), lines = _columns(found), []
    for finding in found:
        low, high, _ = finding.interval
        figures, metric = finding.figures, "-" if finding.metric == NO_METRIC else finding.metric
        interval = "-" if low is None else f"{low:.3f} - {high:.3f}"
        cells = [shown(figures[column.name], column.form) for column in columns]
        lines.append(
            [finding.method, metric, shown(figures[auc.name]), interval, *cells, shown(finding.seconds, ".1f")]
        )
    headings = ["method", "metric", auc.heading, "95 % interval", *(column.heading for column in columns), "seconds"]
    return table(headings, lines)


def _columns(found: Sequence[Finding]) -> list[Column]:
    with_stairs = any(finding.figures["stairs_auc"] is not None for finding in found)
    return [
        Column("AUC", "auc"),
        *([Column("stairs", "stairs_auc")] if with_stairs else []),
        Column("AP", "average_precision"),
        *(Column(f"TPR@{rate:.0%}", f"tpr_at_fpr_{rate:g}") for rate in FALSE_POSITIVE_RATES),
        Column("best J", "youden"),
        Column("at k", "youden_k", "d"),
        *(
            Column(f"{kind} k={k}", f"{kind.lower()}_at_k_{k}", form)
            for k in found[0].search.k
            for kind, form in (("TPR", ".3f"), ("FPR", ".4f"))
        ),
        Column("node AUC", "node_auc"),
        Column("hard AUC", "hard_auc"),
        Column("hard AP", "hard_average_precision"),
    ]


def _legend(findings: Sequence[Finding]) -> str:
    lines = [
        "AUC: area under the exact ROC curve of |score|, ties counting half. AP: average precision. TPR@x: largest share of the",
        "circuit's edges found while at most x of the others are chosen. best J: largest TPR - FPR, reached with k edges.",
        "Interval: bootstrap over groups of prompts. Scores are means over prompts, so the groups add up to all exactly;",
        "where a method's scores are not, there is no interval.",
        "hard: AUC and AP among edges from the circuit's own sources to its own destinations. ends: knows these nodes, and no edge.",
    ]
    if any(finding.figures["stairs_auc"] is not None for finding in findings):
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
