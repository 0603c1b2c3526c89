"""Feature circuits the slow way: one prompt, and a literal model whose sites' values are replaced one after the other.

A dictionary is taken as tensors, with max(0, ...) as its activation. `change` gets a site's kind, its layer, its value and,
for `mlp_out`, the stream that the MLP reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from references.literal import Literal
from torch import Tensor

Place = tuple[str, int | None]
Change = Callable[[Place, Tensor], Tensor]
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""W_enc, b_enc, W_dec, b_dec"""


def forward(model: Literal, tokens: list[int], change: Change) -> Tensor:
    """Logits [pos d_vocab] of a model in which each site's value is what `change` makes of it."""
    stream = change(("embed", None), model.embed(tokens))
    for layer in range(model.n_layers):
        stream = change(("resid_pre", layer), stream)
        written = sum(model.head(layer, head, stream, stream, stream) for head in range(model.n_heads))
        attention_out = change(("attention_out", layer), model.attention_out(layer, written))
        read = stream if model.parallel else stream + attention_out
        stream = stream + attention_out
        if model.mlps:
            stream = stream + change(("mlp_out", layer), model.mlp(layer, read))
    return model.logits(change(("resid_post", model.n_layers - 1), stream))


def site_values(model: Literal, tokens: list[int]) -> dict[Place, Tensor]:
    """The value at each site [pos d_model] of the plain model."""
    found: dict[Place, Tensor] = {}

    def keep(place: Place, value: Tensor) -> Tensor:
        found[place] = value
        return value

    forward(model, tokens, keep)
    return found


def encode(weights: Weights, value: Tensor) -> Tensor:
    """max(0, x W_enc + b_enc)"""
    return torch.clamp(value @ weights[0] + weights[1], min=0)


def decode(weights: Weights, features: Tensor) -> Tensor:
    """f W_dec + b_dec"""
    return features @ weights[2] + weights[3]


def run(
    model: Literal,
    clean: list[int],
    references: Mapping[Place, tuple[Tensor, Tensor]],
    dictionaries: Mapping[Place, Weights],
    kept: Mapping[Place, tuple[Tensor, Tensor]],
) -> Tensor:
    """Logits of a circuit: x = dec(m f + (1 - m) f_cut) + m_e e + (1 - m_e) e_cut, f and e of the value as it stands.

    Args:
        references: f_cut and e_cut of each place.
        kept: the masks m [pos n] and m_e [pos 1], 1 where kept.
    """

    def change(place: Place, value: Tensor) -> Tensor:
        if place not in dictionaries:
            return value
        weights, (mask, error_mask), (cut, error_cut) = dictionaries[place], kept[place], references[place]
        features = encode(weights, value)
        error = value - decode(weights, features)
        features = mask * features + (1 - mask) * cut
        return decode(weights, features) + error_mask * error + (1 - error_mask) * error_cut

    return forward(model, clean, change)


def marks_effects(
    model: Literal,
    clean: list[int],
    corrupted: list[int],
    metric: Callable[[Tensor], Tensor],
    dictionaries: Mapping[Place, Weights],
) -> dict[Place, tuple[Tensor, Tensor]]:
    """Indirect effects of features [pos n] and errors [pos] by attribution patching, as Marks et al. 2024 substitute them.

    Each site's value is replaced by dec(f) + e, f a variable and e a number; the gradient that arrives at the replaced value
    is handed on to what it replaced.
    """
    other, leaves = site_values(model, corrupted), {}

    def change(place: Place, value: Tensor) -> Tensor:
        if place not in dictionaries:
            return value
        weights = dictionaries[place]
        features = encode(weights, value.detach()).requires_grad_()
        error = (value.detach() - decode(weights, features.detach())).requires_grad_()
        leaves[place] = (features, error)
        return decode(weights, features) + error + (value - value.detach())

    value = metric(forward(model, clean, change))
    flat = [leaf for pair in leaves.values() for leaf in pair]
    slopes = iter(torch.autograd.grad(value, flat))
    effects = {}
    for place, (features, error) in leaves.items():
        cut = encode(dictionaries[place], other[place])
        error_cut = other[place] - decode(dictionaries[place], cut)
        of_features = (cut - features.detach()) * next(slopes)
        effects[place] = of_features, ((error_cut - error.detach()) * next(slopes)).sum(1)
    return effects


def integrated_effects(
    model: Literal,
    clean: list[int],
    corrupted: list[int],
    metric: Callable[[Tensor], Tensor],
    weights: Weights,
    at: Place,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Integrated gradients of one site, features and error moved together from clean to corrupted, the left rule."""
    (f, e), (f_cut, e_cut) = (_taken_apart(model, tokens, weights, at) for tokens in (clean, corrupted))
    of_features, of_error = mean_slopes(model, clean, corrupted, metric, weights, at, steps)
    return (f_cut - f) * of_features, ((e_cut - e) * of_error).sum(1)


def mean_slopes(
    model: Literal,
    clean: list[int],
    corrupted: list[int],
    metric: Callable[[Tensor], Tensor],
    weights: Weights,
    at: Place,
    steps: int,
) -> list[Tensor]:
    """The metric's mean derivative in features and error of a site on the way from clean to corrupted, the left rule."""
    ends = [_taken_apart(model, tokens, weights, at) for tokens in (clean, corrupted)]
    slopes = [torch.zeros_like(each) for each in ends[0]]
    for step in range(steps):
        share = step / steps
        leaves = [((1 - share) * now + share * cut).requires_grad_() for now, cut in zip(*ends)]

        def change(place: Place, value: Tensor) -> Tensor:
            return decode(weights, leaves[0]) + leaves[1] if place == at else value

        for total, slope in zip(slopes, torch.autograd.grad(metric(forward(model, clean, change)), leaves)):
            total += slope / steps
    return slopes


def _taken_apart(model: Literal, tokens: list[int], weights: Weights, at: Place) -> tuple[Tensor, Tensor]:
    value = site_values(model, tokens)[at]
    features = encode(weights, value)
    return features, value - decode(weights, features)


def edge_effects(
    model: Literal,
    clean: list[int],
    corrupted: list[int],
    metric: Callable[[Tensor], Tensor],
    dictionaries: Mapping[Place, Weights],
    source: Place,
    destination: Place,
    steps: int = 0,
) -> Tensor:
    """Effects [source feature, pos, destination feature] of an MLP's or attention's features on those of a later one.

    The destination's layer reads a stream of its own, equal to the model's, to which the sources' writes are added with
    strengths; a feature's value there goes on into the metric with the slope that the metric has in it, or its mean over
    `steps` points of the way to the corrupted prompt's features and error (integrated gradients).
    """
    values, other = site_values(model, clean), site_values(model, corrupted)
    kind, layer = destination
    stream = values[("resid_pre", layer)]
    if kind == "mlp_out" and not model.parallel:
        stream = stream + values[("attention_out", layer)]
    f = encode(dictionaries[source], values[source])
    change = encode(dictionaries[source], other[source]) - f
    effects = torch.zeros(f.shape[1], len(f), dictionaries[destination][2].shape[0], dtype=torch.float64)
    if steps:
        slopes = mean_slopes(model, clean, corrupted, metric, dictionaries[destination], destination, steps)[0]
    else:
        slopes = _slopes(model, clean, metric, dictionaries[destination], destination)
    for feature in range(f.shape[1]):
        strengths = torch.zeros(len(f), 1, dtype=torch.float64, requires_grad=True)
        moved = stream + strengths * change[:, feature : feature + 1] * dictionaries[source][2][feature]
        if kind == "mlp_out":
            value = model.mlp(layer, moved)
        else:
            value = model.attention_out(
                layer, sum(model.head(layer, h, moved, moved, moved) for h in range(model.n_heads))
            )
        out = encode(dictionaries[destination], value)
        for into in range(out.shape[1]):
            worth = (out[:, into] * slopes[:, into]).sum()
            effects[feature, :, into] = torch.autograd.grad(worth, strengths, retain_graph=True)[0][:, 0]
    return effects


def _slopes(
    model: Literal, tokens: list[int], metric: Callable[[Tensor], Tensor], weights: Weights, at: Place
) -> Tensor:
    """The metric's derivative in each feature of a site: [pos n]"""
    values = site_values(model, tokens)[at]
    leaf = encode(weights, values).requires_grad_()
    error = values - decode(weights, leaf.detach())

    def change(place: Place, value: Tensor) -> Tensor:
        return decode(weights, leaf) + error if place == at else value

    return torch.autograd.grad(metric(forward(model, tokens, change)), leaf)[0]
