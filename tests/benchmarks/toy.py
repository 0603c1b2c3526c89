"""A problem of a few dozen edges with random weights, on which the ROC benchmark runs in moments."""

from __future__ import annotations

from models import native, prompt_pairs

from edge_circuits.benchmarks.problems.known_circuits import Problem
from edge_circuits.benchmarks.roc.finding import Search, Settings
from edge_circuits.graphs import Circuit
from edge_circuits.graphs.metrics import logit_difference
from edge_circuits.graphs.model.adapter import adapt

EDGES = ("input->a0.h1<v>", "a0.h1->a1.h0<q>", "input->a1.h0<k>", "a1.h0->m1", "m1->logits", "a1.h0->logits")


def toy_problem(n_prompts: int = 6, seed: int = 0) -> Problem:
    """A native model of two layers and two heads; its "known" circuit is arbitrary."""
    model = native(
        n_layers=2, n_heads=2, d_model=12, d_head=6, d_mlp=16, normalization_type="LN", act_fn="gelu", seed=0
    )
    graph = adapt(model).graph
    return Problem(
        model_name="planted",
        task="toy",
        model=model,
        graph=graph,
        pairs=prompt_pairs([7, 5, 6][seed % 3 :] * n_prompts, seed=seed)[:n_prompts],
        prompts="random prompts",
        known=Circuit.from_edges(graph, EDGES),
        origin="made up",
        roles={"a0.h1": "sender", "a1.h0": "reader"},
        metric="logit_difference",
    )


def toy_search(problem: Problem | None = None, **settings: object) -> Search:
    """A search of the toy problem's circuit with the logit difference, in three groups."""
    chosen = Settings(**{"n_groups": 3, "n_resamples": 50, "n_random": 20, **settings})
    return Search(problem or toy_problem(), "logit_difference", logit_difference, chosen)
