"""Scores of edges between features, heads and logits: what a source's change is worth through one destination alone.

    edge (u, i) -> (d, j)  =  sum over positions of  delta f_i W_dec[i] . gradient of [g_j f_j] at the stream that d reads

g_j is the gradient at feature j (`W_dec[j]` . gradient at its site), and f_j is taken through d's own MLP, attention or
encoder, everything else as it is: a source's direct effect on a destination, as of edges between heads and MLPs. Under LRP
the coefficients are those of the pass; the activations of dictionaries have coefficient f / x, 1 where they are active.

1. one backward pass gives g_j for every destination (`feature_scores.differentiate_streams`); integrated gradients
   average it on the line from the clean to the cut value of d's site, site by site, as their node scores do;
2. each destination takes one vector-Jacobian product through its own layer, apart for what q, k and v read;
3. all sources that write before it meet its gradient in a small matrix product, in their own columns alone.

Sources and destinations are the nodes of a table, best pruned to those that score high. An error is a source only. A head
is the group of its mixed values (`heads`). The residual stream's sites cut every path and are refused.

Reference: Marks et al. 2024, section 3.2, for the product; edges here lead from writers to all later readers, as Ge et al.
2024 and Ameisen et al. 2025 have them for transcoders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.eap.feature_destinations import (
    Destination,
    at_positions,
    destinations_among,
    rank_of,
    read_through,
    streams_read,
)
from edge_circuits.eap.feature_scores import (
    Streams,
    change_of_node,
    differentiate_streams,
    integrated_gradient,
    values_with,
)
from edge_circuits.eap.gradient_method import OnePass
from edge_circuits.eap.methods.edge_attribution_patching import EAP
from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.integrated_gradients import IntegratedGradients
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.features.dictionary import AnyDictionary, Coordinates
from edge_circuits.graphs.features.edges import LOGITS, FeatureEdges
from edge_circuits.graphs.features.nodes import ANY, ERROR, FeatureNodes
from edge_circuits.graphs.features.running import Dissection, Parts
from edge_circuits.graphs.features.sites import Site, gradient_at, in_stream
from edge_circuits.graphs.metrics import Metric, as_metric, metric_name
from edge_circuits.graphs.model.operations import EXACT
from edge_circuits.graphs.model.transformer import Activations
from edge_circuits.graphs.running.patching import Intervention


def score_feature_edges(
    model: nn.Module,
    dictionaries: Sequence[AnyDictionary],
    nodes: FeatureNodes,
    pairs: PromptPairs,
    metric: Metric | str,
    method: Method | str = "relp",
    *,
    intervention: Intervention = "patching",
    batch_size: int | None = None,
) -> FeatureEdges:
    """Score all edges between some nodes, and from them to the logits.

    Args:
        nodes: sources, and as far as they are no errors destinations, at sites that a source writes. A destination with
            several positions among the nodes counts at these.
        method: "relp", "eap" or another of one backward pass without a reader; `IntegratedGradients(steps)`, for the
            destination's coefficient (`steps` passes for each site that is entered, and for the logits); or "exact": the
            destination alone sees the source cut, and the metric is measured. One run for each edge, so for few nodes.

    Returns:
        The edges whose score is not zero.

    Raises:
        ValueError: nodes of other dictionaries or of the residual stream, or a method that has no place here.
    """
    method = find(method)
    if not isinstance(method, OnePass | IntegratedGradients | Exact):
        raise ValueError(
            f"method: expected one of a single backward pass, IntegratedGradients or Exact for edges of features, "
            f"got {method.label!r}"
        )
    if not isinstance(method, Exact):
        method.check_alone("edges of features")
    if getattr(method, "attention", "") == "secant":
        raise ValueError("attention rule 'secant' serves one forward pass and has no place here; take another rule")
    if nodes.sites != tuple(dictionary.site for dictionary in dictionaries):
        raise ValueError("nodes: expected nodes of these dictionaries in this order, got nodes of other sites")
    if stream := next((site for site in nodes.sites if not site.is_writer), None):
        raise ValueError(f"site {stream.name}: expected sites that a source writes for edges, got the residual stream")
    dissection = Dissection(model, dictionaries, pairs, intervention, batch_size, with_logits=True)  # in place `LOGITS`
    metric = as_metric(metric, dissection.transformer, pairs)
    destinations = list(destinations_among(nodes))
    rank = [rank_of(dissection.transformer, site) for site in nodes.sites]
    last = max(rank) + 1
    earlier = torch.tensor(
        [[rank[s] < (last if d.site == LOGITS else rank[d.site]) for s in nodes.index[:, 0]] for d in destinations]
    )
    scored = _exact if isinstance(method, Exact) else _attributed
    total = torch.zeros(len(destinations), len(nodes), dtype=torch.float64)
    for batch in dissection.batches:
        with torch.inference_mode(False):
            total += scored(dissection, nodes, destinations, earlier, batch, metric, method)
    total = total.where(earlier, 0) / len(pairs)
    where = total.nonzero()
    ends = torch.tensor([[d.site, d.feature, d.part] for d in destinations])
    index = torch.cat((where[:, 1:], ends[where[:, 0]]), dim=1)
    metadata = {"method": method.name, "settings": method.settings, "metric": metric_name(metric)}
    metadata |= {"intervention": intervention, "n_prompts": len(pairs)}
    return FeatureEdges(nodes, index, total[tuple(where.T)], metadata)


# Attribution


def _attributed(
    dissection: Dissection,
    nodes: FeatureNodes,
    destinations: Sequence[Destination],
    earlier: Tensor,
    batch: PromptPairs,
    metric: Metric,
    method: OnePass | IntegratedGradients,
) -> Float[Tensor, "destination node"]:
    streams = differentiate_streams(dissection, batch, metric, method if isinstance(method, OnePass) else EAP())
    cuts = dissection.cuts(batch)
    measures = _sources(dissection, nodes, streams, cuts)

    def coefficient(site: int) -> Float[Tensor, "batch pos d_site"]:
        if isinstance(method, OnePass):
            return streams.at(dissection.transformer, dissection.dictionaries[site].site)
        return integrated_gradient(dissection, batch, metric, method, site, streams.kept, cuts(site))

    total = torch.zeros(len(destinations), len(nodes), dtype=torch.float64)
    through: tuple[int, Callable[[Destination], Tensor]] | None = None
    for row, destination in enumerate(destinations):
        if destination.site == LOGITS:
            gradient = coefficient(LOGITS)
        else:
            if through is None or through[0] != destination.site:
                through = (
                    destination.site,
                    _jacobian(dissection, destination.site, streams, coefficient(destination.site)),
                )
            gradient = through[1](destination)
        for site, measure in measures.items():
            seen = earlier[row] & (nodes.index[:, 0] == site)
            if seen.any():
                total[row, nodes.index[:, 0] == site] = measure(gradient).double().cpu()
    return total


def _jacobian(
    dissection: Dissection, site: int, streams: Streams, gradient: Float[Tensor, "batch pos d_site"]
) -> Callable[[Destination], Tensor]:
    """From a destination of a site to the gradient of `g_j f_j` at the stream that it reads there."""
    transformer, dictionary, operations = dissection.transformer, dissection.dictionaries[site], streams.operations
    with torch.enable_grad():
        leaves = {
            part: x.detach().clone().requires_grad_() for part, x in streams_read(streams.kept, dictionary.site).items()
        }
        read = read_through(transformer, dictionary, leaves, operations)
    with torch.no_grad():
        features = dictionary.encode(read)

    def through(destination: Destination) -> Tensor:
        one = torch.tensor([destination.feature], device=read.device)
        with torch.enable_grad():
            if isinstance(dictionary, Coordinates):
                columns = slice(destination.feature * dictionary.width, (destination.feature + 1) * dictionary.width)
                value, slope = read[..., columns], gradient[..., columns]
            else:
                value = dictionary.magnitudes(read, one, features[..., one] != 0)
                slope = gradient.to(dictionary.W_dec) @ dictionary.W_dec[one].T
            worth = (value * at_positions(slope, destination)).sum()
            return torch.autograd.grad(worth, leaves[destination.part], retain_graph=True)[0]

    return through


@torch.no_grad()
def _sources(
    dissection: Dissection, nodes: FeatureNodes, streams: Streams, cuts: Callable[[int], Parts]
) -> dict[int, Callable[[Tensor], Float[Tensor, " node"]]]:
    """For each site, what the changes of its nodes are worth at a gradient of the stream, summed over the batch."""
    transformer = dissection.transformer

    def of_site(number: int) -> Callable[[Tensor], Tensor]:
        dictionary, rows = dissection.dictionaries[number], nodes.index[nodes.index[:, 0] == number, 1:]
        now, cut = dissection.parts(number, streams.kept), cuts(number)
        columns, places = rows[:, 1].clamp(min=0).unique(return_inverse=True)
        columns, change, of_error = columns.to(now.features.device), cut.features - now.features, cut.error - now.error

        def measure(stream: Tensor) -> Tensor:
            gradient = gradient_at(transformer, streams.kept, dictionary.site, stream, streams.operations).to(change)
            by_feature = dictionary.effects(change, gradient, columns).sum(0)
            by_position = by_feature[:, places.to(by_feature.device)]
            if dictionary.has_error:
                error = (of_error * gradient).sum((0, 2))[:, None]
                by_position = by_position.where((rows[:, 1] != ERROR).to(error.device), error)
            at = rows[:, 0].to(by_position.device)
            there = by_position.gather(0, at.clamp(0, len(by_position) - 1)[None])[0]
            return torch.where(at == ANY, by_position.sum(0), there.where(at < len(by_position), 0))

        return measure

    return {number: of_site(number) for number in nodes.index[:, 0].unique().tolist()}


# Exact patching


@torch.no_grad()
def _exact(
    dissection: Dissection,
    nodes: FeatureNodes,
    destinations: Sequence[Destination],
    earlier: Tensor,
    batch: PromptPairs,
    metric: Metric,
    method: Exact,
) -> Float[Tensor, "destination node"]:
    """Every source cut in what one destination reads, and nowhere else."""
    transformer, cuts = dissection.transformer, dissection.cuts(batch)
    kept = dissection.forward(batch.clean, batch)
    uncut = metric(dissection.logits(kept, batch), batch)
    total = torch.zeros(len(destinations), len(nodes), dtype=torch.float64)
    for column, (site, position, feature) in enumerate(nodes.index.tolist()):
        dictionary = dissection.dictionaries[site]
        change = change_of_node(dictionary, dissection.parts(site, kept), cuts(site), position, feature)
        change = in_stream(transformer, kept, dictionary.site, change)
        for row in earlier[:, column].nonzero()[:, 0].tolist():
            at, added = _entering(dissection, kept, destinations[row], change)
            cut = values_with(dissection, batch, metric, at, added[None])[0]
            total[row, column] = (cut - uncut).sum().double().cpu()
    return total


def _entering(
    dissection: Dissection, kept: Activations, destination: Destination, change: Float[Tensor, "batch pos d_model"]
) -> tuple[Site, Tensor]:
    """The site, and what its value changes by, when a destination's stream changes."""
    transformer, dictionary = dissection.transformer, dissection.dictionaries[destination.site]
    if destination.site == LOGITS:
        return dictionary.site, change
    streams = streams_read(kept, dictionary.site)
    moved = streams | {destination.part: streams[destination.part] + change.to(streams[destination.part])}
    both = (read_through(transformer, dictionary, each, EXACT) for each in (streams, moved))
    before, after = map(dictionary.encode, both)
    share = torch.zeros(dictionary.n_features).to(after)
    share[destination.feature] = 1
    return dictionary.site, at_positions(dictionary.written(after - before, share), destination)
