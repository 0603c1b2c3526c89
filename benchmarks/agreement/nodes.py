"""Node scores held against exact node patching: residual stream, attention and MLP outputs, heads, at every position.

Exact patching of a node at a position gives it its value of the other prompt there and runs what follows. Signs are
those of `edge_circuits.eap.node_scores`: positive when the metric is higher with the node cut, in both directions.

Two identities save runs: the stream after a layer is the stream before the next one; and with a sequential MLP,
patching the stream between attention and MLP patches the stream after the layer, since the MLP reads nothing else.

Reference: Jafari et al. 2025, RelP, Figures 1, 2, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.benchmarks.agreement.edges import Settings
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.eap.node_scores import Direction, score_nodes
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.correlation import Agreement, agreement
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.operations import Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer, take_rows
from edge_circuits.graphs.prompts.pairs import in_order
from edge_circuits.graphs.running.patching import trimmed

METHODS = ("eap", "relp")
DIRECTIONS: tuple[Direction, ...] = ("noising", "denoising")
MAX_TOKENS = 2048
STACKED_TOKENS = 8192  # that run together


@dataclass(frozen=True, eq=False)
class NodeAgreement:
    """How node scores agree with exact node patching.

    Attributes:
        per_kind: By kind of node, over all layers and positions (and heads).
        means: Scores, means over the prompts that have the position. [layer *head pos]
    """

    method: str
    direction: Direction
    per_kind: Mapping[str, Agreement]
    means: Mapping[str, Float[Tensor, "layer *head pos"]]


def compare_nodes(
    problem: Problem, direction: Direction, settings: Settings = Settings()
) -> tuple[dict[str, Tensor], list[NodeAgreement]]:
    """The means of exact patching by kind of node, and each method's agreement with it.

    Correlations are between means over all prompts, each position counted from the start of its prompt; a prompt adds
    nothing where it has no such position. Intervals are the bootstrap's over prompts.
    """
    exact = exact_nodes(problem, direction)
    found = []
    for method in METHODS:
        scored = score_nodes(problem.model, problem.pairs, problem.metric, method, direction, quiet=True)
        drawn = {"n_resamples": settings.n_resamples, "seed": settings.seed}
        per_kind = {
            kind: agreement(*(_shares(values[kind]) for values in (scored.per_prompt, exact)), **drawn)
            for kind in scored.kinds
        }
        found.append(NodeAgreement(method, direction, per_kind, {kind: scored.mean(kind) for kind in scored.kinds}))
    return {kind: values.nanmean(0) for kind, values in exact.items()}, found


@torch.no_grad()
def exact_nodes(problem: Problem, direction: Direction) -> dict[str, Float[Tensor, "pair layer *head pos"]]:
    """What patching each node does to the metric, with the kinds, shapes and signs of `edge_circuits.eap.node_scores.score_nodes`."""
    transformer = adapt(problem.model)
    batches = [batch.to(transformer.device) for batch in problem.pairs.batches(max_tokens=MAX_TOKENS)]
    parts = [_Patched(transformer, problem, batch, direction).effects() for batch in batches]
    width = problem.pairs.clean.shape[1]
    padded = [
        {kind: _padded(value, batch, width) for kind, value in part.items()} for part, batch in zip(parts, batches)
    ]
    return {kind: in_order(batches, [part[kind] for part in padded]).cpu() for kind in parts[0]}


class _Patched:
    """One batch: the run that is patched, and the run that patches come from."""

    def __init__(self, transformer: Transformer, problem: Problem, batch: PromptPairs, direction: Direction) -> None:
        self.transformer, self.metric, self.batch = transformer, problem.metric, batch
        tokens = {"noising": (batch.clean, batch.corrupted), "denoising": (batch.corrupted, batch.clean)}[direction]
        self.here, self.there = (self._run(each) for each in tokens)
        self.sign = 1 if direction == "noising" else -1
        self.width = self.here.embed.shape[1]
        self.unpatched = self._values(self.here.final, batch)

    def effects(self) -> dict[str, Float[Tensor, "batch layer *head pos"]]:
        """Every kind of node that the model has."""
        blocks = self.transformer.blocks
        layers = range(len(blocks))
        before = torch.stack([self._of_stream(layer) for layer in range(len(blocks) + 1)], dim=1)
        found = {"resid_pre": before[:, :-1], "resid_post": before[:, 1:]}
        if all(block.mlp is not None and not block.parallel for block in blocks):
            found["resid_mid"] = before[:, 1:]
        found["attention_out"] = torch.stack([self._of_source(layer, "heads") for layer in layers], dim=1)
        if all(block.mlp is not None for block in blocks):
            found["mlp_out"] = torch.stack([self._of_source(layer, "mlp") for layer in layers], dim=1)
        n_heads = self.transformer.graph.n_heads
        by_layer = [
            torch.stack([self._of_source(layer, "heads", head) for head in range(n_heads)], dim=1) for layer in layers
        ]
        return found | {"heads": torch.stack(by_layer, dim=1)}

    def _run(self, tokens: Tensor) -> Activations:
        return self.transformer.forward(self.transformer.embed(trimmed(tokens, self.batch)))

    def _of_stream(self, layer: int) -> Float[Tensor, "batch pos"]:
        """Patching the stream before a layer, or before `logits`."""
        here, there = ([*run.attention_in, run.final][layer] for run in (self.here, self.there))
        return self._over_positions(lambda n, at: self._continued(layer, _patched(here, there, at)))

    def _of_source(self, layer: int, kind: str, head: int | None = None) -> Float[Tensor, "batch pos"]:
        """Patching what a layer's heads (or one of them) or its MLP write."""
        here, there = ((run.z if kind == "heads" else run.mlp_out)[layer] for run in (self.here, self.there))
        if head is not None:
            only = here.clone()
            only[:, :, head] = there[:, :, head]
            there = only

        def final(n: int, at: Tensor) -> Tensor:
            value, stream = _patched(here, there, at), self.here.attention_in[layer].repeat(n, 1, 1)
            written = Operations(source=lambda of, what, own: value if (of, what) == (0, kind) else own)
            return self._continued(layer, stream, written)

        return self._over_positions(final)

    def _continued(self, layer: int, stream: Tensor, operations: Operations = Operations()) -> Tensor:
        """The stream before `logits`, run from a layer's input."""
        above = replace(self.transformer, blocks=self.transformer.blocks[layer:])
        return above.forward(stream, operations=operations).final

    def _over_positions(self, final: Callable[[int, Tensor], Tensor]) -> Float[Tensor, "batch pos"]:
        """The effect at each position, some of them stacked along the batch."""
        effects = []
        n_stacked = max(1, STACKED_TOKENS // (len(self.batch) * self.width))
        for at in torch.arange(self.width).split(n_stacked):
            stream = final(len(at), at).unflatten(0, (len(at), -1))
            effects += [self.sign * (self._values(each, self.batch) - self.unpatched) for each in stream]
        return torch.stack(effects, dim=1)

    def _values(self, stream: Float[Tensor, "batch pos d_model"], batch: PromptPairs) -> Float[Tensor, "batch"]:
        return self.metric(self.transformer.unembed(take_rows(stream, batch.positions[:, None])[:, 0]), batch)


def _shares(per_prompt: Float[Tensor, "pair layer *head pos"]) -> Float[Tensor, "pair value"]:
    """What each prompt adds to the mean over all."""
    return per_prompt.nan_to_num().flatten(1) / len(per_prompt)


def _patched(here: Tensor, there: Tensor, positions: Tensor) -> Tensor:
    """`here` once for each position, there with the value of the other run: [stacked pos ...]."""
    stacked = here.repeat(len(positions), 1, *[1] * (here.dim() - 2)).unflatten(0, (len(positions), -1))
    for copy, position in zip(stacked, positions.tolist()):
        copy[:, position] = there[:, position]
    return stacked.flatten(0, 1)


def _padded(
    value: Float[Tensor, "batch layer *head pos"], batch: PromptPairs, width: int
) -> Float[Tensor, "batch layer *head width"]:
    """Positions up to `width`: zero after the answer, NaN after the prompt's end."""
    out = value.new_zeros(*value.shape[:-1], width)
    out[..., : value.shape[-1]] = value
    after_end = torch.arange(width, device=value.device) >= batch.lengths[:, None]
    return out.masked_fill(after_end.view(len(batch), *[1] * (value.dim() - 2), width), torch.nan)
