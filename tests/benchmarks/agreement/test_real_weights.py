"""Trained models: attribution patching ranks edges as exact patching does. Skipped where the weights are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_circuits import eap
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.problems.selection import open_problems
from edge_circuits.graphs import Circuit, run
from edge_circuits.graphs.correlation import spearman
from edge_circuits.graphs.running.patching import answer_rows

MODELS = Path(__file__).parents[4] / "shared" / "models"
CASES = {"gpt_nano_sort": (24, 0.6), "babyllama105": (8, 0.6)}  # prompts; least rank correlation


@pytest.fixture(scope="module", params=CASES)
def problem(request: pytest.FixtureRequest) -> Problem:
    directory = MODELS / request.param
    if not directory.is_dir():
        pytest.skip(f"the weights of {request.param} are not beside the project")
    return open_problems(str(directory), n_prompts=CASES[request.param][0], quiet=True)[0]


def test_attribution_ranks_edges_as_exact_patching_does(problem: Problem) -> None:
    estimate, exact = (
        eap.score(problem.model, problem.pairs, problem.metric, method, quiet=True) for method in ("eap", "exact")
    )
    edges = problem.graph.edge_mask
    least = CASES[Path(problem.model_name).name][1]
    assert spearman(estimate.scores[edges], exact.scores[edges]).item() > least
    shuffled = estimate.scores[edges][torch.randperm(problem.graph.n_edges, generator=torch.Generator().manual_seed(0))]
    assert abs(spearman(shuffled, exact.scores[edges]).item()) < least / 2


def test_the_whole_graph_is_the_model(problem: Problem) -> None:
    pairs = problem.pairs
    with torch.no_grad():
        found = run(problem.model, Circuit.full(problem.graph), pairs)
        for row in range(len(pairs)):
            one = pairs[[row]]
            logits = problem.model(one.clean)[0, answer_rows(one)[0, 0]]
            torch.testing.assert_close(found[row], logits, rtol=1e-4, atol=1e-4)
