"""Where in the prompt a planted circuit works, and how well scores by span find it there.

    python -m edge_circuits.benchmarks.planted.positions              # every task with named words

A known edge works at some spans, and at those alone:

- from a node: where its destination reads it. `logits` and the MLPs and queries that it reads work at the answer; keys and
  values where the head is to look (`PlantedTask.attends`) from where it is read, and so on down;
- from `input`: where exchanging the tokens of the span for the corrupted prompt's, in that edge alone, changes what the causal model
  answers, by at least a twentieth of the largest such change.

Two areas under the ROC curve: of all edges at all spans, and of the known edges alone, at their spans against the other ones. "no
positions" gives every span of an edge its score without positions, so its second area is about a half.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from edge_circuits.benchmarks.output.tables import table
from edge_circuits.benchmarks.planted import PAPERS, load
from edge_circuits.benchmarks.planted.causal import INPUTS
from edge_circuits.benchmarks.planted.model import CORRUPTION, PlantedTask
from edge_circuits.benchmarks.statistics.roc_curves import roc_curve
from edge_circuits.eap.scoring import score
from edge_circuits.graphs import PromptPairs, metrics
from edge_circuits.graphs.by_span import SpanScores

METHODS = ("eap", "relp", "eap:reader=softmax", "eap-ig", "exact")
LEAST_CHANGE = 0.05


class Row(NamedTuple):
    """How well one method finds the places of a circuit."""

    task: str
    method: str
    n_known: int
    area: float
    average_precision: float
    area_of_spans: float


def spanned_pairs(planted: PlantedTask, n: int, seed: int = 0) -> PromptPairs:
    """Held-out prompts of a task with its named words as spans.

    Raises:
        AttributeError: A task whose words have no names.
    """
    named = planted.task.word_positions(n, seed=seed, split="test", variant=CORRUPTION)
    return planted.pairs(n, seed=seed).with_spans({name: places.tolist() for name, places in named.items()})


def known_places(planted: PlantedTask, pairs: PromptPairs) -> Bool[Tensor, "source destination span"]:
    """At which spans each edge of the circuit works."""
    graph, known = planted.graph, {}
    looks = planted.attends(pairs.clean, pairs.positions)
    nowhere = torch.zeros_like(pairs.mask)
    read_at = {"logits": nowhere.scatter(1, pairs.positions[:, None], True)}
    for variable in reversed(planted.causal.variables):
        at = read_at[variable.node]
        for name, sources in variable.reads.items():
            where = at if name in (INPUTS, "q") else (at[:, :, None] & looks[variable.node]).any(1)
            for source, edge in zip(sources, variable.edges(name)):
                read_at[source] = read_at.get(source, nowhere) | where
                if source != "input":
                    known[edge] = [bool((where & pairs.spans.where(span)).any()) for span in range(len(pairs.spans))]
    changes = {edge: _changes(planted, pairs, edge) for edge in planted.causal.out_edges("input")}
    largest = max(max(each) for each in changes.values())
    known |= {edge: [change > LEAST_CHANGE * largest for change in each] for edge, each in changes.items()}
    mask = torch.zeros(*graph.edge_mask.shape, len(pairs.spans), dtype=torch.bool)
    for edge, spans in known.items():
        mask[graph.edge_index(edge)] = torch.tensor(spans)
    return mask


def _changes(planted: PlantedTask, pairs: PromptPairs, edge: str) -> list[float]:
    """How far the causal model's logits move when an edge from `input` reads the corrupted tokens of each span."""
    clean, changes = planted.target(pairs), []
    for span in range(len(pairs.spans)):
        mixed = pairs.corrupted.where(pairs.spans.where(span), pairs.clean)
        values = planted.causal.values(planted.read(pairs.clean), {edge}, {"input": planted.read(mixed)})
        changes.append(float((values["logits"] - clean).abs().amax(1).mean()))
    return changes


def measured(name: str, methods: tuple[str, ...] = METHODS, n: int = 32, seed: int = 3) -> list[Row]:
    """The areas of each method on one task, and of "relp" without positions."""
    model, _, planted = load(name)
    pairs = spanned_pairs(planted, n, seed)
    known, metric = known_places(planted, pairs), metrics.load(planted.task.metric)
    rows = []
    for method in methods:
        scores = score(model, pairs, metric, method, by="span", quiet=True)
        rows.append(_row(name, method, scores, known))
    plain = score(model, pairs, metric, "relp", quiet=True).scores[:, :, None].expand(known.shape)
    return [*rows, _row(name, "relp, no positions", SpanScores(planted.graph, pairs.spans.names, plain), known)]


def _row(task: str, method: str, scores: SpanScores, known: Bool[Tensor, "source destination span"]) -> Row:
    curves = []
    for some in (scores.graph.edge_mask, known.any(2)):
        curves.append(roc_curve(known[some].flatten(), scores.scores[some].flatten().abs()))
    return Row(task, method, int(known.sum()), curves[0].auc, curves[0].average_precision, curves[1].auc)


def main() -> None:
    """Print the table."""
    words = argparse.ArgumentParser(
        prog="python -m edge_circuits.benchmarks.planted.positions", description=__doc__.splitlines()[0]
    )
    words.add_argument("--tasks", nargs="+", default=PAPERS, choices=PAPERS)
    words.add_argument("--methods", nargs="+", default=METHODS)
    words.add_argument("--n-prompts", type=int, default=32)
    words.add_argument("--seed", type=int, default=3)
    given = words.parse_args()
    rows = [row for name in given.tasks for row in measured(name, tuple(given.methods), given.n_prompts, given.seed)]
    headings = ("task", "method", "known places", "area", "average precision", "area of known edges' spans")
    print(table(headings, [[*row[:2], str(row[2]), *(f"{value:.3f}" for value in row[3:])] for row in rows]))


if __name__ == "__main__":
    main()
