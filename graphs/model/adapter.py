"""Reads a TransformerLens model into a `Transformer`, the one door between its names and ours.

`adapt(model)` takes a `TransformerBridge` (TransformerLens 4), which `edge_circuits.graphs.model.transformer_bridge` reads,
or a `HookedTransformer` (TransformerLens 2 and 3), which `edge_circuits.graphs.model.hooked_transformer` reads. Weights
are views of the model's own, never copies to be edited; the model is not hooked or changed. On first sight of a model,
and again whenever it may compute something else (`edge_circuits.graphs.model.recognition`), its logits are compared with
the adapted ones on a few tokens, so what is not known is refused instead of silently wrong.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.files.digest import digest_of_tensors
from edge_circuits.graphs.graph import Graph, KVDestinations
from edge_circuits.graphs.model import hooked_transformer, transformer_bridge
from edge_circuits.graphs.model.mlp import Experts
from edge_circuits.graphs.model.recognition import Make, foreign
from edge_circuits.graphs.model.supported import is_hooked_transformer
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.model.weights import Reader
from edge_circuits.graphs.surroundings import in_plain_surroundings

_checked: weakref.WeakKeyDictionary[nn.Module, Make] = weakref.WeakKeyDictionary()


@in_plain_surroundings
def adapt(model: nn.Module, *, trainable: bool = False, kv_destinations: KVDestinations = "query-head") -> Transformer:
    """A model as plain tensors.

    Args:
        model: a `TransformerBridge` or a `HookedTransformer`; it is only read.
        trainable: keep the weights' gradients, so that results can be differentiated with respect to them.
        kv_destinations: "query-head" gives each query head its own <k> and <v> destination, "kv-head" one for
            each key-value head.

    Raises:
        ValueError: not a model of TransformerLens, an architecture, version or setting that is not supported,
            offloaded weights, or logits that differ from the model's own.
    """
    if type(model).__name__ == "OptimizedModule":  # torch.compile(model): the same modules and weights
        model = model._orig_mod
    graph, read = Graph.from_model(model, kv_destinations), Reader(trainable)
    _check_weights(model)
    reads = hooked_transformer if is_hooked_transformer(model) else transformer_bridge
    transformer = reads.transformer_of(model, graph, read)
    others = list(foreign(model, read))
    if others or _checked.get(model) != Make(model):
        _check_finite(model)
        _check_logits(model, transformer, reads.logits_of, others)
        _checked[model] = Make(model)  # a model may set hooks of its own on its first pass
    return replace(transformer, digest=partial(weights_digest, model))


def weights_digest(model: nn.Module) -> str:
    """The digest of a model's weights and buffers."""
    named = {f"weight {name}": tensor for name, tensor in model.named_parameters()}
    return digest_of_tensors(named | {f"buffer {name}": tensor for name, tensor in model.named_buffers()})


def _check_weights(model: nn.Module) -> None:
    """Refuse quantised weights, which are not what they multiply by, offloaded ones, which come while the model runs, and those without gradients."""
    held = ((name, x) for name, x in model.named_parameters() if not x.is_floating_point() or x.element_size() == 1)
    name, weight = next(held, (None, None))
    if weight is not None:
        settings = getattr(getattr(model.original_model, "config", None), "quantization_config", None)
        settings = settings if isinstance(settings, dict) else getattr(settings, "to_dict", dict)()
        by = f", quantised by {settings['quant_method']}" if "quant_method" in settings else ""
        got = f"{weight.dtype} in {_plain_name(name)}{by}"
        raise refusal("weights", "floating-point numbers", got, "load the model without quantisation, or dequantised")
    away = next((name for name, weight in model.named_parameters() if weight.is_meta), None)
    if away is not None:
        raise ValueError(
            f"expected every weight on a device that computes, got {_plain_name(away)} on 'meta': "
            "it is offloaded, to disk or to the CPU. Load the model with a device_map of GPUs alone (or of 'cpu' alone): "
            "spread it over more of them, or load it in bfloat16."
        )
    made = next((name for name, weight in model.named_parameters() if weight.is_inference()), None)
    if made is not None:
        remedy = "load the model outside it, or clone its weights there"
        raise refusal("model", "weights made outside torch.inference_mode", _plain_name(made), remedy)


def _plain_name(name: str) -> str:
    return name.replace("_original_component.", "")


def _check_finite(model: nn.Module) -> None:
    """Refuse weights that would make some logits NaN, whichever tokens reach them."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not weight.isfinite().all():
            n_bad = int((~weight.isfinite()).sum())
            given = f"{n_bad} NaN or infinite in {_plain_name(name)}"
            raise refusal("model", "finite weights", given, "load it again, or in a wider dtype")


@torch.no_grad()
def _check_logits(
    model: nn.Module, transformer: Transformer, logits_of: Callable[[nn.Module, Tensor], Tensor], others: Sequence[str]
) -> None:
    """Refuse a model whose own logits the adapted one does not give, on a few tokens.

    Where tokens are routed, a rounding can send one to another expert, so that the middle token counts, not the worst.
    """
    n_tokens = min(12, transformer.n_ctx or 12)
    d_vocab = min(model.cfg.d_vocab, transformer.W_U.shape[1])
    tokens = (torch.arange(2 * n_tokens, device=transformer.device).view(2, -1) * 7919 + 1) % d_vocab
    expected = logits_of(model, tokens).to(transformer.device)
    kept = transformer.forward(transformer.embed(tokens))
    ours = transformer.unembed(kept.final)
    spread = (expected - expected.mean(-1, keepdim=True)).abs().max().item()
    error = (ours - expected).abs().amax(-1).flatten()
    rounding_picks_experts = any(isinstance(block.mlp, Experts) for block in transformer.blocks)
    error = (error.median() if rounding_picks_experts else error.max()).item()
    tolerance = {torch.float64: 1e-4, torch.float32: 1e-3}.get(transformer.dtype, 0.1)
    if not error <= tolerance * max(spread, 1e-6):
        raise ValueError(
            f"{transformer.name}: the logits computed from its weights differ from the model's own by {error:.2g} "
            f"(largest logit {spread:.2g}). {_suspected(others)}"
        )


def _suspected(others: Sequence[str]) -> str:
    """What may make the logits others, and what to do."""
    if not others:
        return "What it computes is changed by a setting that is not supported; report the model's configuration."
    shown = ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
    return f"It has {shown}: merge adapters into the weights (merge_and_unload), remove hooks with model.reset_hooks()."
