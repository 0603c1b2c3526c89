"""What cutting an edge means: the values that the destination of a cut edge reads.

The interventions give every source a cut value:

- `patching`: its value on the corrupted prompt;
- `zero`: zero;
- `mean`: its mean over all real tokens of all corrupted prompts;
- `mean-positional`: the same at each position, counted from the start of the prompt;
- `zero-tokens`, `mean-tokens`: as `zero` and `mean`, but of `input` the token embedding alone is cut and learned positions stay
  (the convention of EAP-IG, whose input is the token embedding). Under the other two that is so anyhow;
- `Mean`, `MeanPositional` (`edge_circuits.graphs.running.means`): means over prompts of another data set.

Sources are `input`, heads (their write without the output bias) and MLPs (bias included). The output bias of
attention belongs to no source and is never cut. `cut_values` returns the cut value of every source together with
the residual streams they sum to, as a `Cut`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.model.attention import Past, write
from edge_circuits.graphs.model.operations import EXACT
from edge_circuits.graphs.model.transformer import Activations, Transformer, take_rows
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.distributed import ALONE, Processes

Word = Literal["patching", "zero", "mean", "mean-positional", "zero-tokens", "mean-tokens"]


class FixedMeans(ABC):
    """Cut values that were fixed beforehand; `edge_circuits.graphs.running.means` has them."""

    @abstractmethod
    def values(self, transformer: Transformer) -> SourceValues:
        """What the sources of a model are cut to."""


Intervention = Word | FixedMeans
CutTo = Intervention | Literal["mixed"]
"""What a `Cut` holds: "mixed" where edges are cut at some tokens alone."""


@dataclass
class Cut(Activations):
    """The cut value of every source on one batch, and the streams they sum to: what a destination with every in-edge cut reads.

    Attributes:
        intervention: What the values are.
        rows: The positions that they are of, where these are not all (`edge_circuits.graphs.running.changing`).
        past: Each layer's keys and values before these positions.
    """

    intervention: CutTo = field(kw_only=True)
    rows: Int[Tensor, "batch row"] | None = None
    past: tuple[Past, ...] = ()


CutValues = Callable[[PromptPairs], Cut]


def cut_only_at(clean: Activations, cut: Activations, batch: PromptPairs, span: int) -> Cut:
    """The cut values at the tokens of a span, and the clean ones elsewhere; the streams are those that they sum to.

    Cutting an edge to these values cuts it at the span alone.
    """
    where = trimmed(batch.spans.of_token, batch) == span
    rows = answer_rows(batch)

    def mixed(inside: Tensor, outside: Tensor) -> Tensor:
        here = where if inside.shape[1] == where.shape[1] else take_rows(where, rows.to(where.device))
        here = here.to(inside.device).reshape(*here.shape, *[1] * (inside.dim() - 2))
        return torch.where(here, inside, outside.to(inside.device))

    values: dict[str, Any] = {}
    for field_ in fields(Activations):
        inside, outside = getattr(cut, field_.name), getattr(clean, field_.name)
        if isinstance(inside, list):
            values[field_.name] = [mixed(*both) for both in zip(inside, outside)]
        else:
            values[field_.name] = None if inside is None else mixed(inside, outside)
    return Cut(**values, intervention="mixed")


def equals_a_run(intervention: CutTo) -> bool:
    """Whether cut values are a run of the model, so that a node whose every input has its cut value has its own."""
    return intervention == "patching"


def trimmed(tokens: Shaped[Tensor, "batch pos"], pairs: PromptPairs) -> Shaped[Tensor, "batch kept_pos"]:
    """Tokens up to the last answer position of the batch; later ones cannot matter."""
    return tokens[:, : int(pairs.positions.max()) + 1]


def answer_rows(pairs: PromptPairs) -> Int[Tensor, "batch row"]:
    """Each prompt's answer position, or its several ones, as the rows of a forward pass.

    Where prompts have fewer rows than others, or exactly as many as positions (`at_rows`), the last position stands in again.
    """
    if pairs.rows is None:
        return pairs.positions[:, None]
    last = pairs.positions[:, None]
    rows = torch.where(pairs.rows < 0, last, pairs.rows)
    return rows if rows.shape[1] != int(pairs.positions.max()) + 1 else torch.cat((rows, last), dim=1)


def answered(x: Shaped[Tensor, "batch row d"], pairs: PromptPairs) -> Shaped[Tensor, "batch *rows d"]:
    """Of values at `answer_rows` those that a metric reads: at the answer position, or at each of `pairs.rows`."""
    return x[:, 0] if pairs.rows is None else x[:, : pairs.rows.shape[1]]


def answer_logits(
    transformer: Transformer, kept: Activations, pairs: PromptPairs
) -> Float[Tensor, "batch *rows d_vocab"]:
    """The logits that a metric reads, from activations whose last layer holds `answer_rows` alone."""
    return transformer.unembed(answered(kept.final, pairs))


def clean_logits(transformer: Transformer, pairs: PromptPairs) -> Float[Tensor, "batch *rows d_vocab"]:
    """The whole model's logits that a metric reads, on the clean prompts of one batch."""
    kept = transformer.forward(transformer.embed(trimmed(pairs.clean, pairs)), answer_rows(pairs))
    return answer_logits(transformer, kept, pairs)


def check_intervention(intervention: Intervention) -> None:
    """Refuse an unknown intervention."""
    if not isinstance(intervention, FixedMeans):
        choice("intervention", intervention, get_args(Word), "or give an ec.Mean")


@torch.no_grad()
def cut_values(
    transformer: Transformer,
    batches: Sequence[PromptPairs],
    intervention: Intervention,
    processes: Processes = ALONE,
    everywhere: bool = False,
) -> CutValues:
    """A function from a batch to the cut value of every source and the streams they sum to.

    The means are taken here, once, over all the batches, which `processes` share; the other interventions look at one
    batch at a time.
    In the result the last layer holds answer rows only, unless it is asked `everywhere`. Gradients flow to the weights when they are enabled at
    the call.

    Raises:
        ValueError: An unknown intervention, or an answer that the model has no logit for.
    """
    check_intervention(intervention)
    for batch in batches:
        batch.check_answers(transformer.W_U.shape[1])
    if intervention == "patching":
        _warn_of_identical(batches)
        return lambda batch: _corrupted(transformer, batch, everywhere)
    constant = source_values(transformer, batches, intervention, processes)
    longest = max((batch.clean.shape[1] for batch in batches), default=0)
    if constant.n_positions is not None and longest > constant.n_positions:
        got = f"prompts of {longest} tokens"
        raise refusal("intervention", f"prompts within the {constant.n_positions} positions that have means", got)
    return lambda batch: constant_cut(transformer, batch, constant, intervention, everywhere)


def _warn_of_identical(batches: Sequence[PromptPairs]) -> None:
    """Say that patching has nothing to change where both prompts are the same."""
    if n_identical := sum(batch.n_identical for batch in batches):
        n_pairs = sum(map(len, batches))
        warnings.warn(
            f"pairs: {n_identical} of {n_pairs} have the same clean and corrupted prompt, where cutting an edge changes nothing; "
            "give other corrupted prompts, or another intervention",
            stacklevel=4,
        )


def _corrupted(transformer: Transformer, batch: PromptPairs, everywhere: bool) -> Cut:
    embed = transformer.embed(trimmed(batch.corrupted, batch))
    kept = transformer.forward(embed, None if everywhere else answer_rows(batch))
    return Cut(**vars(kept), intervention="patching")


@dataclass(frozen=True)
class SourceValues:
    """A value for every source, [1 pos|1 ...], the same for all prompts.

    Attributes:
        n_positions: For how many positions there are values; None: they are the same everywhere.
        positions: Learned positions that stay when `input` is cut, [pos d_model]; None: they are cut too, or there are none.
    """

    embed: Tensor
    z: list[Tensor]
    mlp_out: list[Tensor]
    n_positions: int | None = None
    positions: Tensor | None = None


@torch.no_grad()
def source_values(
    transformer: Transformer, batches: Sequence[PromptPairs], intervention: Intervention, processes: Processes = ALONE
) -> SourceValues:
    """What sources are cut to by an intervention other than `patching`, given the batches of all prompts."""
    if isinstance(intervention, FixedMeans):
        return intervention.values(transformer)
    if intervention.startswith("zero"):
        values = _zeros(transformer)
    else:
        values = _means(transformer, batches, intervention == "mean-positional", processes)
    if not intervention.endswith("-tokens") or transformer.positions is None:
        return values
    if not len(transformer.positions):
        raise refusal("intervention", "a model that adds positions to the stream", "one that mixes them", "take 'zero'")
    embed, positions = values.embed, transformer.positions.to(transformer.device)
    if intervention == "mean-tokens":
        counts = sum(pad(batch.mask.sum(0), (0, len(positions) - batch.mask.shape[1])) for batch in batches)
        share = (counts.double() / counts.sum()).to(positions.device)
        embed = (embed.double() - share @ positions.double()).to(embed.dtype)
    return replace(values, embed=embed, positions=positions)


def _zeros(transformer: Transformer) -> SourceValues:
    weights = [block.attention.W_O for block in transformer.blocks]
    d_model = weights[0].shape[2]
    zeros = partial(weights[0].new_zeros, device=transformer.device)
    nothing = [zeros(1, 1, d_model) for _ in weights]
    return SourceValues(nothing[0], [zeros(1, 1, *weight.shape[:2]) for weight in weights], nothing)


def _means(
    transformer: Transformer, batches: Sequence[PromptPairs], positional: bool, processes: Processes
) -> SourceValues:
    """Means over real tokens of the corrupted prompts, summed in float64 on the CPU's behalf of any type."""
    n_positions = max(batch.corrupted.shape[1] for batch in batches)
    counts = torch.zeros(n_positions, dtype=torch.float64, device=transformer.device)
    sums: list[Tensor] = []
    for batch in processes.mine(batches):
        kept = transformer.forward(transformer.embed(batch.corrupted))
        values = [kept.embed, *kept.z, *kept.mlp_out]
        sums = sums or [value.new_zeros(n_positions, *value.shape[2:], dtype=torch.float64) for value in values]
        for total, value in zip(sums, values):
            real = batch.mask.to(value.device).reshape(*batch.mask.shape, *[1] * (value.dim() - 2))
            total[: value.shape[1]] += (value * real).sum(0, dtype=torch.float64)
        counts[: batch.mask.shape[1]] += batch.mask.sum(0)
    counts, *sums = (processes.total(total.to(counts.device)) for total in (counts, *sums))
    means = [_mean(total, counts, positional).to(transformer.dtype) for total in sums]
    n_layers = len(transformer.blocks)
    return SourceValues(means[0], means[1 : 1 + n_layers], means[1 + n_layers :], n_positions if positional else None)


def _mean(total: Tensor, counts: Tensor, positional: bool) -> Tensor:
    if not positional:
        return (total.sum(0) / counts.sum())[None, None]
    return (total / counts.clamp(min=1).reshape(-1, *[1] * (total.dim() - 1)))[None]


def constant_cut(
    transformer: Transformer, batch: PromptPairs, sources: SourceValues, intervention: Intervention, everywhere: bool
) -> Cut:
    """The streams that given source values sum to; nothing is run.

    Args:
        everywhere: The last layer holds every position, not answer rows alone.
    """
    n_pairs, n_positions = trimmed(batch.corrupted, batch).shape
    rows = answer_rows(batch)

    def spread(value: Tensor) -> Tensor:
        value = value[:, :n_positions] if value.shape[1] > 1 else value
        return value.expand(n_pairs, n_positions, *value.shape[2:])

    embed = spread(sources.embed.to(transformer.device))
    if sources.positions is not None:
        embed = embed + sources.positions[:n_positions].to(embed.device)
    kept = Cut(embed, intervention=intervention)
    resid = kept.embed
    for layer, block in enumerate(transformer.blocks):
        last = layer == len(transformer.blocks) - 1 and not everywhere
        z, attention = spread(sources.z[layer].to(transformer.device)), block.attention
        kept.attention_in.append(resid)
        z, resid = (take_rows(z, rows), take_rows(resid, rows)) if last else (z, resid)
        kept.z.append(z)
        kept.attention_sum.append(write(z, attention.W_O, attention.b_O))
        after = resid + EXACT.norm(block.attention_post_norm, kept.attention_sum[-1])
        if block.mlp is not None:
            mlp_out = spread(sources.mlp_out[layer].to(transformer.device))
            kept.mlp_in.append(resid if block.parallel else after)
            kept.mlp_out.append(take_rows(mlp_out, rows) if last else mlp_out)
            after = after + kept.mlp_out[-1]
        resid = after
    kept.final = resid
    return kept
