"""Circuits drawn: the known one, and those that methods find, with the roles of nodes.

Reference: after Figure 7 of Syed, Rager and Conmy 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.roc.finding import Finding
from edge_circuits.graphs import Circuit, prune, render

MOST_DRAWN = 200  # edges that are drawn when no number is asked for


def draw_known(problem: Problem, folder: Path) -> Path:
    """Draw the known circuit."""
    circuit = problem.circuit
    title = f"{problem.name}: the known circuit, {circuit.n_edges} edges ({problem.origin})"
    return render(circuit, folder / f"circuit-{problem.stem}-known.svg", roles=problem.roles, title=title)


def draw_found(finding: Finding, folder: Path) -> list[Path]:
    """Draw the circuits of a method's k best edges; none for a method that gives no scores."""
    if finding.scored is None:
        return []
    search, problem = finding.search, finding.search.problem
    known, paths = problem.circuit, []
    sizes = search.settings.k or (min(known.n_edges, MOST_DRAWN),)
    for k in (k for k in sizes if k <= problem.graph.n_edges):
        found = prune(finding.scored, k=k)
        name = f"circuit-{problem.stem}-{finding.method}-{finding.metric}-k{k}.svg"
        paths.append(render(found, folder / name, roles=problem.roles, title=_title(finding, found, k)))
    return paths


def _title(finding: Finding, found: Circuit, k: int) -> str:
    known = finding.search.problem.circuit
    left = f", {found.n_edges} without dead ends" if found.n_edges < k else ""
    shared = f"{(found & known).n_edges} of the known circuit's {known.n_edges}"
    return f"{finding.search.problem.name}: {finding.named}, best {k} edges{left}; {shared}"


def draw_all(findings: Iterable[Finding], folder: Path) -> tuple[list[Path], list[str]]:
    """Draw all circuits; returns the files and what the user should know, each once."""
    findings, paths = list(findings), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for problem in dict.fromkeys(finding.search.problem for finding in findings):
            paths.append(draw_known(problem, folder))
        for finding in findings:
            paths += draw_found(finding, folder)
    return paths, _told_once([str(warning.message) for warning in caught])


def _told_once(messages: list[str]) -> list[str]:
    """Messages that are equal apart from the file they speak of become one."""
    from edge_circuits.graphs.drawing.rendering import INSTALL

    if without_dot := [message for message in messages if INSTALL in message]:
        told = f"Graphviz's program dot was not found, so the {len(without_dot)} circuits are drawn without it; for its layout {INSTALL}"
        messages = [told, *(message for message in messages if INSTALL not in message)]
    return list(dict.fromkeys(messages))
