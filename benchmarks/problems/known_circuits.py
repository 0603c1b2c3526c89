"""Problems: a model, prompts, and the circuit in it that is known and has to be found.

    problems = planted_problems(["ioi"], n_prompts=100, seed=0)         # the circuit is true by construction
    problems = reference_problems("gpt2", n_prompts=100, seed=0)        # the circuit is what a paper found

A planted model has one task. A real model has the tasks whose reference circuit is on a graph of its shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edge_circuits.benchmarks import planted
from edge_circuits.benchmarks import tasks as known_tasks
from edge_circuits.benchmarks.problems.opening import open_model
from edge_circuits.benchmarks.reference import TASKS, ReferenceCircuit, load_reference
from edge_circuits.graphs import Circuit, Graph, PromptPairs, metrics, run
from edge_circuits.graphs.model.adapter import adapt

PLANTED = "planted"
KL = "kl"


class Named:
    """What a model with a task is called."""

    model_name: str
    task: str

    @property
    def name(self) -> str:
        """Model and task in words, e.g. "gpt2 ioi"."""
        return f"{Path(self.model_name).name or self.model_name} {self.task}"

    @property
    def stem(self) -> str:
        """The name as the beginning of a file name."""
        return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in self.name)


@dataclass(frozen=True, eq=False)
class Problem(Named):
    """A known circuit to be found.

    Attributes:
        model_name: "planted", or the name or directory that was opened.
        task: Name of the task.
        model: The model, frozen.
        graph: Its edges.
        pairs: The prompts to find it with.
        prompts: Which prompts these are, in words.
        known: The circuit.
        origin: Where the circuit is known from, in words.
        roles: What a node does, by name.
        metric: Name of the task's own metric.
    """

    model_name: str
    task: str
    model: nn.Module
    graph: Graph
    pairs: PromptPairs
    prompts: str
    known: Circuit | ReferenceCircuit
    origin: str
    roles: Mapping[str, str]
    metric: str

    @property
    def circuit(self) -> Circuit:
        """The known circuit as edges."""
        return self.known.circuit if isinstance(self.known, ReferenceCircuit) else self.known

    @property
    def is_planted(self) -> bool:
        """Whether the circuit is true by construction."""
        return self.model_name == PLANTED

    def metric_named(self, name: str) -> metrics.Metric:
        """A metric by name: one of `edge_circuits.graphs.metrics`, or "kl", the divergence from the model on the clean prompts.

        Raises:
            ValueError: There is no such metric.
        """
        if name != KL:
            return metrics.load(name)
        with torch.no_grad():
            clean = run(self.model, Circuit.full(self.graph), self.pairs)
        return metrics.KLDivergence(self.pairs, clean)


def planted_problems(
    tasks: Sequence[str] | None = None, *, n_prompts: int, seed: int, folder: Path | None = None
) -> list[Problem]:
    """The planted models of some tasks; None: all that there are.

    Args:
        n_prompts: Held-out prompts for each.
        seed: Of the prompts.
        folder: Where the weights are; None: those shipped.

    Raises:
        ValueError: There is no planted model of a task.
    """
    return [_planted(task, n_prompts, seed, folder) for task in (planted.NAMES if tasks is None else tasks)]


def reference_problems(
    model_name: str,
    tasks: Sequence[str] | None = None,
    *,
    n_prompts: int,
    seed: int,
    variant: str | None = None,
    edge_set: str | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> list[Problem]:
    """The tasks of a real model for which a reference circuit is known.

    Args:
        model_name: A directory or a hub name.
        tasks: None: all whose reference circuit is on a graph of the model's shape.
        n_prompts: Prompts for each; seed 0 gives those of the variant's origin, where it states a seed.
        seed: Of the prompts.
        variant: Whose prompts; None: each task's first.
        edge_set: Whose edge set is the circuit; None: each task's first.
        device: As for `open_model`.
        quiet: No progress bar while the model is read.

    Raises:
        ValueError: The model cannot be opened, or a task's reference circuit is of a model of another shape.
    """
    opened = open_model(model_name, device, quiet)
    graph = adapt(opened.model).graph
    chosen = [task for task in TASKS if load_reference(task).circuit.graph == graph] if tasks is None else list(tasks)
    if not chosen:
        raise ValueError(_other_shape(model_name, graph, TASKS))
    problems = []
    for name in chosen:
        known = load_reference(name, edge_set)
        if known.circuit.graph != graph:
            raise ValueError(_other_shape(model_name, graph, (name,)))
        task = known_tasks.load(name)
        pairs = task.pairs(opened.tokenizer, n_prompts, seed=seed, split="all", variant=variant)
        problems.append(
            Problem(
                model_name=model_name,
                task=name,
                model=opened.model,
                graph=graph,
                pairs=pairs,
                prompts=f"{task.variant(variant).name} prompts",
                known=known,
                origin=f"edge set {known.variant}, of {known.model}",
                roles=_by_node(known.roles),
                metric=task.variant(variant).metric,
            )
        )
    return problems


def _planted(name: str, n_prompts: int, seed: int, folder: Path | None) -> Problem:
    model, circuit, task = planted.load(name, folder)
    return Problem(
        model_name=PLANTED,
        task=name,
        model=model,
        graph=adapt(model).graph,
        pairs=task.pairs(n_prompts, seed=seed),
        prompts="held-out prompts",
        known=circuit,
        origin="planted, true by construction",
        roles=_by_node(task.roles),
        metric=task.task.metric,
    )


def _by_node(roles: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """From the nodes of each role to the role of each node, in words."""
    return {node: role.replace("_", " ") for role, nodes in roles.items() for node in nodes}


def _other_shape(model_name: str, graph: Graph, tasks: Sequence[str]) -> str:
    def shape(of: Graph) -> str:
        return f"{of.n_layers} layers of {of.n_heads} heads {'with' if of.mlps else 'without'} MLPs"

    known = "; ".join(
        f"{task} of {load_reference(task).model}, {shape(load_reference(task).circuit.graph)}" for task in tasks
    )
    return f"model: {model_name!r} has {shape(graph)}, and no circuit of such a model is known (known: {known})"
