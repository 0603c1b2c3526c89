"""Published figures, computed again: the check that our reference circuits and ROC code mean what others mean.

    python -m edge_circuits.benchmarks.published          # the headline figures
    python -m edge_circuits.benchmarks.published --all    # also mask learning, nodes, and the older table of ACDC's repository

1. Edge scores of GPT-2 small published with MIB (Mueller et al. 2025) are ranked by absolute value and held against the
   reference circuits in several universes of edges.
2. The points (false positive rate, true positive rate) of ACDC and its rivals (Conmy et al. 2023), one per threshold,
   give the AUCs that its paper and its repository print: pessimistic stairs on the Pareto front.

Each figure stands beside the one to reach: printed by its authors (published), or measured before with scikit-learn from
the same data. A `*` and exit status 1 tell of a difference beyond rounding. Last come figures that cannot be computed
again, because their files carry no licence and are not kept here. Data and terms: `benchmarks/data/published/NOTICE`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.benchmarks.output.tables import table
from edge_circuits.benchmarks.reference.circuits import load_reference
from edge_circuits.benchmarks.reference.universes import candidates
from edge_circuits.benchmarks.statistics.roc_curves import ThresholdRoc, roc_curve, threshold_roc
from edge_circuits.benchmarks.study import DIFFERS, DONE, Study, tell
from edge_circuits.graphs import Graph, ScoredGraph
from edge_circuits.graphs.checks import choice, refusal

FOLDER = Path(__file__).parent / "data" / "published"
SCORES = {
    "ioi_eap_ig": ("ioi", "EAP-IG"),
    "greater_than_eap": ("greater_than", "EAP"),
    "greater_than_eap_ig": ("greater_than", "EAP-IG"),
    "greater_than_exact": ("greater_than", "exact patching"),
    "ioi_ugs": ("ioi", "uniform gradient sampling"),
    "greater_than_ugs": ("greater_than", "uniform gradient sampling"),
}
POINT_METHODS = {"acdc": "ACDC", "sp": "subnetwork probing", "hisp": "HISP"}


class Figure(NamedTuple):
    """A figure computed here, and the one it has to equal, to some decimals: published, or measured before from the same data."""

    name: str
    here: float
    expected: float
    digits: int

    @property
    def agrees(self) -> bool:
        """Whether the two are equal when rounded; one unit of the last digit is granted to a five at the border."""
        return abs(self.here - self.expected) <= 0.51 * 10**-self.digits


class Row(NamedTuple):
    """A line of the table: the words of its first columns, the figures of the last, and whether it is told without `--all`."""

    labels: tuple[str, ...]
    figures: tuple[Figure, ...]
    is_headline: bool = True


def published_scores(name: str) -> ScoredGraph:
    """Published edge scores of GPT-2 small, in their authors' sign.

    Args:
        name: One of `SCORES`, e.g. "ioi_eap_ig".

    Raises:
        ValueError: There are no such scores.
    """
    choice("scores", name, SCORES)
    graph = Graph(12, 12)
    scores = torch.zeros(graph.n_sources, graph.n_destinations)
    scores.T[graph.edge_mask.T] = torch.from_numpy(_arrays("gpt2_edge_scores")[name])
    task, method = SCORES[name]
    metadata = {"model": "gpt2", "method": method, "task": task, "source": "hannamw/MIB-circuit-track"}
    return ScoredGraph(graph, scores, metadata)


def published_points(name: str, level: Literal["edge", "node"] = "edge") -> Float[Tensor, "3 point"]:
    """Thresholds, false and true positive rates of a method, as published with ACDC. [3 point]

    Args:
        name: task-method-objective-ablation-date, e.g. "ioi-acdc-kl-random-2024-10"; `figures.json` lists them.
        level: Rates of edges or of nodes.

    Raises:
        ValueError: There are no such points.
    """
    points = _arrays("acdc_points")
    if f"{name}-{level}" not in points:
        names = sorted(key.removesuffix("-edge") for key in points if key.endswith("-edge"))
        raise refusal(f"{level} points", f"one of {', '.join(names)}", repr(name))
    return torch.from_numpy(points[f"{name}-{level}"])


def published_roc(name: str, level: Literal["edge", "node"] = "edge") -> ThresholdRoc:
    """Front and areas of published points; thresholds below 1e-6 are dropped for ACDC only.

    The weights of subnetwork probing are rounded to three decimals in its files, so that a 0 there is no threshold of 0.

    Raises:
        ValueError: There are no such points.
    """
    thresholds, false_positive_rates, true_positive_rates = published_points(name, level)
    is_acdc = name.split("-")[1] == "acdc"
    return threshold_roc(true_positive_rates, false_positive_rates, thresholds if is_acdc else None)


def score_rows() -> list[Row]:
    """AUC and average precision of the published edge scores, beside those measured before."""
    return [_score_row(entry) for entry in figures()["edge_scores"]]


def point_rows() -> list[Row]:
    """Areas under the published points, beside the published AUC and those measured before."""
    return [_point_row(entry) for entry in figures()["points"]]


@cache
def figures() -> dict[str, Any]:
    """The figures to reach, as in `figures.json`; its first entry says what they are."""
    return json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))


def _score_row(entry: dict[str, Any]) -> Row:
    scored = published_scores(entry["scores"])
    reference = load_reference(scored.metadata["task"], entry["variant"])
    direct_score = entry.get("direct_score", "sum")
    among = candidates(scored, reference, entry["universe"], direct_score=direct_score)
    assert (len(among), among.n_positives) == (entry["n"], entry["n_positives"]), entry
    curve = roc_curve(among.labels, among.scores)
    rule = f" ({direct_score})" if "direct_score" in entry else ""
    labels = (reference.task, scored.metadata["method"], reference.variant, entry["universe"] + rule)
    shown = [Figure("AUC", curve.auc, entry["auc"], 4)]
    if "average_precision" in entry:
        shown.append(Figure("average precision", curve.average_precision, entry["average_precision"], 4))
    sizes = (str(len(among)), str(among.n_positives))
    return Row(labels + sizes, tuple(shown), is_headline=not entry["scores"].endswith("_ugs"))


def _point_row(entry: dict[str, Any]) -> Row:
    roc = published_roc(entry["points"], entry["level"])
    task, method, objective, ablation, year, month = entry["points"].split("-")
    shown = [Figure("published stairs", roc.stairs_auc, entry["published"], 3)]
    shown.append(Figure("measured stairs", roc.stairs_auc, entry["stairs"], 4))
    if "trapezoid" in entry:
        shown.append(Figure("measured trapezoid", roc.trapezoid_auc, entry["trapezoid"], 4))
    labels = (task, POINT_METHODS[method], objective, ablation, entry["level"], entry["table"], f"{year}-{month}")
    is_headline = entry["table"] == "paper" and method == "acdc" and ablation == "random" and entry["level"] == "edge"
    return Row(labels, tuple(shown), is_headline)


@cache
def _arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def _cells(row: Row, n_figures: int) -> tuple[str, ...]:
    """The words of a row, then for each figure `here expected`, marked where they differ."""
    cells = [f"{f.here:.4f} {f.expected:.{f.digits}f}{'' if f.agrees else ' *'}" for f in row.figures]
    return row.labels + tuple(cells) + ("",) * (n_figures - len(cells))


def report(score: Sequence[Row], point: Sequence[Row]) -> str:
    """The tables as text: each figure as computed here, and beside it the one to reach."""
    score_headings = ("task", "method", "circuit", "universe", "n", "positive", "AUC", "average precision")
    point_headings = ("task", "method", "objective", "ablation", "level", "table", "points", "stairs published")
    point_headings += ("stairs measured", "trapezoid measured")
    left = [(f["task"], f"{f['auc']:.4f}", f["what"]) for f in figures()["not_recomputed"]]
    all_figures = [figure for row in (*score, *point) for figure in row.figures]
    n_agree = sum(figure.agrees for figure in all_figures)
    ending = "." if n_agree == len(all_figures) else "; * marks the others."
    return f"""\
Edge scores of GPT-2 small published with MIB, by absolute value (here, measured before)
{table(score_headings, [_cells(row, 2) for row in score], n_left=8)}

Points published with ACDC: area under the Pareto front (here, published or measured before)
{table(point_headings, [_cells(row, 3) for row in point], n_left=10)}

Measured before and not computed again: the files carry no licence and are not kept here
{table(("task", "AUC", "what"), left, n_left=3)}

{n_agree} of {len(all_figures)} figures come out{ending}"""


def _add(parser: argparse.ArgumentParser) -> None:
    told = "also mask learning, nodes, zero ablation and the older table"
    parser.add_argument("--all", action="store_true", help=told)


def _work(given: argparse.Namespace) -> int:
    score, point = ([row for row in rows if given.all or row.is_headline] for rows in (score_rows(), point_rows()))
    found = [
        {"of": list(row.labels), "figure": one.name, "here": one.here, "expected": one.expected, "agrees": one.agrees}
        for row in (*score, *point)
        for one in row.figures
    ]
    tell(given, "published", report(score, point), found)
    return DONE if all(row["agrees"] for row in found) else DIFFERS


STUDY = Study("published", "Published figures, computed again.", ("out",), _add, _work)
main, parser = STUDY.main, STUDY.parser

if __name__ == "__main__":
    raise SystemExit(main())
