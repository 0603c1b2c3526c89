"""What decides an answer, by name: a checkpoint, or another process, is of the same question if all of it is the same.

Weights, prompts and code enter whole, by digests. A metric is a function, whose code may stay while what it refers to
changes, so it enters by its values, and by its gradients where these are used: exactly on made-up logits of every prompt,
which are the same in every process. On the model's own logits, clean and with every edge cut, rounding differs from machine to
machine, so these values are kept with a checkpoint, and compared to the type's precision by the call that goes on (`own_values`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.graphs.files.digest import digest_of, digest_of_tensors
from edge_circuits.graphs.metrics import Metric, metric_name
from edge_circuits.graphs.model.adapter import weights_digest
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.prompts.pairs import PromptPairs, in_order
from edge_circuits.graphs.running.patching import answer_logits, clean_logits

PARTS = ("edge_circuits", *(f"edge_circuits.{part}" for part in ("graphs", "eap", "acdc", "benchmarks")))
SPREADS, LIFT = (1.0, 20.0), 15.0  # of made-up logits, and how much answers stand out: a metric may saturate
N_MADE_UP = 64


def question(
    model: nn.Module,
    transformer: Transformer,
    pairs: PromptPairs,
    metric: Metric | str | None,
    batches: list[PromptPairs],
    *,
    gradients: bool,
    **settings: object,
) -> dict[str, str]:
    """All that decides an answer, each part under its name.

    Args:
        model: The model whose weights and buffers count.
        transformer: The same, adapted.
        pairs: All prompts.
        metric: "kl" stands for itself; None: no metric is used.
        batches: How the prompts are put together.
        gradients: The metric's gradients are used.
        **settings: All other arguments, such that `repr` says what they are.
    """
    pairs.check_answers(transformer.W_U.shape[1])
    function = metric if callable(metric) else None
    return {
        "model": transformer.name,
        "n_prompts": str(len(pairs)),
        "prompts": pairs.digest,
        "graph": f"{transformer.graph}, {transformer.dtype}",
        "settings of the model": digest_of(repr(_settings(transformer))),
        "weights": weights_digest(model),
        "metric": metric if function is None else metric_name(metric),
        "metric's values": "none" if function is None else _values(transformer, pairs, metric, gradients),
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


def _settings(value: object) -> object:
    """What a model is besides its weights: numbers and words, part by part."""
    if is_dataclass(value):
        return [(field.name, _settings(getattr(value, field.name))) for field in fields(value)]
    if isinstance(value, tuple):
        return [_settings(each) for each in value]
    return value if isinstance(value, (bool, int, float, str)) else type(value).__name__


@torch.no_grad()
def own_values(
    transformer: Transformer, batches: list[PromptPairs], metric: Metric, cuts: Callable[[PromptPairs], Activations]
) -> Float[Tensor, "2 pair"]:
    """A metric on the model's own logits of all prompts: clean, and with every edge cut. float64, on the CPU."""
    clean = [_measured(metric, clean_logits(transformer, batch), batch) for batch in batches]
    cut = [_measured(metric, answer_logits(transformer, cuts(batch), batch), batch) for batch in batches]
    return torch.stack([in_order(batches, values) for values in (clean, cut)])


def _values(transformer: Transformer, pairs: PromptPairs, metric: Metric, gradients: bool) -> str:
    """A metric by its values, and its gradients if asked, on made-up logits."""
    found, generator = {}, torch.Generator("cpu").manual_seed(0)
    for start in range(0, len(pairs), N_MADE_UP):
        some = pairs[start : start + N_MADE_UP].to("cpu")
        for number, logits in enumerate(_made_up(some, transformer.W_U.shape[1], generator)):
            logits = logits.to(transformer.device, transformer.dtype).requires_grad_(gradients)
            with torch.set_grad_enabled(gradients):
                values = metric(logits, some.to(transformer.device))
            found[f"{start:9} {number}"] = _plain(values)
            if gradients and getattr(values, "requires_grad", False):
                found[f"{start:9} {number} gradient"] = torch.autograd.grad(values.sum(), logits)[0]
    return digest_of_tensors(found)


def _made_up(
    pairs: PromptPairs, d_vocab: int, generator: torch.Generator
) -> Iterator[Float[Tensor, "pair *rows d_vocab"]]:
    """Logits without a model: noise, and noise from which answers and wrong answers stand out more or less."""
    shape = (len(pairs), d_vocab) if pairs.rows is None else (*pairs.rows.shape, d_vocab)
    noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    yield from (spread * noise for spread in SPREADS)
    if pairs.rows is not None:
        return
    for choices in (pairs.answers, pairs.wrong_answers):
        if choices is not None:
            lift = LIFT * torch.rand(len(pairs), 1, generator=generator, dtype=torch.float32, device="cpu")
            noise = noise.scatter_add(1, choices.clamp(min=0), lift * (choices >= 0))
    if pairs.answers is not None:
        yield noise


def _measured(metric: Metric, logits: Tensor, pairs: PromptPairs) -> Tensor:
    return _plain(metric(logits, pairs))


def _plain(values: Tensor) -> Tensor:
    return torch.as_tensor(values).detach().flatten().double().cpu()
