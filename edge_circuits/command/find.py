"""`edge-circuits find`: from a model and prompts to a checked circuit, in one command.

1. Prompts are divided into two halves: everything is found with the one and measured on the other.
2. Edges are scored, group of prompts by group, so that scores have intervals.
3. The circuit: the k best edges; without --k the fewest tried that recover a share of the metric on the prompts to find
   with. With --refine, ACDC then goes over it.
4. Held-out prompts: faithfulness over the size, and what the circuit does on each.
5. The exact effect of the circuit's strongest edges, and the verdicts of `verify`.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import torch

from edge_circuits.acdc.discovery import refine
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.command import setting
from edge_circuits.eap.intervals import ErrorBars, error_bars, score_groups
from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.lookup import find as find_method
from edge_circuits.eap.scoring import score
from edge_circuits.eap.verification import Verification, verify
from edge_circuits.graphs.checks import number, whole_number
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.measures.curves import SHARES, Curve, curves, interval_of, resampled_shares
from edge_circuits.graphs.measures.quality import Measures, measure
from edge_circuits.graphs.pruning import prune
from edge_circuits.graphs.scores import ScoredGraph
from edge_circuits.page.payload import Prompts, Side
from edge_circuits.page.report import write_page

N_CHECKED = 16  # prompts of `verify`
TRIED = tuple(0.002 * 500 ** (i / 23) for i in range(24))  # shares of all edges, of which the fewest that do are chosen
FILES = ("scores.json", "circuit.json", "measures.json", "report.html")


class Found(NamedTuple):
    """All that was found, before it is written."""

    scores: ScoredGraph
    bars: ErrorBars | None
    circuit: Circuit
    measures: Measures
    curve: Curve
    exact: dict[str, float]
    checks: Verification


def find(given: argparse.Namespace) -> None:
    """Find, measure, check, write and tell."""
    number("--share", given.share, above=0, most=1)
    whole_number("--exact", given.exact)
    setting.check_out(given.out)
    problem = setting.opened(given)
    found = _found(given, problem)
    setting.folder_for(given.out)
    found.scores.save(given.out / FILES[0])
    found.circuit.save(given.out / FILES[1])
    setting.write(given.out / FILES[2], json.dumps(_numbers(found), indent=1) + "\n")
    _page(given, problem, found)
    print(_summary(given, problem, found))


def _found(given: argparse.Namespace, problem: Problem) -> Found:
    scores, bars = _scored(given, problem)
    circuit = _circuit(given, problem, scores)
    metric, sizes = problem.metric, _sizes(scores, circuit.n_requested or circuit.n_edges)
    asked = (problem.held_out, metric, given.intervention)
    curve = curves(problem.model, {"": scores}, *asked, shares=sizes)[""]
    measures = measure(problem.model, circuit, *asked)[0]
    checks = verify(problem.model, scores, problem.pairs[:N_CHECKED], metric)
    return Found(scores, bars, circuit, measures, curve, _exact(given, problem, circuit), checks)


def _scored(given: argparse.Namespace, problem: Problem) -> tuple[ScoredGraph, ErrorBars | None]:
    """Scores, with intervals where the method's scores are means over prompts."""
    method, asked = find_method(given.method), (problem.model, problem.pairs, problem.metric)
    settings: dict[str, Any] = dict(intervention=given.intervention, quiet=given.quiet)
    if method.additive and len(problem.pairs) > 1 and not given.intervention.startswith("mean"):
        scores = setting.told(score_groups(*asked, method, **settings), given, problem)
        return scores, error_bars(scores)
    setting.note(given, f"no intervals: {method.not_additive or 'means over all prompts are what cut edges read'}")
    return setting.told(score(*asked, method, **settings), given, problem), None


def _circuit(given: argparse.Namespace, problem: Problem, scores: ScoredGraph) -> Circuit:
    k = given.k
    if k is None:
        asked = (problem.pairs, problem.metric, given.intervention)
        curve = curves(problem.model, {"": scores}, *asked, shares=[*TRIED[:-1], 1.0])[""]
        k = next(
            k for k, value in zip(curve.k, curve.faithfulness.tolist()) if value >= given.share or k == curve.k[-1]
        )
        setting.note(
            given, f"k {k:,}: the fewest edges tried that recover {given.share:.0%} on the prompts to find with"
        )
    circuit = prune(scores, k)
    if given.refine is not None:
        settings = dict(intervention=given.intervention, quiet=given.quiet)
        refined = refine(problem.model, circuit, problem.pairs, given.objective, given.refine, **settings).live()
        circuit = Circuit(refined.graph, refined.mask, scores.scores, {**circuit.metadata, **refined.metadata})
    return setting.told(circuit, given, problem)


def _sizes(scores: ScoredGraph, k: int) -> list[float]:
    """Shares of all edges to measure at: those of MIB, and the circuit's own."""
    n_edges = scores.graph.n_edges
    own = min(1.0, (k + 0.25) / n_edges)  # the share is rounded down to k
    shares = [*SHARES, *([own] if k and k not in [int(share * n_edges) for share in SHARES] else [])]
    return sorted({int(share * n_edges): share for share in shares if int(share * n_edges)}.values())


def _exact(given: argparse.Namespace, problem: Problem, circuit: Circuit) -> dict[str, float]:
    """What cutting each of the circuit's strongest edges does, by name."""
    places = circuit.mask.nonzero()
    strongest = places[circuit.scores[circuit.mask].abs().argsort(descending=True, stable=True)[: given.exact]]
    if not len(strongest):
        return {}
    chosen = torch.zeros_like(circuit.mask)
    chosen[strongest[:, 0], strongest[:, 1]] = True
    settings = dict(intervention=given.intervention, quiet=given.quiet)
    exact = score(problem.model, problem.pairs, problem.metric, Exact(chosen), **settings)
    return {edge: exact.score(edge) for edge in circuit.graph.edge_names(chosen)}


def _page(given: argparse.Namespace, problem: Problem, found: Found) -> None:
    halves = f"The {len(problem.held_out)} prompts held out; nothing was found with them."
    shown = Prompts(found.measures, problem.held_out, setting.tokenizer_of(problem), halves)
    side = Side(found.scores, circuit=found.circuit, bars=found.bars, exact=found.exact)
    write_page(
        given.out / FILES[3], side, curve=found.curve, verification=found.checks, prompts=shown, title=problem.name
    )


def _numbers(found: Found) -> dict[str, Any]:
    """The measures, and the curve point by point."""
    measures, curve = found.measures, found.curve
    return {
        "command": found.scores.metadata["command"],
        "metric": found.scores.metadata["metric"],
        "n_prompts": len(measures.values),
        "n_edges": found.circuit.n_edges,
        "faithfulness": measures.faithfulness,
        "completeness": measures.completeness,
        "model_right": None if measures.model_right is None else int(measures.model_right.sum()),
        "accuracy_kept": measures.accuracy_kept,
        "divergence": measures.divergence,
        "curve": {"k": curve.k, "n_edges": curve.n_edges, "faithfulness": curve.faithfulness.tolist()},
        "cpr": curve.area("cpr"),
        "cmd": curve.area("cmd"),
        "exact": found.exact,
        "checks": {check.name: {"value": repr(check.value), "passed": check.passed} for check in found.checks.checks},
    }


def _summary(given: argparse.Namespace, problem: Problem, found: Found) -> str:
    measures, circuit, checks = found.measures, found.circuit, found.checks.checks
    resamples = resampled_shares(measures.ends, measures.values[None])[:, 0]
    value = interval_of(measures.faithfulness, resamples) if len(measures.values) > 1 else None
    between = f" ({value.low:.3f} to {value.high:.3f})" if value else ""
    kept = "" if measures.accuracy_kept is None else f", accuracy kept {measures.accuracy_kept:.1%}"
    right = "" if measures.model_right is None else f"; the model itself is right on {int(measures.model_right.sum())}"
    failed = [f"  FAILED {check.text.split(maxsplit=1)[1]}" for check in checks if not check.passed]
    lines = [
        f"circuit    {circuit.n_edges:,} of {circuit.graph.n_edges:,} edges, {len(circuit.nodes)} nodes",
        f"held out   faithfulness {measures.faithfulness:.3f}{between}, of the rest {measures.completeness:.3f}{kept}, "
        f"KL {measures.divergence:.3g} nats; {problem.metric_name} on {len(measures.values)} prompts{right}",
        f"checks     {len(checks) - len(failed)} of {len(checks)} passed",
        *failed,
        f"written    {', '.join(str(given.out / name) for name in FILES)}",
    ]
    return "\n".join(lines)
