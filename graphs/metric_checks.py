"""A metric of a user's own gives each prompt a value that hangs on that prompt alone.

Prompts come to a metric in batches, sorted by length, some of them several times. Values that are taken of a whole batch (a mean,
a rank), or answers that are kept beside `pairs` in an order of their own, would give other scores than were asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.model.transformer import Transformer


@torch.no_grad()
def check_each_prompt_alone(metric: Callable, name: str, transformer: Transformer, pairs: PromptPairs) -> None:
    """Ask a metric about two prompts, the last one first, together and one by one, with random logits.

    Raises:
        ValueError: The values differ, or the metric takes all prompts and not two of them.
    """
    if len(pairs) < 2:
        return
    chosen = pairs[[len(pairs) - 1, 0]]
    rows = () if chosen.rows is None else chosen.rows.shape[1:]
    logits = torch.randn(2, *rows, transformer.W_U.shape[1], generator=torch.Generator().manual_seed(0), device="cpu")
    logits = logits.to(transformer.device, transformer.dtype)

    def values(of: list[int]) -> Tensor:
        some = chosen[of].to(transformer.device)
        own = logits[of] if some.rows is None else logits[of][:, : some.rows.shape[1]]
        return metric(own.clone(), some)

    remedy = "prompts come in batches sorted by length: take answers from the `pairs` that the metric is given"
    expected = "a value for each prompt that hangs on that prompt alone"
    try:
        together, alone = values([0, 1]), [values([row]) for row in (0, 1)]
    except (IndexError, RuntimeError) as error:
        metric(logits[[0] * len(pairs)], pairs.to(transformer.device))  # a trouble of its own is told as it is
        raise refusal(f"metric {name}", expected, f"{type(error).__name__} for 2 of the prompts", remedy) from error
    if any(not isinstance(each, Tensor) or each.shape != (n,) for each, n in zip((together, *alone), (2, 1, 1))):
        return  # which is refused where the metric is measured
    near = torch.finfo(transformer.dtype).eps ** 0.5
    if not torch.allclose(together.double(), torch.cat(alone).double(), rtol=near, atol=near, equal_nan=True):
        got = f"{together.tolist()} for two prompts, {torch.cat(alone).tolist()} for each of them alone"
        raise refusal(f"metric {name}", expected, got, remedy)
