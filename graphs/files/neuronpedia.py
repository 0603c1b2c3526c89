"""Circuits as graphs for Neuronpedia's viewer: its JSON of attribution graphs.

What its schema has and what is put there:

- Nodes. `input` is an `embedding`, a head a `lorsa` (attention) with the head's number as its feature, an MLP `unknown`, since it is
  no feature, and `logits` one `logit` node. Of a circuit by span a node stands at the last token of each span where it works, in the
  circuit's example; of one without positions all nodes stand at the last token.
- Links. The weight is the edge's score: positive says that cutting it raises the metric. Edges into <q>, <k> and <v> of one head are
  summed; single ones are in `metadata.generation_settings.edges`. A head that reads keys and values at one span and is read at
  another has a link from itself to itself, with the sum of what enters its keys and values there.
- `qk_tracing_results` of a head: pairs of sources that make it attend, where they were asked for and both are nodes of the graph.

`scan` has to be a model that Neuronpedia knows by that name; uploading is up to the user. The probability of a logit node, which the
viewer asks for, is told as 0 where it was not given.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.by_span import SpanCircuit
from edge_circuits.graphs.checks import number, refusal
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.drawing.diagram import parsed
from edge_circuits.graphs.drawing.span_columns import picture_by_span
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.documents import json_types
from edge_circuits.graphs.graph import Graph

NAME = re.compile(r"[a-zA-Z0-9_.-]+")
MOST_BYTES = 100 * 2**20
MOST_CONTRIBUTORS = 20
EVERYWHERE = "all"  # the one span of a circuit without positions
TYPES = {"input": "embedding", "head": "lorsa", "mlp": "unknown", "logits": "logit"}


@runtime_checkable
class Reasons(Protocol):
    """Why a head attends, as `edge_circuits.eap.attending.Attending` says it."""

    head: str
    query: str | int
    key: str | int
    sources: tuple[str, ...]
    terms: Float[Tensor, "query_source key_source"]


class Answer(NamedTuple):
    """The token that the graph explains, and how likely the model finds it."""

    token: str
    probability: float


def export(
    circuit: Circuit | SpanCircuit,
    path: str | os.PathLike[str],
    *,
    scan: str,
    slug: str | None = None,
    tokens: Sequence[str] = (),
    answer: Answer | tuple[str, float] | None = None,
    reasons: Sequence[Reasons] = (),
    roles: Mapping[str, str] | None = None,
) -> Path:
    """Write a circuit's live edges for Neuronpedia's graph viewer, whole or not at all.

    Args:
        circuit: With scores; one by span with an example (`circuit.over(pairs)`).
        path: A file that ends in .json.
        scan: The model's name at Neuronpedia.
        slug: The graph's name there; by default the file's.
        tokens: The prompt, for a circuit without positions.
        answer: The token of the logit node with its probability; by default the metric's name, and 0.
        reasons: Why heads attend (`why_attends`), from a span to a span of the circuit's.
        roles: What nodes do; nodes of a role become a supernode.

    Raises:
        ValueError: A circuit without scores or example, no tokens, a name with other characters than letters, digits and _.-,
            reasons about no span of the circuit, or a file of more than 100 MB.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise refusal("path", "an ending .json", path)
    circuit = _by_span(circuit, tokens)
    picture = picture_by_span(circuit, roles)
    nodes = {node.name: _node(circuit, node.name, answer) for node in picture.nodes}
    _trace(circuit, nodes, reasons)
    content = {
        "metadata": _metadata(circuit, _checked("scan", scan), _checked("slug", path.stem if slug is None else slug)),
        "qParams": {
            "pinnedIds": [], "linkType": "both", "clickedId": "", "sg_pos": "",
            "supernodes": [[role, *(nodes[each.name]["node_id"] for each in picture.nodes if each.role == role)] for role in picture.roles],
        },
        "nodes": list(nodes.values()),
        "links": _links(circuit, {(edge.start, edge.end): edge.moves for edge in picture.edges}, nodes),
    }  # fmt: skip
    text = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
    if len(text) > MOST_BYTES:
        raise refusal("circuit", "one whose file has at most 100 MB", f"{len(text) / 2**20:.0f} MB", "keep fewer edges")
    return write_whole(path, text)


def _by_span(circuit: Circuit | SpanCircuit, tokens: Sequence[str]) -> SpanCircuit:
    """The live edges, everywhere as one span over all tokens."""
    if circuit.scores is None:
        raise refusal("circuit", "one with scores", "one without", "prune scores, or give Circuit its scores")
    if isinstance(circuit, Circuit):
        if not tokens:
            raise refusal("tokens", "the prompt's tokens", "none", "a circuit without positions stands at the last one")
        example = tuple((token, EVERYWHERE) for token in tokens)
        scores = circuit.scores.where(circuit.mask, 0)[:, :, None]
        circuit = SpanCircuit(circuit.graph, (EVERYWHERE,), circuit.mask[:, :, None], scores, circuit.metadata, example)
    circuit = circuit.live()
    missing = [
        name for at, name in enumerate(circuit.spans) if circuit.mask[:, :, at].any() and name not in _spans(circuit)
    ]
    if missing:
        remedy = "give one: circuit.over(pairs, row)"
        raise refusal("circuit.example", "tokens of every span that has edges", f"none of {missing}", remedy)
    return circuit


def _spans(circuit: SpanCircuit) -> dict[str, int]:
    """The last token of each span of the example."""
    return {span: place for place, (_, span) in enumerate(circuit.example)}


def _checked(name: str, value: str) -> str:
    if not NAME.fullmatch(value):
        raise refusal(name, "letters, digits and _.- alone, as Neuronpedia has them", repr(value))
    return value


def _metadata(circuit: SpanCircuit, scan: str, slug: str) -> dict[str, Any]:
    known = {
        name: value
        for name, value in circuit.metadata.items()
        if name in ("model", "method", "metric", "settings", "task")
    }
    places = circuit.mask.permute(1, 0, 2).nonzero().tolist()
    edges = [[name, float(circuit.scores[s, d, at])] for name, (d, s, at) in zip(circuit.edges, places)]
    tokens = [token for token, _ in circuit.example]
    about = "Edges between heads and MLPs; a link's weight is what cutting it adds to the metric (or its estimate)."
    return {
        "slug": slug,
        "scan": scan,
        "prompt_tokens": tokens,
        "prompt": "".join(tokens),
        "info": {"description": about, "generator": {"name": "edge-circuits", "version": version("edge-circuits")}},
        "generation_settings": json_types({**known, "spans": [span for _, span in circuit.example], "edges": edges}),
    }


def _node(circuit: SpanCircuit, name: str, answer: Answer | tuple[str, float] | None) -> dict[str, Any]:
    """A node of the drawing, "a0.h1@S1", as the schema has it."""
    label, _, span = name.partition("@")
    node, graph, at = parsed(label), circuit.graph, _spans(circuit)[span]
    place = {"input": ("E", 0), "logits": (str(graph.n_layers), 0), "mlp": (str(node.layer), graph.n_heads)}
    layer, feature = place.get(node.kind, (str(node.layer), node.head))
    clerp = label if span == EVERYWHERE else f"{label} at {span}"
    if node.kind == "input":
        clerp = f'Emb: "{circuit.example[at][0]}"'
    elif node.kind == "logits":
        token, probability = answer or (circuit.metadata.get("metric", "metric"), 0.0)
        clerp = f'Output "{token}" (p={number("answer", probability, least=0, most=1):.3f})'
    return {
        "node_id": f"{layer}_{feature}_{at}",
        "feature": node.head if node.kind == "head" else None,
        "layer": layer,
        "ctx_idx": at,
        "feature_type": TYPES[node.kind],
        "jsNodeId": f"{layer}_{feature}-{at}",
        "clerp": clerp,
    }


def _links(
    circuit: SpanCircuit, between: Mapping[tuple[str, str], bool], nodes: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A link for each two nodes that edges join, or between which a head carries something (`between` says which)."""
    links = []
    for (start, end), moves in between.items():
        source, _, span = start.partition("@")
        place = circuit.spans.index(span)
        if moves:
            own = list(circuit.graph.destinations_of(circuit.graph.source_index(source)))[1:]
            weight = circuit.scores[:, own, place][circuit.mask[:, own, place]].sum()
        else:
            into = _destinations(circuit.graph, end.partition("@")[0])
            kept = circuit.mask[circuit.graph.source_index(source), into, place]
            weight = circuit.scores[circuit.graph.source_index(source), into, place][kept].sum()
        ends = {"source": nodes[start]["node_id"], "target": nodes[end]["node_id"]}
        links.append({**ends, "weight": float(weight)})
    return links


def _destinations(graph: Graph, node: str) -> list[int]:
    """The destinations that belong to a node."""
    return [graph.n_destinations - 1] if node == "logits" else list(graph.destinations_of(graph.source_index(node)))


def _trace(circuit: SpanCircuit, nodes: dict[str, dict[str, Any]], reasons: Sequence[Reasons]) -> None:
    """Put what makes heads attend into their nodes."""
    for each in reasons:
        spans = [EVERYWHERE if circuit.spans == (EVERYWHERE,) else str(where) for where in (each.query, each.key)]
        name = f"{each.head}@{spans[0]}"
        if name not in nodes:
            raise refusal("reasons", "heads that are read at the query's span", f"{each.head} at {each.query}")
        q, k = ([nodes.get(f"{source}@{span}", {}).get("node_id") for source in each.sources] for span in spans)
        size = each.terms.abs().flatten().argsort(descending=True, stable=True).tolist()
        pairs = [divmod(place, len(each.sources)) for place in size]
        known = [[q[a], k[b], float(each.terms[a, b])] for a, b in pairs if q[a] is not None and k[b] is not None]
        nodes[name]["qk_tracing_results"] = {
            "pair_wise_contributors": known[:MOST_CONTRIBUTORS],
            "top_q_marginal_contributors": _marginal(q, each.terms.sum(1)),
            "top_k_marginal_contributors": _marginal(k, each.terms.sum(0)),
        }


def _marginal(ids: Sequence[str | None], totals: Float[Tensor, " source"]) -> list[list[Any]]:
    order = torch.argsort(totals.abs(), descending=True, stable=True).tolist()
    return [[ids[place], float(totals[place])] for place in order if ids[place] is not None][:MOST_CONTRIBUTORS]
