"""Edge universes: among which edges a method has to find the circuit, and with which scores.

An AUC depends on the set of edges that count as candidates. Published figures use several:

| universe        | edges of our graph                   | other links            | GPT-2 small |
| --------------- | ------------------------------------ | ---------------------- | ----------- |
| all (default)   | all                                  |                        |      32,491 |
| no-input        | those not from `input`               |                        |      32,046 |
| no-mlp          | those that no MLP reads or writes    |                        |      29,089 |
| no-mlp-no-input | both of these conditions             |                        |      28,656 |
| acdc            | all                                  | direct                 |      32,923 |
| eap-repository  | all                                  | direct and placeholder |      33,367 |

Direct links are ACDC's edges from the input of a head's q, k or v projection to its output; placeholder links are
those from q, k and v to the head's output and from an MLP's input to its output. Neither is an edge of our graph: no
residual stream lies between. They get scores and labels by a rule:

- a direct link scores the sum of the edges into its destination (or the largest of them), and is positive when the
  circuit has an edge into it;
- a placeholder link scores the sum of the edges out of its head or MLP, and is positive when the circuit has the node
  and its authors count such links (`ReferenceCircuit.placeholders`).

The order of candidates is that of edges (by destination, then source), then direct links by destination, then
placeholder links by node, three for a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.benchmarks.reference.circuits import ReferenceCircuit
from edge_circuits.graphs import Circuit, Graph, ScoredGraph
from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.node_circuits import ScoredNodes
from edge_circuits.graphs.nodes import PARTS, parse_source

Aggregate = Literal["sum", "max"]


@dataclass(frozen=True)
class Universe:
    """Which edges and links are candidates.

    Attributes:
        name: The word by which functions take it.
        inputs: Whether edges from `input` are in.
        mlps: Whether edges into or out of MLPs are in.
        direct: Whether each head input has a direct link.
        placeholders: Whether each head has three placeholder links and each MLP one.
    """

    name: str
    inputs: bool = True
    mlps: bool = True
    direct: bool = False
    placeholders: bool = False

    def edge_mask(self, graph: Graph) -> Bool[Tensor, "source destination"]:
        """Which edges of a graph are candidates. [source destination]"""
        mask = graph.edge_mask.clone()
        if not self.inputs:
            mask[0] = False
        if not self.mlps:
            mask[torch.tensor([name.startswith("m") for name in graph.sources])] = False
            mask[:, torch.tensor([name.startswith("m") for name in graph.destinations])] = False
        return mask


UNIVERSES = {
    universe.name: universe
    for universe in (
        Universe("all"),
        Universe("no-input", inputs=False),
        Universe("no-mlp", mlps=False),
        Universe("no-mlp-no-input", inputs=False, mlps=False),
        Universe("acdc", direct=True),
        Universe("eap-repository", direct=True, placeholders=True),
    )
}


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a ROC curve is made of: for each candidate whether it is in the circuit, and its score.

    Attributes:
        labels: True for those of the circuit. [candidate]
        scores: Larger: rather in the circuit. [candidate]
    """

    labels: Bool[Tensor, "candidate"]
    scores: Float[Tensor, "candidate"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_positives(self) -> int:
        """How many candidates are in the circuit."""
        return int(self.labels.sum())


def candidates(
    scored: ScoredGraph, circuit: Circuit | ReferenceCircuit, universe: str = "all", *, direct_score: Aggregate = "sum"
) -> Candidates:
    """Labels of the candidates of a universe, and the size of their scores, by which published curves rank.

    Args:
        scored: Scores of the edges.
        circuit: The known circuit. A `ReferenceCircuit` says which placeholder links are positive; for a `Circuit` it is
            those of all its heads and MLPs.
        universe: A name in `UNIVERSES`.
        direct_score: Score of a direct link: "sum" of the edges into its destination, or their "max" by size.

    Raises:
        ValueError: The two are of different graphs, or a choice is unknown.
    """
    scores = candidate_scores(scored.scores, scored.graph, universe, direct_score=direct_score)
    return Candidates(candidate_labels(_of_graph(circuit, scored.graph), universe), scores)


def candidate_labels(circuit: Circuit | ReferenceCircuit, universe: str = "all") -> Bool[Tensor, "candidate"]:
    """Which candidates of a universe are in a circuit; serves for a circuit that a method found as well. [candidate]

    Raises:
        ValueError: There is no such universe.
    """
    chosen, placeholders = _universe(universe), ("head", "mlp")
    if isinstance(circuit, ReferenceCircuit):
        circuit, placeholders = circuit.circuit, circuit.placeholders
    graph = circuit.graph
    labels = [circuit.mask.T[chosen.edge_mask(graph).T]]
    if chosen.direct:
        labels.append(circuit.mask.any(0)[_head_inputs(graph)])
    if chosen.placeholders:
        counted = torch.tensor([kind in placeholders for kind in _kinds(graph)])
        labels.append((_has_node(circuit) & counted).repeat_interleave(_n_placeholders(graph)))
    return torch.cat(labels)


def candidate_scores(
    scores: Float[Tensor, "*batch source destination"],
    graph: Graph,
    universe: str = "all",
    *,
    direct_score: Aggregate = "sum",
) -> Float[Tensor, "*batch candidate"]:
    """Sizes of the candidates' scores, for one score tensor or a batch of them; see `candidates`.

    Raises:
        ValueError: A choice is unknown.
    """
    chosen = _universe(universe)
    choice("direct_score", direct_score, get_args(Aggregate))
    parts = [scores.flatten(-2)[..., _places(chosen.edge_mask(graph))]]
    if chosen.direct:
        of_destinations = scores.sum(-2) if direct_score == "sum" else scores.abs().amax(-2)
        parts.append(of_destinations[..., _head_inputs(graph)])
    if chosen.placeholders:
        parts.append(scores.sum(-1)[..., 1:].repeat_interleave(_n_placeholders(graph), dim=-1))
    return torch.cat(parts, dim=-1).abs()


def node_candidates(scored: ScoredGraph | ScoredNodes, circuit: Circuit | ReferenceCircuit) -> Candidates:
    """Labels and scores of the heads and MLPs, for a ROC curve over nodes; `input` and `logits` are no candidates.

    A node is positive when an edge of the circuit starts or ends at it; its score is the size of its own, or that of
    `node_scores` where edges are scored.

    Raises:
        ValueError: The two are of different graphs.
    """
    scores = scored.scores.abs() if isinstance(scored, ScoredNodes) else node_scores(scored.scores)
    circuit = _of_graph(circuit, scored.graph)
    return Candidates(_has_node(circuit.circuit if isinstance(circuit, ReferenceCircuit) else circuit), scores)


def node_scores(scores: Float[Tensor, "*batch source destination"]) -> Float[Tensor, "*batch node"]:
    """Scores of the heads and MLPs, in the order of sources without `input`.

    It is the largest |score| of the node's out-edges, the first to bring the node into a circuit as it grows.

    Args:
        scores: Scores of edges, 0 where there is none.
    """
    return scores[..., 1:, :].abs().amax(-1)


def _places(mask: Bool[Tensor, "source destination"]) -> Int[Tensor, "edge"]:
    """Where the edges of a mask are in a flattened score tensor, in edge order."""
    destination, source = mask.T.nonzero().unbind(1)
    return source * mask.shape[1] + destination


def _head_inputs(graph: Graph) -> Bool[Tensor, "destination"]:
    return torch.tensor([name.endswith(">") for name in graph.destinations])


def _kinds(graph: Graph) -> list[str]:
    """Whether each node is a "head" or an "mlp", in the order of sources without `input`."""
    return [parse_source(name).kind for name in graph.sources[1:]]


def _n_placeholders(graph: Graph) -> Tensor:
    """How many placeholder links each node has, in the order of sources without `input`."""
    return torch.tensor([len(PARTS) if kind == "head" else 1 for kind in _kinds(graph)])


def _has_node(circuit: Circuit) -> Bool[Tensor, "node"]:
    nodes = set(circuit.nodes)
    return torch.tensor([name in nodes for name in circuit.graph.sources[1:]])


def _universe(name: str) -> Universe:
    return UNIVERSES[choice("universe", name, UNIVERSES)]


def _of_graph(circuit: Circuit | ReferenceCircuit, graph: Graph) -> Circuit | ReferenceCircuit:
    """The circuit, which has to be of the graph that is scored."""
    other = circuit.circuit.graph if isinstance(circuit, ReferenceCircuit) else circuit.graph
    if graph != other:
        raise refusal("scores and circuit", "both of one graph", f"{graph} and {other}")
    return circuit
