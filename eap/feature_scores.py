"""Scores of feature nodes: what cutting a feature, or what a dictionary leaves over, does to the metric.

    effect of feature i = (f_cut - f)_i  W_dec[i] . gradient at the site's value
    effect of the error = (e_cut - e) . gradient at the site's value

Replacing a site's value by its own features and error changes nothing, and the gradient of Marks et al. passes sites
straight through, so the gradient is that of the plain model: one backward pass serves every feature of every site, under
LRP's coefficients too (RelP; a feature's activation has the coefficient f / x, 1 where it is active, which plays no part
here). The effects of a site sum to the site's own score, `(value_cut - value) . gradient`.

Integrated gradients take the gradient at points between the site's clean and its cut value, one site at a time while all
below stays clean: features and error move together, and since decoders are affine the value moves on a straight line.
So it costs `steps` backward passes for each site. Exact scores cut each node alone.

Reference: Marks et al. 2024, Sparse Feature Circuits, section 3 and equations 2 and 3 (IG of the clean end, "left").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from edge_circuits.eap.gradient_method import OnePass
from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.integrated_gradients import IntegratedGradients
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.features.dictionary import AnyDictionary
from edge_circuits.graphs.features.nodes import ANY, ERROR, FeatureNodes, nodes_of_sums
from edge_circuits.graphs.features.running import Dissection, Parts
from edge_circuits.graphs.features.sites import MLP_KINDS, Site, changing, gradient_at, value_at
from edge_circuits.graphs.metrics import Metric, as_metric, check_values, metric_name
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.patching import Intervention, trimmed

STACKED_TOKENS = 2048
Summed = Float[Tensor, "pos feature_or_error"]
"""Effects of a site's features and, last, of its error, summed over a batch."""


@dataclass(frozen=True)
class Streams:
    """One pass over whole rows: its values, and the gradients of the summed metric.

    Attributes:
        kept: values without autograd history.
        whole: at the stream before each layer and before `logits`, by all paths. [batch pos d_model]
        mlp_in: at the branch that each MLP reads.
        parts: at q, k and v of each layer, by letter. [batch pos head d_head]
    """

    kept: Activations
    whole: Sequence[Tensor]
    mlp_in: Sequence[Tensor]
    operations: Operations

    def at(self, transformer: Transformer, site: Site) -> Float[Tensor, "batch pos d_site"]:
        """The gradient at a site's value."""
        stream = self.whole[site.place[0]]
        if site.kind in ("z", "attention_out", *MLP_KINDS):
            block, stream = transformer.blocks[site.layer], self.whole[site.layer + 1]
            if site.kind in ("z", "attention_out") and block.mlp is not None and not block.parallel:
                stream = stream + self.mlp_in[site.layer].to(stream.device)
        return gradient_at(transformer, self.kept, site, stream, self.operations)


def score_features(
    model: nn.Module,
    dictionaries: Sequence[AnyDictionary],
    pairs: PromptPairs,
    metric: Metric | str,
    method: Method | str = "relp",
    *,
    intervention: Intervention = "patching",
    by_position: bool = True,
    candidates: FeatureNodes | None = None,
    batch_size: int | None = None,
    quiet: bool = False,
) -> FeatureNodes:
    """Score the features of dictionaries, and their errors.

    Args:
        model: a TransformerLens model; left unchanged.
        dictionaries: trained ones (`read_dictionaries`), or coordinates (`neurons`, `heads`).
        metric: `metric(logits, pairs)`, one value a prompt, or the name of one; the unit of the scores.
        method: "relp", "eap" or another of one backward pass; `IntegratedGradients(steps)`, here along each site's own
            values from clean to cut (the default rule "left" includes the clean end); or "exact".
        intervention: what a cut node becomes.
        by_position: a node for each position, counted from the start of the prompts; else one for all.
        candidates: for "exact", the nodes to measure, with or without positions as `by_position` says; by default all that change.
        batch_size: prompts in a batch; by default as many as fit in 2,048 tokens, fewer for large dictionaries.
        quiet: no progress bar.

    Returns:
        The nodes whose score is not zero; `metadata["backward_passes"]` tells the cost, for each batch.

    Raises:
        ValueError: dictionaries that do not fit, a method for which features have no place, or a metric that cannot be
            scored with.
    """
    method = find(method)
    dissection = Dissection(model, dictionaries, pairs, intervention, batch_size)
    metric = as_metric(metric, dissection.transformer, pairs)
    method.check_model(dissection.transformer)
    method.check_metric(metric)
    score_batch = _scorer(method, candidates, by_position)
    sums: list[Tensor] = []
    with tqdm(total=len(pairs), desc=f"{method.name} features", unit="prompt", disable=quiet, leave=False) as bar:
        for batch in dissection.batches:
            with torch.inference_mode(False):
                found = list(score_batch(dissection, batch, metric))
            sums = _added(sums, found, pairs.clean.shape[1], by_position)
            bar.update(len(batch))
    sites = len(dictionaries)
    n_backward = method.steps * sites if isinstance(method, IntegratedGradients) else int(isinstance(method, OnePass))
    metadata = {"model": dissection.transformer.name, "method": method.name, "settings": method.settings}
    metadata |= {"metric": metric_name(metric), "intervention": intervention, "n_prompts": len(pairs)}
    metadata |= {"backward_passes": n_backward}
    return nodes_of_sums(dictionaries, [total / len(pairs) for total in sums], by_position, metadata)


ScoreBatch = Callable[[Dissection, PromptPairs, Metric], Iterator[Summed]]


def _scorer(method: Method, candidates: FeatureNodes | None, by_position: bool) -> ScoreBatch:
    if candidates is not None and not isinstance(method, Exact):
        raise ValueError(f"candidates: expected none for method {method.name!r}, which scores every node; leave it out")
    if candidates is not None and (others := int(((candidates.index[:, 1] != ANY) != by_position).sum())):
        wanted, got = ("single", "all") if by_position else ("all", "single")
        raise refusal(
            "candidates", f"nodes at {wanted} positions", f"{others} at {got}", f"give by_position={not by_position}"
        )
    if isinstance(method, Exact):
        return lambda dissection, batch, metric: _exact(dissection, batch, metric, candidates, by_position)
    if isinstance(method, OnePass | IntegratedGradients):
        method.check_alone("features")
    if isinstance(method, IntegratedGradients):
        return lambda dissection, batch, metric: _integrated(dissection, batch, metric, method)
    if isinstance(method, OnePass):
        return lambda dissection, batch, metric: _one_pass(dissection, batch, metric, method)
    raise ValueError(
        f"method: expected one of a single backward pass, IntegratedGradients or Exact for features, got "
        f"{method.label!r}"
    )


def _added(sums: list[Tensor], found: list[Tensor], width: int, by_position: bool) -> list[Tensor]:
    """Sums over batches, sparse, in float64 on the CPU, all of one shape."""
    added = []
    for number, value in enumerate(found):
        value = value.double().cpu() if by_position else value.sum(0, keepdim=True).double().cpu()
        room = torch.nn.functional.pad(value, (0, 0, 0, width - len(value) if by_position else 0)).to_sparse()
        added.append((sums[number] + room).coalesce() if sums else room)
    return added


def _one_pass(dissection: Dissection, batch: PromptPairs, metric: Metric, method: OnePass) -> Iterator[Summed]:
    streams = differentiate_streams(dissection, batch, metric, method)
    cuts = dissection.cuts(batch)
    for number, dictionary in enumerate(dissection.dictionaries):
        gradient = streams.at(dissection.transformer, dictionary.site)
        yield _effects(dictionary, dissection.parts(number, streams.kept), cuts(number), gradient)


def differentiate_streams(dissection: Dissection, batch: PromptPairs, metric: Metric, method: OnePass) -> Streams:
    """One forward and one backward pass on the clean prompts of a batch."""
    transformer = dissection.transformer

    def cut() -> Activations:
        return dissection.forward(batch.corrupted, batch)

    operations = method.operations(transformer, batch, cut)
    with torch.enable_grad():
        embed = transformer.embed(trimmed(batch.clean, batch)).detach().requires_grad_()
        kept = transformer.forward(embed, None, operations)
        values = metric(dissection.logits(kept, batch, operations), batch)
        check_values(values, batch, metric)
        places = [*kept.attention_in, kept.final, *kept.mlp_in]
        gradients = torch.autograd.grad(values.sum(), places, materialize_grads=True)
    n = len(transformer.blocks) + 1
    return Streams(kept.each(Tensor.detach), gradients[:n], gradients[n:], operations)


@torch.no_grad()
def _effects(dictionary: AnyDictionary, now: Parts, cut: Parts, gradient: Tensor) -> Summed:
    gradient = gradient.to(now.features)
    features = dictionary.effects(cut.features - now.features, gradient).sum(0)
    error = (
        ((cut.error - now.error) * gradient).sum((0, 2)) if dictionary.has_error else torch.zeros_like(features[:, 0])
    )
    return torch.cat((features, error[:, None]), dim=1)


def _integrated(
    dissection: Dissection, batch: PromptPairs, metric: Metric, method: IntegratedGradients
) -> Iterator[Summed]:
    with torch.no_grad():
        kept = dissection.forward(batch.clean, batch)
    cuts = dissection.cuts(batch)
    for number, dictionary in enumerate(dissection.dictionaries):
        gradient = integrated_gradient(dissection, batch, metric, method, number, kept, cuts(number))
        yield _effects(dictionary, dissection.parts(number, kept), cuts(number), gradient)


def integrated_gradient(
    dissection: Dissection,
    batch: PromptPairs,
    metric: Metric,
    method: IntegratedGradients,
    number: int,
    kept: Activations,
    cut: Parts,
) -> Float[Tensor, "batch pos d_site"]:
    """The mean gradient at a dictionary's site, on the line from its clean to its cut value, all below it clean."""
    dictionary, shift = dissection.dictionaries[number], 0.5 if method.rule == "midpoint" else 0.0
    with torch.no_grad():
        clean = value_at(dissection.transformer, kept, dictionary.site)
        end = (dictionary.decode(cut.features) + cut.error).to(clean)
    gradient = torch.zeros_like(clean)
    for step in range(method.steps):
        value = torch.lerp(clean, end.expand_as(clean), (step + shift) / method.steps).requires_grad_()
        operations = changing(dissection.transformer, {dictionary.key: lambda own, read: value})
        with torch.enable_grad():
            metrics = metric(dissection.logits(dissection.forward(batch.clean, batch, operations), batch), batch)
            check_values(metrics, batch, metric)
            gradient += torch.autograd.grad(metrics.sum(), value)[0] / method.steps
    return gradient


@torch.no_grad()
def _exact(
    dissection: Dissection, batch: PromptPairs, metric: Metric, candidates: FeatureNodes | None, by_position: bool
) -> Iterator[Summed]:
    """Each node cut alone, at all positions at once where it has none; several of them stacked along the batch."""
    kept, cuts = dissection.forward(batch.clean, batch), dissection.cuts(batch)
    uncut = metric(dissection.logits(kept, batch), batch)
    n_stacked = max(1, STACKED_TOKENS // (len(batch) * kept.embed.shape[1]))
    for number, dictionary in enumerate(dissection.dictionaries):
        now, cut = dissection.parts(number, kept), cuts(number)
        changes = cut.features - now.features
        sums = changes.new_zeros(changes.shape[1], dictionary.n_features + 1)
        every = _rows(dictionary, changes, candidates, number, by_position)
        for rows in filter(len, every.split(n_stacked)):
            added = torch.stack([change_of_node(dictionary, now, cut, *row) for row in rows.tolist()])
            values = values_with(dissection, batch, metric, dictionary.site, added)
            for (position, feature), value in zip(rows.tolist(), values):
                sums[0 if position == ANY else position, feature] += (value - uncut).sum()
        yield sums


def _rows(
    dictionary: AnyDictionary, changes: Tensor, candidates: FeatureNodes | None, number: int, by_position: bool
) -> Tensor:
    """(position, feature) of the nodes of a site to measure."""
    if candidates is not None:
        rows = candidates.index[candidates.index[:, 0] == number, 1:]
        return rows[rows[:, 0] < changes.shape[1]]  # prompts of other batches may be longer
    moved = dictionary.active((changes != 0).to(changes)).any(0)
    moved = moved if by_position else moved.any(0, keepdim=True)
    errors = [(position, ERROR) for position in range(len(moved))] if dictionary.has_error else []
    rows = torch.tensor([*moved.nonzero().tolist(), *errors], dtype=torch.long).reshape(-1, 2)
    return rows if by_position else rows.where(torch.tensor([False, True]), ANY)


def change_of_node(
    dictionary: AnyDictionary, now: Parts, cut: Parts, position: int, feature: int
) -> Float[Tensor, "batch pos d_site"]:
    """What cutting one node adds to its site's value."""
    if feature == ERROR:
        change = cut.error - now.error
    else:
        share = torch.zeros(dictionary.n_features).to(now.features)
        share[feature] = 1
        change = dictionary.written(cut.features - now.features, share)
    if position == ANY:
        return change
    return change * (torch.arange(change.shape[1], device=change.device) == position)[:, None]


@torch.no_grad()
def values_with(
    dissection: Dissection, batch: PromptPairs, metric: Metric, site: Site, added: Float[Tensor, "n batch pos d_site"]
) -> Float[Tensor, "n batch"]:
    """The metric on the clean prompts with each of several changes added to a site's value."""
    stacked = added.flatten(0, 1)
    operations = changing(dissection.transformer, {(site, "site"): lambda value, read: value + stacked.to(value)})
    embed = dissection.transformer.embed(trimmed(batch.clean, batch)).repeat(len(added), 1, 1)
    kept = dissection.transformer.forward(embed, None, operations)
    rows = torch.arange(len(batch), device=embed.device)
    final = kept.final.unflatten(0, (len(added), -1))[:, rows, batch.positions]
    return torch.stack([metric(dissection.transformer.unembed(each, EXACT), batch) for each in final])
