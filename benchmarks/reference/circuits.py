"""Reference circuits: what papers and repositories hold to be the circuit of a task, as edges of our graph.

IOI and Greater-Than are circuits of GPT-2 small, Docstring of attn-only-4l. Each task has several edge sets, its
variants; the default is ACDC's, with which published ROC curves were made. The data files
(`benchmarks/data/circuits/{task}.json`) keep the source, licence and conventions of each.

| task         | variant           | edges | of     |
| ------------ | ----------------- | ----- | ------ |
| ioi          | acdc              |   963 | 32,491 |
|              | autocircuit       |   739 | 32,491 |
|              | autocircuit-end14 |   771 | 32,491 |
| greater_than | acdc, autocircuit |   235 | 32,491 |
|              | manual            |   240 | 32,491 |
| docstring    | acdc, autocircuit |    24 |  1,281 |
|              | autocircuit-heads |   588 |  1,281 |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from edge_circuits.graphs import Circuit, Graph
from edge_circuits.graphs.checks import choice

TASKS = ("ioi", "docstring", "greater_than")
FOLDER = Path(__file__).parents[1] / "data" / "circuits"

PlaceholderKind = Literal["head", "mlp"]


@dataclass(frozen=True)
class ReferenceCircuit:
    """An edge set of a task with what is known of it.

    Attributes:
        task: One of `TASKS`.
        variant: Whose edge set it is, e.g. "acdc".
        model: Name of the model, e.g. "gpt2".
        circuit: The edges; its metadata repeat task, variant, model, source, licence and roles.
        roles: Role -> names of its heads and MLPs, e.g. "name_mover" -> ("a9.h9", "a10.h0", "a9.h6").
        placeholders: Kinds of nodes whose inner links (q, k, v -> head, MLP in -> out) the edge set's authors count as
            edges of the circuit; only the universe "eap-repository" has such links.
        source: Papers and repository of the circuit and of the edge set.
        licence: Terms of the edge set.
        conventions: What to know before comparing with it.
    """

    task: str
    variant: str
    model: str
    circuit: Circuit
    roles: Mapping[str, tuple[str, ...]]
    placeholders: tuple[PlaceholderKind, ...]
    source: str
    licence: str
    conventions: tuple[str, ...]

    def role_of(self, node: str) -> str | None:
        """The role of a head or MLP given by name, e.g. `a9.h9`; None if it has none."""
        return next((role for role, nodes in self.roles.items() if node in nodes), None)


def reference_circuit(task: str, variant: str | None = None) -> Circuit:
    """The edges of a task's known circuit, on the graph of the model in which it was found; see `load_reference`."""
    return load_reference(task, variant).circuit


def variants(task: str) -> tuple[str, ...]:
    """Names of a task's edge sets, the default first.

    Raises:
        ValueError: There is no such task.
    """
    return tuple(_read(task)["variants"])


@cache
def load_reference(task: str, variant: str | None = None) -> ReferenceCircuit:
    """A task's known circuit with its roles, source, licence and conventions.

    Args:
        task: One of `TASKS`.
        variant: Whose edge set; None is the default, "acdc". `variants` lists them.

    Raises:
        ValueError: There is no such task or variant.
    """
    data = _read(task)
    variant = data["default_variant"] if variant is None else variant
    entry = data["variants"][choice(f"variant of {task}", variant, data["variants"])]
    roles = {role: tuple(nodes) for role, nodes in data["roles"].items()}
    return ReferenceCircuit(
        task=task,
        variant=variant,
        model=data["model"]["name"],
        circuit=_circuit(data, variant),
        roles=MappingProxyType(roles),
        placeholders=tuple(entry["placeholders"]),
        source=entry["source"],
        licence=entry["licence"],
        conventions=tuple(data["conventions"]),
    )


@cache
def _read(task: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{choice('task', task, TASKS)}.json").read_text(encoding="utf-8"))


def _circuit(data: dict[str, Any], variant: str) -> Circuit:
    entry, model = data["variants"][variant], data["model"]
    sizes = {name: model[name] for name in ("n_layers", "n_heads", "mlps")}
    metadata = {"task": data["task"], "variant": variant, "model": model["name"]}
    metadata |= {"source": entry["source"], "licence": entry["licence"], "roles": data["roles"]}
    circuit = Circuit.from_edges(Graph(**sizes), _edge_names(data, variant), metadata=metadata)
    assert circuit.n_edges == entry["n_edges"], (data["task"], variant)
    return circuit


def _edge_names(data: dict[str, Any], variant: str) -> list[str]:
    entry = data["variants"][variant]
    if "same_as" in entry:
        return _edge_names(data, entry["same_as"])
    listed = entry["edges"].items()
    return [f"{source}->{destination}" for destination, sources in listed for source in sources.split()]
