"""A problem: a model, prompts, and perhaps a circuit in it that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from edge_circuits.benchmarks.reference.circuits import ReferenceCircuit
from edge_circuits.graphs import Circuit, Graph, PromptPairs, metrics
from edge_circuits.graphs.model.adapter import adapt

PLANTED, TRAINED = "planted", "trained"


@dataclass(frozen=True, eq=False)
class Problem:
    """What a study is made on.

    Attributes:
        model_name: "planted", "trained" (with the seed of a training: "planted:1"), or the name or directory that was opened.
        task: Name of the task.
        model: The model, frozen.
        pairs: The prompts that edges are scored on.
        prompts: Which prompts these are, in words.
        metric_name: Name of the metric that is used, by default the task's own.
        held_out: Other prompts to measure circuits on, where a study asks for them.
        known: The circuit that is known, if one is.
        origin: Where it is known from, in words.
        roles: What a node does, by name.
    """

    model_name: str
    task: str
    model: nn.Module
    pairs: PromptPairs
    prompts: str
    metric_name: str
    held_out: PromptPairs | None = None
    known: Circuit | ReferenceCircuit | None = None
    origin: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Model and task in words, e.g. "gpt2 ioi"."""
        return f"{Path(self.model_name).name or self.model_name} {self.task}"

    @property
    def stem(self) -> str:
        """The name as the beginning of a file name."""
        return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in self.name)

    @property
    def columns(self) -> dict[str, str]:
        """What a row of a table begins with."""
        return {"model": self.model_name, "task": self.task, "metric": self.metric_name}

    @property
    def graph(self) -> Graph:
        """The model's edges."""
        return Graph.from_model(self.model)

    @property
    def circuit(self) -> Circuit | None:
        """The known circuit as edges."""
        return self.known.circuit if isinstance(self.known, ReferenceCircuit) else self.known

    @property
    def is_planted(self) -> bool:
        """Whether the circuit is true by construction."""
        return self.model_name.partition(":")[0] == PLANTED

    @property
    def metric(self) -> metrics.Metric:
        """The metric itself."""
        return self.metric_named(self.metric_name)

    def metric_named(self, name: str) -> metrics.Metric:
        """A metric of `edge_circuits.graphs.metrics` by name, or "kl", the divergence from the model on the clean prompts.

        Raises:
            ValueError: There is no such metric.
        """
        both = self.pairs if self.held_out is None else PromptPairs.concat([self.pairs, self.held_out])
        return metrics.as_metric(name, adapt(self.model), both)
