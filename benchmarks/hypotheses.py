"""Is a circuit equivalent to the model, is the rest independent of it, is every edge needed: three tests with p-values.

    python -m edge_circuits.benchmarks.hypotheses                                     # the known circuits of all planted models
    python -m edge_circuits.benchmarks.hypotheses --tasks ioi --methods eap relp --k 12
    python -m edge_circuits.benchmarks.hypotheses --model DIRECTORY --prompts FILE --circuit FILE

Tested are the known circuit, where there is one, and the k best edges of each method, scored on other prompts than those of the
tests (`edge_circuits.graphs.measures.hypotheses` says what is tested). A small p-value speaks against the circuit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from edge_circuits import eap
from edge_circuits.benchmarks.output.tables import table
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.problems.selection import N_PROMPTS
from edge_circuits.benchmarks.study import PROBLEM, Study, problems_of, tell
from edge_circuits.graphs import Circuit, prune
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.measures.hypotheses import hypothesis_tests

FORMS = {"share_better": ".2f", "equivalence": ".3g", "independence": ".3g", "minimality": ".3g", "n_superfluous": "d"}


def _add(parser: argparse.ArgumentParser) -> None:
    told = "of eap.score, whose circuits are tested too"
    parser.add_argument("--methods", "--method", nargs="+", default=[], help=told)
    parser.add_argument("--k", type=int, help="edges of their circuits; by default as many as the known circuit has")


def _work(given: argparse.Namespace) -> None:
    n, rows, texts = N_PROMPTS if given.n_prompts is None else given.n_prompts, [], []
    for problem in problems_of(given, n_held_out=n):
        found = [_tested(problem, circuit, name, given) for name, circuit in _circuits(problem, given)]
        cells = [
            [row["circuit"], str(row["n_edges"]), *(format(row[name], form) for name, form in FORMS.items())]
            for row in found
        ]
        about = f"{problem.name}: {len(problem.held_out)} held-out prompts, {problem.metric_name}, {given.intervention}"
        texts.append(f"{about}\n{table(['circuit', 'edges', *FORMS], cells, n_left=1)}")
        rows += found
    legend = "share_better: of prompts on which the circuit does better than the model. p-values of equivalence, of independence of\nthe rest, and of minimality; n_superfluous: edges that matter no more than stray ones."
    tell(given, "hypotheses", "\n\n".join([*texts, legend]), rows)


def _circuits(problem: Problem, given: argparse.Namespace) -> Iterator[tuple[str, Circuit]]:
    """The circuits to be tested, by name."""
    if problem.circuit is not None:
        yield "known", problem.circuit
    k = given.k or (problem.circuit.n_edges if problem.circuit else None)
    if k is None:
        raise refusal("--k", f"a number of edges, since no circuit of {problem.name} is known", "none")
    for method in given.methods:
        settings = dict(intervention=given.intervention, quiet=True)
        yield method, prune(eap.score(problem.model, problem.pairs, problem.metric, method, **settings), k)


def _tested(problem: Problem, circuit: Circuit, name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The three tests as a row."""
    asked = dict(intervention=given.intervention, seed=given.seed)
    found = hypothesis_tests(problem.model, circuit, problem.held_out, problem.metric, **asked)
    return {
        "model": problem.model_name,
        "task": problem.task,
        "circuit": name,
        "n_edges": circuit.n_edges,
        "share_better": found.equivalence.share_better,
        "equivalence": found.equivalence.p_value,
        "independence": found.independence.p_value,
        "minimality": found.minimality.p_value,
        "n_superfluous": len(found.minimality.superfluous),
        "superfluous": list(found.minimality.superfluous),
    }


STUDY = Study(
    "hypotheses", "Tests of circuits, with p-values.", (*PROBLEM, "metric", "intervention", "out"), _add, _work
)
main, parser = STUDY.main, STUDY.parser

if __name__ == "__main__":
    raise SystemExit(main())
