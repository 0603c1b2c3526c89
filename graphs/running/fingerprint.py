"""What decides an answer, by name: a checkpoint, or another process, is of the same question if all of it is the same.

Weights, prompts and code enter whole, by digests. A metric is a function, whose code may stay while what it refers to
changes, so it enters by its values: exactly on made-up logits of every prompt, which are the same in every process, and to
three digits on the model's own logits of the first prompts, clean and with every edge cut to the corrupted prompt.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_circuits.graphs.files.digest import digest_of, digest_of_tensors
from edge_circuits.graphs.metrics import Metric, metric_name
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.patching import answer_rows, trimmed

PARTS = ("edge_circuits", *(f"edge_circuits.{part}" for part in ("graphs", "eap", "acdc", "benchmarks")))
SPREADS = (1.0, 20.0)  # of made-up logits: a metric may saturate
N_MADE_UP, N_FIRST = 64, 8


def question(
    model: nn.Module,
    transformer: Transformer,
    pairs: PromptPairs,
    metric: Metric | str | None,
    batches: list[PromptPairs],
    **settings: object,
) -> dict[str, str]:
    """All that decides an answer, each part under its name.

    Args:
        model: The model whose weights and buffers count.
        transformer: The same, adapted.
        pairs: All prompts.
        metric: "kl" stands for itself; None: no metric is used.
        batches: How the prompts are put together.
        **settings: All other arguments, such that `repr` says what they are.
    """
    named = {f"weight {name}": tensor for name, tensor in model.named_parameters()}
    named |= {f"buffer {name}": tensor for name, tensor in model.named_buffers()}
    return {
        "model": transformer.name,
        "n_prompts": str(len(pairs)),
        "prompts": pairs.digest,
        "graph": f"{transformer.graph}, {transformer.dtype}",
        "weights": digest_of_tensors(named),
        "metric": metric if metric is None or isinstance(metric, str) else metric_name(metric),
        "metric's values": "none" if metric is None or isinstance(metric, str) else _values(transformer, pairs, metric),
        "batches": repr([list(batch.clean.shape) for batch in batches]),
        "versions": ", ".join(f"{name} {version(name)}" for name in ("edge-circuits", "torch", "transformer-lens")),
        "code": code_digest(),
        **{name: repr(value) for name, value in settings.items()},
    }


def differing(asked: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names under which two questions differ."""
    return [name for name in {**asked, **other} if asked.get(name) != other.get(name)]


@cache
def code_digest() -> str:
    """Of the library's own code, all of its parts."""
    files = sorted((part, path) for part in PARTS for path in _sources(part))
    return digest_of(*(f"{part} {path.name}\n{path.read_text()}" for part, path in files))


def _sources(part: str) -> Iterator[Path]:
    for folder in importlib.util.find_spec(part).submodule_search_locations:
        yield from Path(folder).rglob("*.py") if part != PARTS[0] else Path(folder).glob("*.py")


@torch.no_grad()
def _values(transformer: Transformer, pairs: PromptPairs, metric: Metric) -> str:
    """A metric by its values on made-up logits, and on the model's own."""
    made_up = {}
    generator = torch.Generator("cpu").manual_seed(0)
    size = transformer.W_U.shape[1]
    for start in range(0, len(pairs), N_MADE_UP):
        some = pairs[start : start + N_MADE_UP].to(transformer.device)
        noise = torch.randn(len(some), size, generator=generator, dtype=torch.float32, device="cpu")
        for spread in SPREADS:
            logits = (spread * noise).to(transformer.device, transformer.dtype)
            made_up[f"{start:9} {spread}"] = _measured(metric, logits, some)
    first = pairs[:N_FIRST].to(transformer.device)
    own = [_measured(metric, _logits(transformer, tokens, first), first) for tokens in (first.clean, first.corrupted)]
    size = max(1e-9, max(float(each.abs().max()) for each in own))
    rounded = [[round(value / size, 3) + 0.0 for value in each.tolist()] for each in own]
    return f"{digest_of_tensors(made_up)}; {size:.2g} times {digest_of(repr(rounded))}"


def _measured(metric: Callable[[Tensor, PromptPairs], Tensor], logits: Tensor, pairs: PromptPairs) -> Tensor:
    return torch.as_tensor(metric(logits, pairs)).detach().flatten().double().cpu()


def _logits(transformer: Transformer, tokens: Tensor, pairs: PromptPairs) -> Tensor:
    kept = transformer.forward(transformer.embed(trimmed(tokens, pairs)), answer_rows(pairs))
    return transformer.unembed(kept.final[:, 0])
