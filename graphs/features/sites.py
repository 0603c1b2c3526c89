"""Sites: where in a model features live, what the value is there, and what gradient it sees.

| kind | value | layer |
| --- | --- | --- |
| embed | the embedded prompt, positions included | none |
| resid_pre, resid_post | the residual stream before and after a layer | yes |
| z | the heads' mixed values, head after head | yes |
| attention_out | what attention adds to the stream, post-norm and output bias included | yes |
| neurons | what the MLP's output weights read | yes |
| experts | what each expert of a routed layer writes, its weight included, expert after expert, before a post-norm | yes |
| mlp_out | what the MLP adds to the stream, post-norm included | yes |

`embed`, `z`, `attention_out`, `neurons`, `experts` and `mlp_out` are written by a source; the residual sites cut every path.
A forward pass is asked for whole rows (no `answer_rows`), so that every value is there at every position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.model.mlp import Experts, Mlp
from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Block, Transformer

SiteKind = Literal["embed", "resid_pre", "z", "attention_out", "neurons", "experts", "mlp_out", "resid_post"]  # upwards
Reads = Literal["site", "normed", "normalised", "stream"]
PLACES = {"z": "heads", "attention_out": "attention", "neurons": "neurons", "experts": "experts", "mlp_out": "mlp"}
MLP_KINDS = ("neurons", "experts", "mlp_out")
INNER = ("z", "neurons", "experts")
"""Kinds that output weights or a sum, and perhaps a norm, stand between and the stream."""
SHORT = {"embed": "embed", "resid_pre": "r{}", "resid_post": "r{}", "z": "z{}", "attention_out": "a{}"}
SHORT |= {"neurons": "m{}.neuron", "experts": "m{}.e", "mlp_out": "m{}"}
Change = Callable[[Tensor, Tensor], Tensor]
"""Given a site's value and what its dictionary reads, [batch pos ...] each, the value to stand there."""


@dataclass(frozen=True)
class Site:
    """A place in a model.

    Raises:
        ValueError: an unknown kind, or a layer where there is none, or none where there is one.
    """

    kind: SiteKind
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(SiteKind):
            raise ValueError(f"site: expected one of {', '.join(get_args(SiteKind))}, got {self.kind!r}")
        if (self.layer is None) != (self.kind == "embed"):
            raise refusal(f"site {self.kind}", f"{'no' if self.kind == 'embed' else 'a'} layer", self.layer)

    @property
    def name(self) -> str:
        """In names of nodes: "embed", "r3" (the stream before layer 3), "z2", "a2", "m2", "m2.neuron", "m2.e"."""
        return SHORT[self.kind].format(self.layer + 1 if self.kind == "resid_post" else self.layer)

    def name_of(self, feature: int | str) -> str:
        """A feature's name: "m2/17", "m2.neuron/5"; "m2.e5" is an expert."""
        return f"{self.name}{'' if self.kind == 'experts' else '/'}{feature}"

    @property
    def place(self) -> tuple[int, str]:
        """Layer and place as `Operations.source` names them."""
        if self.kind in PLACES:
            return self.layer, PLACES[self.kind]
        return 0 if self.layer is None else self.layer + (self.kind == "resid_post"), "stream"

    @property
    def depth(self) -> tuple[int, int]:
        """Its place on the way up the model."""
        return -1 if self.layer is None else self.layer, get_args(SiteKind).index(self.kind)

    @property
    def is_writer(self) -> bool:
        """Whether a source writes the value, so that edges lead from it to all that reads the stream later."""
        return not self.kind.startswith("resid")

    def check(self, transformer: Transformer) -> None:
        """Refuse a site that a model has not."""
        n = len(transformer.blocks)
        if self.layer is not None and not 0 <= self.layer < n:
            raise ValueError(f"site {self.kind} of layer {self.layer}: {transformer.name} has the layers 0 to {n - 1}")
        if self.kind in MLP_KINDS:
            mlp = transformer.blocks[self.layer].mlp
            needed, what = {
                "neurons": (Mlp, "MLP with one layer of neurons"),
                "experts": (Experts, "layer of experts"),
            }.get(self.kind, (Mlp | Experts, "MLP"))
            if not isinstance(mlp, needed):
                raise ValueError(f"site {self.kind} of layer {self.layer}: {transformer.name} has no {what} there")


def site_of_hook(hook: str) -> Site:
    """The site of a hook's name in TransformerLens, e.g. "blocks.3.hook_mlp_out".

    Raises:
        ValueError: a hook at which there is no site.
    """
    kinds = {"hook_resid_pre": "resid_pre", "hook_resid_post": "resid_post", "hook_attn_out": "attention_out"}
    kinds |= {"attn.hook_z": "z", "hook_mlp_out": "mlp_out", "mlp.hook_out": "mlp_out", "mlp.hook_post": "neurons"}
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    if hook == "hook_embed":
        return Site("embed")
    if found is None or found[2] not in kinds:
        raise ValueError(f"hook: expected hook_embed or blocks.LAYER. and one of {', '.join(kinds)}, got {hook!r}")
    return Site(kinds[found[2]], int(found[1]))


def value_at(transformer: Transformer, kept: Activations, site: Site) -> Float[Tensor, "batch pos d_site"]:
    """The value at a site in a forward pass over whole rows."""
    layer = site.layer
    if site.kind == "embed":
        return kept.attention_in[0]
    if site.kind.startswith("resid"):
        return [*kept.attention_in, kept.final][site.place[0]]
    if site.kind == "z":
        return kept.z[layer].flatten(-2)
    block = transformer.blocks[layer]
    if site.kind == "attention_out":
        return EXACT.norm(block.attention_post_norm, kept.attention_sum[layer])
    if site.kind == "mlp_out":
        return kept.mlp_out[layer]
    return inner_value(block, site, EXACT.norm(block.mlp_norm, kept.mlp_in[layer]))


def inner_value(block: Block, site: Site, normed: Tensor, operations: Operations = EXACT) -> Tensor:
    """The values of neurons or the writes of experts, from what the MLP gets; [batch pos d_site]"""
    inner = (
        block.mlp.hidden(normed, operations)
        if site.kind == "neurons"
        else block.mlp.writes(normed, operations).flatten(-2)
    )
    return inner.to(block.device)


def read_at(block: Block, reads: Reads, mlp_in: Tensor, operations: Operations = EXACT) -> Tensor:
    """What a transcoder reads, from the stream that its MLP reads: the `stream` itself; `normalised`, before the norm's
    gain and bias; or `normed`, as the MLP gets it."""
    norm = block.mlp_norm
    if reads == "stream" or norm is None:
        return mlp_in
    return operations.norm(norm if reads == "normed" else replace(norm, weight=None, bias=None), mlp_in)


def gradient_at(
    transformer: Transformer, kept: Activations, site: Site, stream: Tensor, operations: Operations = EXACT
) -> Float[Tensor, "batch pos d_site"]:
    """The gradient at a site's value, from the gradient at the stream that it is added to.

    Args:
        kept: the values of the pass that the gradient is of.
        stream: [batch pos d_model]
        operations: those of the pass: where a post-norm follows, the gradient passes it by its rule.
    """
    if site.kind not in INNER:
        return stream
    norm, written = _before_post_norm(transformer, kept, site)
    stream = _before_norm(norm, written, stream, operations)
    if site.kind == "experts":
        return stream.repeat(1, 1, len(transformer.blocks[site.layer].mlp.W_in))
    return stream @ _output_weights(transformer, site).T.to(stream)


def in_stream(
    transformer: Transformer, kept: Activations, site: Site, change: Float[Tensor, "batch pos d_site"]
) -> Float[Tensor, "batch pos d_model"]:
    """What a change of a site's value adds to the residual stream."""
    if site.kind not in INNER:
        return change
    if site.kind == "experts":
        added = change.unflatten(-1, (len(transformer.blocks[site.layer].mlp.W_in), -1)).sum(-2)
    else:
        added = change @ _output_weights(transformer, site).to(change)
    norm, before = _before_post_norm(transformer, kept, site)
    return added if norm is None else EXACT.norm(norm, before + added) - EXACT.norm(norm, before)


def _output_weights(transformer: Transformer, site: Site) -> Float[Tensor, "d_site d_model"]:
    block = transformer.blocks[site.layer]
    return block.attention.W_O.flatten(0, 1) if site.kind == "z" else block.mlp.W_out


def _before_post_norm(transformer: Transformer, kept: Activations, site: Site) -> tuple[Norm | None, Tensor | None]:
    """The norm that follows a site inside attention or MLP, and what it reads, where there is one."""
    block = transformer.blocks[site.layer]
    if site.kind == "z":
        return block.attention_post_norm, kept.attention_sum[site.layer]
    norm = block.mlp_post_norm
    return norm, None if norm is None else block.mlp(EXACT.norm(block.mlp_norm, kept.mlp_in[site.layer]))


def _before_norm(norm: Norm | None, written: Tensor | None, gradient: Tensor, operations: Operations) -> Tensor:
    if norm is None:
        return gradient
    with torch.enable_grad():
        at = written.detach().requires_grad_()
        return torch.autograd.grad(operations.norm(norm, at), at, gradient)[0]


def changing(transformer: Transformer, changes: Mapping[tuple[Site, Reads], Change]) -> Operations:
    """Operations under which the values at sites are others; for one forward pass.

    Args:
        changes: for a site and what its dictionary reads, the change; in a site's own shape, heads flattened.
    """
    by_place: dict[tuple[int, str], list[tuple[Reads, Change]]] = {}
    for (site, reads), change in changes.items():
        by_place.setdefault(site.place, []).append((reads, change))
    seen: dict[int, Tensor] = {}

    def source(layer: int, what: str, value: Tensor) -> Tensor:
        if what == "mlp_in":
            seen[layer] = value
        for reads, change in by_place.get((layer, what), ()):
            flat = value.flatten(-2) if what in ("heads", "experts") else value
            read = flat if reads == "site" else read_at(transformer.blocks[layer], reads, seen[layer])
            value = change(flat, read).view_as(value)
        return value

    experts = frozenset(layer for layer, what in by_place if what == "experts")
    return Operations(source=source, experts=experts)
