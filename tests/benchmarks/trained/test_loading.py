"""The models that the project trains itself are read as they were written."""

from __future__ import annotations

from edge_circuits.benchmarks.trained import load
from edge_circuits.graphs import Circuit, Graph, metrics, run


def test_a_shipped_model_answers_its_tasks_and_loads_twice() -> None:
    for _ in range(2):
        trained = load("grammar")
    for task in trained.language.tasks:
        pairs = task.pairs(64, 7, "test")
        logits = run(trained.model, Circuit.full(Graph.from_model(trained.model)), pairs)
        assert metrics.accuracy(logits, pairs).mean() > 0.95
