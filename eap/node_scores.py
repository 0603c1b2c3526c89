"""Scores of nodes, layer by layer and position by position, from the same single backward pass as edge scores.

A node's score at a position is `(value_cut - value_clean) . gradient of the metric at the node's value`, with the
plain gradient (attribution patching) or under LRP rules (RelP). "noising" takes the gradient at the clean prompt and
estimates what cutting does to it; "denoising" takes it at the corrupted prompt and estimates what restoring the node
there does, with the sign of cutting: positive always means that the metric is higher with the node cut. "exact" puts the
other value in at each position alone and measures (`edge_circuits.eap.patched_nodes`), in place of the estimate.

References: Nanda 2023, Attribution Patching: Activation Patching at Industrial Scale. Jafari et al. 2025, RelP, figures 1,
2, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from tqdm import tqdm

from edge_circuits.eap.budget import affordable_nodes, check_budget
from edge_circuits.eap.gradient_method import OnePass
from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.patched_nodes import patched_nodes
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.metrics import Metric, as_metric, check_values, metric_name
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.node_circuits import ScoredNodes
from edge_circuits.graphs.running.distributed import Processes
from edge_circuits.graphs.running.fingerprint import question
from edge_circuits.graphs.running.patching import answer_rows, answered, trimmed
from edge_circuits.graphs.surroundings import in_plain_surroundings

Direction = Literal["noising", "denoising"]
MAX_TOKENS = 2048


@dataclass(frozen=True)
class NodeScores:
    """Node scores of every prompt and their means.

    Attributes:
        per_prompt: by kind of node, [pair layer pos], and [pair layer head pos] for "heads" (of "exact" where asked); NaN where a prompt has no
            such position, zero after its answer. Kinds: "resid_pre", "resid_mid" (between attention and MLP; not
            there for parallel or attention-only blocks), "resid_post", "attention_out", "mlp_out" (not there for
            attention-only models), "heads".
        metadata: model, method, settings, metric, direction.
        graph: the model's topology.
        exact: by kind, the nodes and positions that were measured by exact patching: what a budget paid for, or all of method "exact".
    """

    per_prompt: Mapping[str, Float[Tensor, "pair layer ... pos"]]
    metadata: Mapping[str, Any]
    graph: Graph
    exact: Mapping[str, Bool[Tensor, "layer ... pos"]]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of node that the model has."""
        return tuple(self.per_prompt)

    def mean(self, kind: str) -> Float[Tensor, "layer *head pos"]:
        """The mean over the prompts that have the position, counted from the start of each prompt.

        Raises:
            ValueError: the model has no such kind of node.
        """
        return self.per_prompt[choice("kind", kind, self.kinds)].nanmean(0)

    @property
    def by_node(self) -> ScoredNodes:
        """A score for each head and MLP: the sum over positions, the mean over prompts.

        Raises:
            ValueError: there are no scores of heads, as from method "exact".
        """
        if "heads" not in self.per_prompt:
            raise refusal("scores", "scores of heads", ", ".join(self.kinds), "give heads=True, or take patch_nodes")
        kinds = ("heads", "mlp_out") if self.graph.mlps else ("heads",)
        totals = [self.per_prompt[kind].nan_to_num().sum(-1).mean(0) for kind in kinds]
        columns = [total if total.dim() == 2 else total[:, None] for total in totals]
        return ScoredNodes(self.graph, torch.cat(columns, dim=1).flatten(), self.metadata)


@in_plain_surroundings
@torch.inference_mode(False)
def score_nodes(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    method: OnePass | Exact | str = "relp",
    direction: Direction = "noising",
    *,
    heads: bool = False,
    budget: float | int | None = None,
    batch_size: int | None = None,
    process_group: ProcessGroup | None = None,
    quiet: bool = False,
) -> NodeScores:
    """Score the residual stream, attention and MLP outputs and heads at every layer and position.

    Args:
        metric: `metric(logits, pairs)`, one value a prompt, or a metric's name; the unit of the scores.
        method: "relp", "eap", the gradient, or such a method with settings; or "exact", at the price of a run for each kind, layer and
            position.
        direction: "noising", gradients at the clean prompts, or "denoising", at the corrupted ones.
        heads: whether "exact" patches each head too, a run for each head, layer and position; estimates always have them.
        budget: how many plain passes (`edge_circuits.eap.budget`) to spend on measuring those nodes exactly, each at one position,
            whose mean score is largest; `NodeScores.exact` says which they are. None: nothing.
        batch_size: prompts in a batch; by default as many as fit in 2,048 tokens, and enough batches for all processes.
        process_group: processes of `torch.distributed` that share the prompts, as in `eap.score`.
        quiet: no progress bar.

    Raises:
        ValueError: an unknown method or direction, a method or rule that does not fit the model or nodes, an
            unsupported model, or a metric that cannot be scored with.
    """
    processes = Processes(process_group)
    with processes.agreeing() as asked:
        method = _checked(method, direction)
        transformer = adapt(model)
        processes.send_from(transformer.device)
        metric = as_metric(metric, transformer, pairs)
        method.check_model(transformer)
        if direction == "noising":
            method.check_metric(metric)
        check_budget(budget, method)
        batches = processes.batches(pairs, batch_size, MAX_TOKENS)
        if processes.size > 1:
            settings = dict(method=method.described, direction=direction, gradients=True, budget=budget)
            asked |= question(model, transformer, pairs, metric, batches, **settings)
    batches = [batch.to(transformer.device) for batch in batches]
    own, quiet = processes.mine(batches), quiet or not processes.is_first

    def scores(by: OnePass | Exact, heads: bool, chosen: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        of_batch = partial(_batch_scores, transformer, metric, by, direction, heads, chosen)
        found = _over_prompts(own, pairs, of_batch, by, quiet)
        return {kind: processes.total(rows) for kind, rows in found.items()}  # a prompt's row is 0 but in one process

    metadata = {
        "model": transformer.name,
        "method": method.name,
        "settings": method.settings if budget is None else method.settings | {"budget": budget},
        "metric": metric_name(metric),
        "direction": direction,
        "n_prompts": len(pairs),
    }
    found = scores(method, heads)
    every = torch.ones if isinstance(method, Exact) else torch.zeros
    exact = {kind: every(rows.shape[1:], dtype=torch.bool) for kind, rows in found.items()}
    scored = NodeScores(found, metadata, transformer.graph, exact)
    if budget is None:
        return scored
    exact = affordable_nodes(transformer, batches, {kind: scored.mean(kind) for kind in scored.kinds}, budget)
    measured = scores(Exact(), True, exact)
    found |= {kind: torch.where(exact[kind], rows, found[kind]) for kind, rows in measured.items()}
    return replace(scored, per_prompt=found, exact=exact)


def _checked(method: OnePass | Exact | str, direction: str) -> OnePass | Exact:
    """The method to use."""
    method = find(method)
    if isinstance(method, Exact):
        choice("direction", direction, get_args(Direction))
        if method.edges is not None:
            raise refusal("edges", "None for nodes", "a mask", "take Exact()")
        return method
    if not isinstance(method, OnePass):
        raise refusal(
            "method", "one of a single backward pass for nodes", repr(method.name), "take 'relp', 'eap' or 'exact'"
        )
    choice("direction", direction, get_args(Direction))
    method.check_alone("nodes")
    return method


def _over_prompts(
    batches: Sequence[PromptPairs],
    pairs: PromptPairs,
    scores: Callable[[PromptPairs], dict[str, Tensor]],
    method: Method,
    quiet: bool,
) -> dict[str, Float[Tensor, "pair layer ... pos"]]:
    """The scores of all batches, in the order of the pairs; zero for pairs that are in none."""
    found: dict[str, Tensor] = {}
    bar = tqdm(total=sum(map(len, batches)), desc=f"{method.name} nodes", unit="prompt", disable=quiet, leave=False)
    with bar:
        for batch in batches:
            for kind, value in scores(batch).items():
                value = _padded(value, batch, pairs.clean.shape[1]).cpu()
                rows = found.setdefault(kind, value.new_zeros(len(pairs), *value.shape[1:]))
                rows[batch.indices.cpu()] = value
            bar.update(len(batch))
    return found


def _batch_scores(
    transformer: Transformer,
    metric: Metric,
    method: OnePass | Exact,
    direction: Direction,
    heads: bool,
    chosen: Mapping[str, Tensor] | None,
    batch: PromptPairs,
) -> dict[str, Tensor]:
    """Scores of each kind, [layer (head) batch pos], where the last layer may hold the answer row alone."""
    tokens = {"noising": (batch.clean, batch.corrupted), "denoising": (batch.corrupted, batch.clean)}[direction]
    here, there = (transformer.embed(trimmed(each, batch)) for each in tokens)
    sign = 1 if direction == "noising" else -1
    if isinstance(method, Exact):
        found = patched_nodes(transformer, batch, metric, here, there, heads, chosen)
        return {kind: sign * value for kind, value in found.items()}
    with torch.no_grad():
        other = transformer.forward(there, answer_rows(batch))
    operations = method.operations(transformer, batch, lambda: other)
    kept, gradients = _gradients(transformer, here, batch, metric, operations)
    with torch.no_grad():
        return {kind: sign * value for kind, value in _products(transformer, batch, kept, other, gradients).items()}


@dataclass(frozen=True)
class _NodeGradients:
    """Gradients of the metric, an entry a layer: at the whole stream before a layer (and before `logits`), at the
    branch that the MLP reads, and at the heads' mixed values."""

    streams: list[Tensor]
    mlp_in: list[Tensor]
    z: list[Tensor]


def _gradients(
    transformer: Transformer, embed: Tensor, batch: PromptPairs, metric: Metric, operations: Operations
) -> tuple[Activations, _NodeGradients]:
    """Values and gradients at one prompt of each pair."""
    with torch.enable_grad():
        kept = transformer.forward(embed.detach().requires_grad_(), answer_rows(batch), operations)
        values = metric(transformer.unembed(answered(kept.final, batch), operations), batch)
        check_values(values, batch, metric)
        places = [*kept.attention_in, kept.final, *kept.mlp_in, *kept.z]
        gradients = torch.autograd.grad(values.sum(), places, materialize_grads=True)
    n, n_mlps = len(transformer.blocks), len(kept.mlp_in)
    streams, mlp_in, z = gradients[: n + 1], gradients[n + 1 : n + 1 + n_mlps], gradients[n + 1 + n_mlps :]
    return kept, _NodeGradients(list(streams), list(mlp_in), list(z))


def _products(
    transformer: Transformer, batch: PromptPairs, kept: Activations, other: Activations, gradients: _NodeGradients
) -> dict[str, Tensor]:
    """Change . gradient of every node: [batch pos layer], and [batch pos layer head] for heads."""
    rows, width = answer_rows(batch).to(transformer.device), kept.embed.shape[1]
    found: dict[str, list[Tensor]] = {}

    def add(kind: str, now: Tensor, then: Tensor, gradient: Tensor) -> None:
        product = ((then - now) * gradient.to(now.device)).sum(-1)
        found.setdefault(kind, []).append(_at_positions(product.to(rows.device), rows, width))

    streams = [*kept.attention_in, kept.final], [*other.attention_in, other.final]
    for layer, block in enumerate(transformer.blocks):
        after = gradients.streams[layer + 1].to(block.device)
        add("resid_pre", streams[0][layer], streams[1][layer], gradients.streams[layer])
        add("resid_post", streams[0][layer + 1], streams[1][layer + 1], after)
        add("heads", kept.z[layer], other.z[layer], gradients.z[layer])
        sequential = block.mlp is not None and not block.parallel
        at_attention = after + gradients.mlp_in[layer] if sequential else after
        writes = (EXACT.norm(block.attention_post_norm, each.attention_sum[layer]) for each in (kept, other))
        add("attention_out", *writes, at_attention)
        if sequential:
            add("resid_mid", kept.mlp_in[layer], other.mlp_in[layer], at_attention)
        if block.mlp is not None:
            add("mlp_out", kept.mlp_out[layer], other.mlp_out[layer], after)
    order = ("resid_pre", "resid_mid", "resid_post", "attention_out", "mlp_out", "heads")
    return {kind: torch.stack(found[kind], dim=2) for kind in order if kind in found}


def _at_positions(
    product: Float[Tensor, "batch row *head"], rows: Tensor, width: int
) -> Float[Tensor, "batch pos *head"]:
    """A value of all positions as it is; one of the answer row at its position, with zeros elsewhere."""
    if product.shape[1] == width:
        return product
    out = product.new_zeros(len(product), width, *product.shape[2:])
    each = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
    out.index_put_((each, rows), product, accumulate=True)  # a row that stands in again has no gradient
    return out


def _padded(
    value: Float[Tensor, "batch pos layer *head"], batch: PromptPairs, width: int
) -> Float[Tensor, "batch layer *head width"]:
    """Positions last, up to `width`: zero after the answer, NaN after the prompt's end."""
    out = value.new_zeros(len(value), width, *value.shape[2:])
    out[:, : value.shape[1]] = value
    out[torch.arange(width, device=value.device) >= batch.lengths[:, None]] = torch.nan
    return out.movedim(1, -1)
