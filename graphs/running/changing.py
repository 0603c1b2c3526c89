"""The positions at which values can change: from the first token on in which the prompts of a pair differ.

Attention looks back alone, so that before this token every node has one value in every run under patching, whichever edges are cut.
These positions are not run again: later ones meet the keys and values that the corrupted run has there.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from edge_circuits.graphs.model.transformer import Transformer, take_rows
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.patching import Cut, Intervention, answer_rows, equals_a_run, trimmed


def n_changing(pairs: PromptPairs, intervention: Intervention) -> Int[Tensor, " batch"]:
    """How many positions of each prompt a run with cut edges computes, by itself: those after its answer never matter."""
    ends = pairs.positions + 1
    return ends - _starts(pairs) if equals_a_run(intervention) else ends


def _starts(pairs: PromptPairs) -> Int[Tensor, " batch"]:
    """The first position of each pair where values can change, or where an answer is read."""
    differ = trimmed(pairs.clean != pairs.corrupted, pairs)
    first = torch.where(differ.any(1), differ.int().argmax(1), differ.shape[1])
    return first.minimum(answer_rows(pairs).amin(1))


def changing_rows(pairs: PromptPairs) -> Int[Tensor, "batch row"]:
    """As many positions of each prompt of a batch, those where values can change among them, up to its last answer at least."""
    starts, n_positions = _starts(pairs), int(pairs.positions.max()) + 1
    n_rows = int((pairs.positions + 1 - starts).max())
    if n_rows == answer_rows(pairs).shape[1]:  # values at as many positions could not be told from those at the answers
        n_rows = min(n_rows + 1, n_positions)
    return starts.clamp(max=n_positions - n_rows)[:, None] + torch.arange(n_rows, device=starts.device)


def since_changed(transformer: Transformer, batch: PromptPairs, cut: Cut) -> Cut:
    """The cut values at the positions where values can change, `Cut.rows`, with the keys and values before them, `Cut.past`.

    Unchanged where that is everywhere, where it has been done, or what is cut comes from no run (`zero` and means).
    """
    if not cut.k or cut.rows is not None:
        return cut
    rows, n_answers = changing_rows(batch).to(cut.embed.device), answer_rows(batch).shape[1]
    if rows.shape[1] == cut.embed.shape[1]:
        return cut
    each = zip(transformer.blocks, cut.k, cut.v)
    past = tuple(block.attention.past(k, v, rows[:, 0]) for block, k, v in each)
    return replace(cut.each(lambda x: x if x.shape[1] == n_answers else take_rows(x, rows)), rows=rows, past=past)
