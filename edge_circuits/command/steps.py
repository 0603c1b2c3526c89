"""Commands of one step on a model: `score`, `refine`, `measure`, `verify`."""

from __future__ import annotations

import argparse
import json

from edge_circuits import eap
from edge_circuits.acdc.discovery import discover
from edge_circuits.acdc.discovery import refine as refine_circuit
from edge_circuits.benchmarks.output.tables import table
from edge_circuits.command import setting
from edge_circuits.eap.intervals import score_groups
from edge_circuits.eap.verification import verify as verify_scores
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.measures.quality import Measures
from edge_circuits.graphs.measures.quality import measure as measure_circuit
from edge_circuits.graphs.scores import ScoredGraph

HEADINGS = ("circuit", "edges", "faithfulness", "of the rest", "accuracy kept", "KL, nats")


def score(given: argparse.Namespace) -> None:
    """Score every edge on the prompts to find with."""
    setting.check_out(given.out.parent)
    problem = setting.opened(given)
    asked = (problem.model, problem.pairs, problem.metric, given.method)
    settings = dict(intervention=given.intervention, quiet=given.quiet)
    scores = (
        eap.score(*asked, **settings)
        if given.groups is None
        else score_groups(*asked, n_groups=given.groups, **settings)
    )
    scores = setting.told(scores, given, problem)
    setting.save(scores, given.out, given)
    print("\n".join(f"{value:12.4g}  {edge}" for edge, value in scores.top(10)))


def refine(given: argparse.Namespace) -> None:
    """ACDC on the prompts to find with."""
    setting.check_out(given.out.parent)
    start = None if given.circuit is None else Circuit.load(given.circuit)
    objective = given.metric
    given.metric = None if objective == "kl" else objective
    problem = setting.opened(given)
    asked, settings = (
        (problem.pairs, objective, given.threshold),
        dict(intervention=given.intervention, quiet=given.quiet),
    )
    if start is None:
        found = discover(problem.model, *asked, **settings)
    else:
        found = refine_circuit(problem.model, start, *asked, **settings)
    setting.save(setting.told(found, given, problem), given.out, given)
    print(
        f"{found.n_edges:,} edges stay of {(start.n_edges if start else found.graph.n_edges):,}, {found.live().n_edges:,} of them live"
    )


def measure(given: argparse.Namespace) -> None:
    """What circuits do on the held-out prompts."""
    circuits = [Circuit.load(path) for path in given.circuit]
    problem = setting.opened(given)
    found = [
        measure_circuit(problem.model, circuit, problem.held_out, problem.metric, given.intervention)[0]
        for circuit in circuits
    ]
    rows = [_row(str(path), one) for path, one in zip(given.circuit, found)]
    print(table(HEADINGS, [[_cell(value) for value in row.values()] for row in rows], n_left=1))
    if given.out is not None:
        about = {"command": given.command, "metric": problem.metric_name, "n_prompts": len(problem.held_out)}
        setting.write(given.out, json.dumps({**about, "circuits": rows}, indent=1) + "\n")


def verify(given: argparse.Namespace) -> int:
    """The verdicts; 1 if one fails."""
    scores = ScoredGraph.load(given.scores)
    problem = setting.opened(given)
    result = verify_scores(problem.model, scores, problem.pairs, problem.metric, n_edges=given.edges)
    print(result.text)
    return 0 if result.passed else 1


def _row(name: str, one: Measures) -> dict[str, float | str | None]:
    figures = (one.circuit.n_edges, one.faithfulness, one.completeness, one.accuracy_kept, one.divergence)
    return dict(zip(HEADINGS, (name, *figures)))


def _cell(value: float | str | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
