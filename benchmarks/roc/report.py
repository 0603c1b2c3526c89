"""Findings as text, CSV and JSON, with what is needed to get them again: settings, seed, commit and versions."""

from __future__ import annotations

import csv
import io
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from edge_circuits.benchmarks.roc.finding import FALSE_POSITIVE_RATES, NO_METRIC, Finding, Search

ROOT = Path(__file__).parents[2]
LIBRARIES = ("edge-circuits", "torch", "transformer-lens", "transformers", "scikit-learn", "numpy")


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
        with_stairs = any(finding.stairs_auc is not None for finding in found)
        parts += [
            _heading(found[0]),
            table(_columns(found[0], with_stairs), [_cells(finding, with_stairs) for finding in found]),
        ]
        parts += [*_left_out([entry for entry in skipped if entry.search.problem is problem]), ""]
    return "\n".join([*parts, _legend(findings)])


def as_csv(findings: Sequence[Finding]) -> str:
    """One line a finding, all figures unrounded."""
    rows = [_flat(finding.row()) for finding in findings]
    return csv_text(rows)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under all their columns, in the order in which these first come; empty where a row has none or no value."""
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(dict.fromkeys(name for row in rows for name in row)), restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_json(findings: Sequence[Finding], skipped: Sequence[Skipped], settings: dict[str, Any]) -> str:
    """The rows with the settings of the run, the commit and the versions."""
    content = {
        "settings": settings,
        "commit": commit(),
        "versions": versions(),
        "rows": [finding.row() for finding in findings],
        "skipped": [
            {
                "problem": entry.search.problem.name,
                "method": entry.method,
                "metric": entry.search.metric_name,
                "reason": entry.reason,
            }
            for entry in skipped
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def commit() -> str | None:
    """The commit of the project's checkout, "+" behind it if files were changed; None outside of one."""
    if not (ROOT / ".git").exists():
        return None
    try:
        number, changes = (
            _git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return number.strip() + ("+" if changes else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the figures."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text under their headings; the first two to the left, figures to the right."""
    lines = [tuple(headings), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    padded = [
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    ]
    return "\n".join(
        [padded[0].rstrip(), "  ".join("-" * width for width in widths), *(line.rstrip() for line in padded[1:])]
    )


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The same row with settings as text and nothing where there is none."""
    cells = {name: "" if value is None else value for name, value in row.items()}
    return cells | {"settings": json.dumps(row["settings"], sort_keys=True)}


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
    at_k = [name for k in finding.rates_at_k for name in (f"TPR k={k}", f"FPR k={k}")]
    stairs = ["stairs"] if with_stairs else []
    return [
        "method",
        "metric",
        "AUC",
        "95 % interval",
        *stairs,
        "AP",
        *rates,
        "best J",
        "at k",
        *at_k,
        "node AUC",
        "seconds",
    ]


def _cells(finding: Finding, with_stairs: bool) -> list[str]:
    stairs = "-" if finding.stairs_auc is None else f"{finding.stairs_auc:.3f}"
    interval = "-" if finding.low is None else f"{finding.low:.3f} - {finding.high:.3f}"
    return [
        finding.method,
        finding.metric if finding.metric != NO_METRIC else "-",
        f"{finding.auc:.3f}",
        interval,
        *([stairs] if with_stairs else []),
        f"{finding.average_precision:.3f}",
        *(f"{rate:.3f}" for rate in finding.rates_at.values()),
        f"{finding.youden:.3f}",
        "-" if finding.youden_k is None else str(finding.youden_k),
        *(cell for rates in finding.rates_at_k.values() for cell in (f"{rates[0]:.3f}", f"{rates[1]:.4f}")),
        "-" if finding.node_auc is None else f"{finding.node_auc:.3f}",
        "-" if finding.seconds is None else f"{finding.seconds:.1f}",
    ]


def _legend(findings: Sequence[Finding]) -> str:
    lines = [
        "AUC: area under the exact ROC curve of |score|, ties counting half. AP: average precision. TPR@x: largest share of the",
        "circuit's edges found while at most x of the others are chosen. best J: largest TPR - FPR, reached with k edges.",
        "Interval: bootstrap over groups of prompts. Scores are means over prompts, so the groups add up to all exactly;",
        "where a method's scores are not, there is no interval.",
    ]
    if any(finding.stairs_auc is not None for finding in findings):
        lines.append(
            "acdc: a circuit a threshold. AUC: trapezoids under the front of these points; stairs: the pessimistic stairs under them."
        )
        lines.append("Neither is to be compared with the AUC of scores, which has a point for every edge.")
    drawn = [finding for finding in findings if finding.interval == "draws"]
    if drawn:
        lines.append(
            f"random: mean of {drawn[0].search.settings.n_random} draws of random scores, and the interval that holds 95 % of them."
        )
    return "\n".join(lines)
