"""Every reader of a file of ours, with a good file for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from models import hugging_face
from torch import nn

from edge_circuits.acdc.trace import Trace
from edge_circuits.benchmarks.needs.sizes import size_of
from edge_circuits.benchmarks.needs.study import needs
from edge_circuits.benchmarks.planted import planted_task
from edge_circuits.benchmarks.planted.model import weights_of
from edge_circuits.benchmarks.weights import shipped
from edge_circuits.eap.checkpoint import Checkpoint
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.files.digest import digest_of_tensors
from edge_circuits.graphs.files.eap_ig import export, import_circuit, import_scores
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.scores import ScoredGraph

GRAPH = Graph(2, 2)
METADATA = {"model": "toy", "settings": {"steps": 5, "é": [1.5, None]}}


class Loader(NamedTuple):
    """A reader, and a good file for it.

    Attributes:
        write: Writes the good file.
        read: Gives what a file holds, in a form that `==` compares.
        is_sealed: Whether the file has a digest or checksums, so that no change of what it holds passes.
        name: Of the file.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    is_sealed: bool
    name: str


def scores(n_groups: int = 0) -> ScoredGraph:
    """Scores of a small graph, with what groups add to them."""
    generator = torch.Generator().manual_seed(1)
    groups = torch.randn(max(1, n_groups), *GRAPH.edge_mask.shape, generator=generator) * GRAPH.edge_mask
    return ScoredGraph(GRAPH, groups.sum(0), METADATA, groups if n_groups else None)


def circuit() -> Circuit:
    """A circuit with scores."""
    mask = GRAPH.edge_mask & (scores().scores > 0.5)
    return Circuit(GRAPH, mask, scores().scores, METADATA, n_requested=20)


def trace() -> Trace:
    """Five decisions."""
    edges = ("a1.h1->logits", "input->logits", "m1->logits", "a0.h0->m1", "input->a0.h1<v>")
    values, kept = (2.0, 1.25, 3.0, None, 0.75), (True, False, True, False, False)
    return Trace(Circuit.full(GRAPH), 0.5, "signed", 1.0, edges, values, kept, 1e-6, False, METADATA)


def pairs() -> PromptPairs:
    """Prompts of different lengths."""
    return PromptPairs([[1, 2, 3], [4, 5]], [[1, 2, 6], [7, 5]], [[3], [4, 9]], [[8], [2]])


def _read_checkpoint(path: Path) -> list[Any]:
    held = Checkpoint(path, torch.zeros(3, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.bool))
    return [held.scores.tolist(), held.done.tolist()]


def _write_checkpoint(path: Path) -> None:
    Checkpoint(path, torch.rand(3, 5, dtype=torch.float64), torch.tensor([True, False, True, False])).save()


def _circuit_content(found: Circuit) -> list[Any]:
    held = None if found.scores is None else found.scores[found.mask].tolist()
    return [found.graph, found.edges, held, found.metadata, found.n_requested]


def _without_origin(found: ScoredGraph | Circuit) -> Any:
    """What an imported value holds but the name of its file."""
    marks = found.edges if isinstance(found, Circuit) else None
    return [found.graph, None if found.scores is None else found.scores.tolist(), marks]


def _read_pairs(read: Callable[[Path], PromptPairs]) -> Callable[[Path], Any]:
    return lambda path: read(path).digest


def _write_config(path: Path) -> None:
    hugging_face("llama").config.save_pretrained(path.parent)


def _read_size(path: Path) -> list[Any]:
    size = size_of(str(path.parent))
    return [size, needs(size, 2048, 256, "bfloat16")]


def _write_planted(path: Path) -> None:
    for ending in (".safetensors", ".json"):
        path.with_suffix(ending).write_bytes((shipped("planted") / f"ioi-0{ending}").read_bytes())


def _read_planted(path: Path) -> str:
    model = _planted_model()
    weights_of((planted_task("ioi"),), 0, path.parent).load_into(model.original_model)
    return digest_of_tensors(model.state_dict())


@cache
def _planted_model() -> nn.Module:
    return planted_task("ioi").new_model(seed=0)


LOADERS: dict[str, Loader] = {
    "scores": Loader(scores().save, ScoredGraph.load, True, "scores.json"),
    "scores with groups": Loader(scores(3).save, ScoredGraph.load, True, "scores.json"),
    "circuit": Loader(circuit().save, lambda path: _circuit_content(Circuit.load(path)), True, "circuit.json"),
    "trace": Loader(trace().save, Trace.load, True, "trace.jsonl"),
    "checkpoint": Loader(_write_checkpoint, _read_checkpoint, True, "eap.npz"),
    "scores of EAP-IG, pt": Loader(
        lambda path: export(scores(), path, d_model=8), lambda path: _without_origin(import_scores(path)), True, "s.pt"
    ),
    "circuit of EAP-IG, pt": Loader(
        lambda path: export(circuit(), path, d_model=8),
        lambda path: _without_origin(import_circuit(path)),
        True,
        "c.pt",
    ),
    "scores of EAP-IG, json": Loader(
        lambda path: export(scores(), path, d_model=8),
        lambda path: _without_origin(import_scores(path)),
        False,
        "s.json",
    ),
    "circuit of EAP-IG, json": Loader(
        lambda path: export(circuit(), path, d_model=8),
        lambda path: _without_origin(import_circuit(path)),
        False,
        "c.json",
    ),
    "planted weights": Loader(_write_planted, _read_planted, True, "ioi-0.safetensors"),
    "manifest of planted weights": Loader(_write_planted, _read_planted, False, "ioi-0.json"),
    "sizes": Loader(_write_config, _read_size, False, "config.json"),
    "prompts, csv": Loader(pairs().to_csv, _read_pairs(PromptPairs.from_csv), True, "pairs.csv"),
    "prompts, jsonl": Loader(pairs().to_jsonl, _read_pairs(PromptPairs.from_jsonl), True, "pairs.jsonl"),
}
