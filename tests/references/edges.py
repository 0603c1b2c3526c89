"""Edge attribution and circuit runs, the slow way: every destination's input is a sum written out source by source.

One prompt at a time, in float64, on a literal model. An edge is a name, `source->destination`; `read` says what a
destination gets from a source. This is the definition of Syed, Rager and Conmy 2023 (attribution) and of Conmy et
al. 2023 (patching every edge outside the circuit), without any rearrangement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from references.literal import Literal
from torch import Tensor

Read = Callable[[str, Tensor, str], Tensor]
"""(source, its value [pos d_model], destination) to what the destination gets: [pos d_model]"""


@dataclass(frozen=True)
class Prompt:
    """A pair and where its answer is read."""

    clean: list[int]
    corrupted: list[int]
    position: int


def forward(model: Literal, tokens: list[int], read: Read, grouped: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    """All source values and the logits [pos d_vocab] when each destination reads its own sum.

    Args:
        grouped: key-value heads are the <k> and <v> destinations, not query heads.
    """
    values = {"input": model.embed(tokens)}

    def stream(destination: str, n_layers: int, with_heads_of: int | None = None) -> Tensor:
        """The input of a destination after some layers, and perhaps the heads of one more."""
        total = read("input", values["input"], destination)
        for layer in range(n_layers):
            total = total + attention(destination, layer)
            if model.mlps:
                total = total + read(f"m{layer}", values[f"m{layer}"], destination)
        return total if with_heads_of is None else total + attention(destination, with_heads_of)

    def attention(destination: str, layer: int) -> Tensor:
        heads = [f"a{layer}.h{head}" for head in range(model.n_heads)]
        return model.attention_out(layer, sum(read(head, values[head], destination) for head in heads))

    for layer in range(model.n_layers):
        for head in range(model.n_heads):
            shared = head // (model.n_heads // model.n_kv_heads) if grouped else head
            inputs = [
                stream(f"a{layer}.h{index}<{part}>", layer)
                for part, index in (("q", head), ("k", shared), ("v", shared))
            ]
            values[f"a{layer}.h{head}"] = model.head(layer, head, *inputs)
        if model.mlps:
            values[f"m{layer}"] = model.mlp(layer, stream(f"m{layer}", layer, None if model.parallel else layer))
    return values, model.logits(stream("logits", model.n_layers))


def logits(model: Literal, tokens: list[int]) -> Tensor:
    """The plain model: [pos d_vocab]"""
    return forward(model, tokens, lambda source, value, destination: value)[1]


def source_values(model: Literal, tokens: list[int]) -> dict[str, Tensor]:
    """What each source writes in the plain model: [pos d_model] each."""
    return forward(model, tokens, lambda source, value, destination: value)[0]


def cut_values(model: Literal, prompts: Sequence[Prompt], intervention: str) -> list[dict[str, Tensor]]:
    """For each prompt, what a cut edge gives for each source."""
    values = [source_values(model, prompt.corrupted) for prompt in prompts]
    if intervention == "patching":
        return values
    cut: list[dict[str, Tensor]] = [{} for _ in prompts]
    for source in values[0]:
        every_token = torch.cat([value[source] for value in values])
        for row in range(len(prompts)):
            at_position = []
            for position in range(len(values[row][source])):
                there = [value[source][position] for value in values if len(value[source]) > position]
                choices = {
                    "zero": 0 * there[0],
                    "mean": every_token.mean(0),
                    "mean-positional": sum(there) / len(there),
                }
                at_position.append(choices[intervention])
            cut[row][source] = torch.stack(at_position)
    return cut


def edge_attribution(
    model: Literal,
    prompts: Sequence[Prompt],
    metric: Callable[[Tensor, int], Tensor],
    intervention: str = "patching",
    grouped: bool = False,
) -> dict[str, float]:
    """Each edge's score, the mean over prompts: the derivative of the metric to a strength by which the edge is cut.

    Args:
        metric: logits at the answer position [d_vocab] and the prompt's row to a number.
    """
    cuts = cut_values(model, prompts, intervention)
    totals: dict[str, float] = {}
    for row, prompt in enumerate(prompts):
        clean, cut = source_values(model, prompt.clean), cuts[row]
        strengths: dict[str, Tensor] = {}

        def read(source: str, value: Tensor, destination: str) -> Tensor:
            edge = f"{source}->{destination}"
            strengths.setdefault(edge, torch.zeros((), dtype=torch.float64, requires_grad=True))
            return value + strengths[edge] * (cut[source] - clean[source])

        _, out = forward(model, prompt.clean, read, grouped)
        slopes = torch.autograd.grad(
            metric(out[prompt.position], row), list(strengths.values()), materialize_grads=True
        )
        for edge, slope in zip(strengths, slopes):
            totals[edge] = totals.get(edge, 0.0) + slope.item() / len(prompts)
    return totals


def circuit_logits(
    model: Literal,
    prompts: Sequence[Prompt],
    kept: Mapping[str, bool | Tensor],
    intervention: str = "patching",
    grouped: bool = False,
) -> Tensor:
    """Logits at the answer positions [pair d_vocab] of a circuit.

    Args:
        kept: whether an edge is kept, or how much of it (a tensor); an edge that is not named is cut.
    """
    out = []
    for prompt, cut in zip(prompts, cut_values(model, prompts, intervention)):

        def read(source: str, value: Tensor, destination: str) -> Tensor:
            share = kept.get(f"{source}->{destination}", False)
            if isinstance(share, Tensor):
                return share * value + (1 - share) * cut[source]
            return value if share else cut[source]

        out.append(forward(model, prompt.clean, read, grouped)[1][prompt.position])
    return torch.stack(out)
