"""ACDC as its paper has it, slowly: one edge at a time, each time a run of the whole circuit.

Reference: Conmy et al. 2023, Towards Automated Circuit Discovery, Algorithm 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from edge_circuits.graphs import Circuit, run


class Plain(NamedTuple):
    """A decision; `after` is None for an edge that was cut untried."""

    edge: str
    before: float
    after: float | None
    kept: bool


def objective(model, graph, mask, pairs, metric, intervention):
    """KL from the whole model, or minus a metric; the mean over prompts."""
    logits = run(model, Circuit(graph, mask), pairs, intervention)
    if metric != "kl":
        return -metric(logits, pairs).mean().item()
    whole = run(model, Circuit.full(graph), pairs).log_softmax(-1)
    each = (whole.exp() * (whole - logits.log_softmax(-1))).sum(-1)
    return (each if pairs.rows is None else each.nansum(1)).mean().item()


def order(graph, direct=False):
    """Edges as published, written out for names: from the end to the beginning; direct edges are named by their destination."""

    def from_the_end(name):
        if name == "logits":
            return (0,)
        layer = int(name[1:].split(".")[0])
        if name[0] == "m":
            return (1, -layer, 0)
        return (1, -layer, 1 + "vkq".index(name[-2]), -int(name.split(".h")[1][:-3]))

    def sender(name):
        if name == "input":
            return (1,)
        layer = int(name[1:].split(".")[0])
        return (0, -layer, 0 if name[0] == "m" else 1, 0 if name[0] == "m" else int(name.split(".h")[1]))

    def place(edge):
        if len(edge) == 1:  # with the first in-edges of the layer's heads
            return (*from_the_end(edge[0])[:2], 0.5), from_the_end(edge[0])
        return from_the_end(edge[1]), sender(edge[0])

    edges = [edge.split("->") for edge in graph.edges]
    whole = [[name] for name in graph.destinations if "<" in name] if direct else []
    return ["->".join(edge) for edge in sorted(edges + whole, key=place)]


def reads(graph, source):
    """The names of a source's own destinations."""
    if source[0] == "m":
        return [source]
    layer, head = source[1:].split(".h")
    shared = int(head) // (graph.n_heads // (graph.n_kv_heads or graph.n_heads))
    return [f"a{layer}.h{head}<q>", f"a{layer}.h{shared}<k>", f"a{layer}.h{shared}<v>"]


def matters(graph, mask, destination):
    """Whether a path of kept edges leads from a destination's node to `logits`."""
    live, before = {"logits"}, 0
    while before != (before := len(live)):
        for edge in Circuit(graph, mask).edges:
            source, reader = edge.split("->")
            if reader in live and source != "input":
                live.update(reads(graph, source))
    return destination in live


@torch.no_grad()
def plain_sweep(
    model, start, pairs, metric, threshold, intervention="patching", change="signed", edges=None, direct=False
):
    """Every decision, in order."""
    graph, mask = start.graph, start.mask.clone()
    value, decisions, visited = objective(model, graph, mask, pairs, metric, intervention), [], None
    for edge in edges or order(graph, direct):
        is_direct = "->" not in edge
        place = (slice(None), graph.destination_index(edge)) if is_direct else graph.edge_index(edge)
        if not start.mask[place].any():
            continue
        before = mask[place].clone()
        mask[place] = False
        if visited != (visited := edge.split("->")[-1]):
            is_live = matters(graph, mask, visited)
        if not is_live or not before.any():
            decisions.append(Plain(edge, value, None, False))
            continue
        after = objective(model, graph, mask, pairs, metric, intervention)
        result = after - value
        cut = (abs(result) if change == "absolute" else result) < threshold
        decisions.append(Plain(edge, value, after, not cut))
        mask[place] = before & (not cut)
        value = after if cut else value
    return decisions
