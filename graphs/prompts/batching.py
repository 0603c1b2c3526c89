"""Where to divide prompts, sorted by ascending length, into batches that are padded to their own longest prompt.

The functions take the sorted lengths and return bounds: batch i is the rows from bounds[i] up to bounds[i + 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def equal_bounds(lengths: Sequence[int], batch_size: int) -> list[int]:
    """Batches of one size, with the smaller rest where it costs least padding.

    Among all divisions into batches of these sizes, some division of the sorted lengths has the fewest padded tokens,
    so only the place of the rest is open. With the rest after p full batches the padded tokens are those of p full
    batches counted from the start, of the rest, and of the full batches counted from the rest on.
    """
    n_full, rest = divmod(len(lengths), batch_size)
    before = [0, *accumulate(lengths[batch_size - 1 :: batch_size])]
    after = [0, *accumulate(reversed(lengths[rest + batch_size - 1 :: batch_size]))][::-1]
    ends = [lengths[p * batch_size + rest - 1] if rest else 0 for p in range(n_full + 1)]
    tokens = [batch_size * (before[p] + after[p]) + rest * ends[p] for p in range(n_full + 1)]
    n_before = tokens.index(min(tokens))
    sizes = [batch_size] * n_before + [rest] * (rest > 0) + [batch_size] * (n_full - n_before)
    return [0, *accumulate(sizes)]


def token_bounds(lengths: Sequence[int], batch_size: int, max_tokens: int) -> list[int]:
    """Batches filled up while they hold at most `max_tokens`, padding included, and `batch_size` prompts.

    A prompt longer than `max_tokens` is a batch of its own.
    """
    bounds = [0]
    for row, length in enumerate(lengths):
        size = row - bounds[-1] + 1
        if size > 1 and (size > batch_size or size * length > max_tokens):
            bounds.append(row)
    return [*bounds, len(lengths)]


def padding_bounds(lengths: Sequence[int], max_padding: float) -> list[int]:
    """Batches filled up while at most `max_padding` of their real tokens are added as padding."""
    bounds, real = [0], 0
    for row, length in enumerate(lengths):
        real += length
        if (row - bounds[-1] + 1) * length > (1 + max_padding) * real:
            bounds.append(row)
            real = length
    return [*bounds, len(lengths)]
