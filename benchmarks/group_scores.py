"""Methods' scores of a problem's edges, with what each group of prompts adds to them, as all studies use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from edge_circuits import eap
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.metrics import Metric, metric_name


def group_scores(problem: Problem, method: Method, metric: Metric, folder: Path, n_groups: int) -> ScoredGraph:
    """Score the problem's prompts with a method; `metadata["seconds"]` says how long it took.

    A method whose scores are no means over prompts (`method.additive`) scores all at once and has no `per_group`; but random
    scores are the same whatever the prompts, so each group has its share of them.

    Args:
        folder: For what is scored so far, so that what was stopped goes on.
        n_groups: Groups of nearly equal size, each a mixture of the prompts; a prompt each if there are fewer.

    Raises:
        ValueError: The method cannot be asked of this model or with this metric.
    """
    asked = dict(quiet=True, checkpoint=own_folder(folder, problem, metric, method))
    if method.additive and min(n_groups, len(problem.pairs)) > 1:
        return eap.score_groups(problem.model, problem.pairs, metric, method, n_groups=n_groups, **asked)
    scored = eap.score(problem.model, problem.pairs, metric, method, **asked)
    if not isinstance(method, eap.Random) or n_groups < 2:
        return scored
    shares = torch.tensor([len(group) / len(problem.pairs) for group in problem.pairs.groups(n_groups)])
    return replace(scored, per_group=shares[:, None, None].to(scored.scores) * scored.scores)


def scores_beside_exact(
    problem: Problem, methods: Mapping[str, Method], folder: Path, n_groups: int, quiet: bool
) -> tuple[ScoredGraph, dict[str, ScoredGraph], dict[str, str]]:
    """Scores of exact patching, those of every method, and why a method could not be asked, both by name."""
    metric, scored, left_out = problem.metric, {}, {}
    exact = group_scores(problem, eap.Exact(), metric, folder, n_groups)
    with tqdm(methods.items(), unit="method", disable=quiet, leave=False) as bar:
        for name, method in bar:
            bar.set_description(f"{problem.name}, {name}")
            try:
                scored[name] = group_scores(problem, method, metric, folder, n_groups)
            except ValueError as error:
                left_out[name] = str(error)
    return exact, scored, left_out


def own_folder(folder: Path | None, problem: Problem, metric: Metric, method: Method) -> Path | None:
    """Where the scores of one question are kept; None for a method that keeps none."""
    if folder is None or method.takes_all:
        return None
    question = f"{problem.stem}-{problem.pairs.digest}-{metric_name(metric)}"
    return folder / question / method.label.replace(":", "-")
