"""How many edges to try at a time.

n edges are tried in one call as if the earlier ones of them were cut; the call decides all of them up to the first that
stays. If an edge is cut with probability q, a call decides (1 - q^n) / (1 - q) edges on average, at the price of n
candidates and a fixed part. The n of most decisions for the price is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST = 32
WINDOW = 64  # recent decisions from which q is estimated


def stack_size(kept: Sequence[bool], n_moved: int, most: int = MOST) -> int:
    """How many edges to try next.

    Args:
        kept: Of the edges tried so far, whether they stay; only the recent ones count.
        n_moved: How many nodes a candidate runs. The fewer, the more the fixed part of a call weighs; how much was
            measured on models of 0.1 and 100 million parameters.
        most: A limit.
    """
    recent = kept[-WINDOW:]
    cut = 1 - (sum(recent) + 1) / (len(recent) + 4)
    fixed = 0.5 + 30 / max(n_moved, 3)
    return max(range(1, min(most, MOST) + 1), key=lambda n: (1 - cut**n) / (fixed + n))
