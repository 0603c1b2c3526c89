"""Dictionaries: each activation against its formula, and what is refused."""

from __future__ import annotations

import pytest
import torch
from dictionaries import ACTIVATIONS, random_dictionary
from models import tiny

from edge_circuits.graphs.features.dictionary import Coordinates, Dictionary, heads, neurons
from edge_circuits.graphs.features.sites import Site

SITE = Site("mlp_out", 1)
X = torch.randn(5, 7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def one_by_one(dictionary: Dictionary, x: torch.Tensor) -> torch.Tensor:
    """The features of one vector, from the formulas."""
    p = x @ dictionary.W_enc + dictionary.b_enc
    if dictionary.activation in ("topk", "topk-any"):
        largest = sorted(p.tolist())[-dictionary.k :]
        signed = dictionary.activation == "topk-any"
        return torch.stack([v if v.item() in largest and (signed or v > 0) else 0 * v for v in p])
    if dictionary.activation == "gated":
        scale, b_gate = dictionary.gate
        magnitude = (x @ (dictionary.W_enc * scale) + dictionary.b_enc).clamp(min=0)
        return magnitude * (x @ dictionary.W_enc + b_gate > 0)
    if dictionary.activation == "jumprelu":
        return p.clamp(min=0) * (p > dictionary.threshold)
    return p if dictionary.activation == "linear" else p.clamp(min=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_follow_their_formula(activation: str) -> None:
    dictionary = random_dictionary(SITE, 8, activation=activation)
    features = dictionary.encode(X)
    for row, place in ((0, 0), (4, 6)):
        assert torch.allclose(features[row, place], one_by_one(dictionary, X[row, place]), atol=1e-12)
    centred = random_dictionary(SITE, 8, activation=activation, centred=True)
    assert torch.allclose(centred.encode(X), dictionary.encode(X - dictionary.b_dec), atol=1e-12)
    assert torch.allclose(
        dictionary.decode(features[0, 0]),
        dictionary.b_dec + sum(value * row for value, row in zip(features[0, 0], dictionary.W_dec)),
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalise", ["none", "layer_norm", "unit_norm"])
def test_magnitudes_have_the_derivative_of_the_features(activation: str, normalise: str) -> None:
    dictionary = random_dictionary(SITE, 8, activation=activation, normalise=normalise)
    columns, weight = torch.tensor([2, 5, 11]), torch.randn(3, dtype=torch.float64)
    whole, some = (X.clone().requires_grad_() for _ in range(2))
    features = dictionary.encode(whole)
    chosen = dictionary.magnitudes(some, columns, features[..., columns] != 0)
    assert torch.allclose(chosen, features[..., columns], atol=1e-12)
    (features[..., columns] @ weight).sum().backward()
    (chosen @ weight).sum().backward()
    assert torch.allclose(whole.grad, some.grad, atol=1e-12)


def test_normalised_features_are_in_the_units_of_the_site() -> None:
    plain = random_dictionary(SITE, 8)
    for normalise in ("layer_norm", "unit_norm"):
        dictionary = random_dictionary(SITE, 8, normalise=normalise, centred=True)
        x = X[0, 0]
        shifted = x - x.mean() if normalise == "layer_norm" else x
        spread = shifted.std() if normalise == "layer_norm" else shifted.norm() / 8**0.5
        inside = shifted / (spread + (1e-5 if normalise == "layer_norm" else 0)) - plain.b_dec
        assert torch.allclose(dictionary.encode(X)[0, 0], plain.encode(inside) * spread, atol=1e-12)


def test_neurons_and_heads_are_the_coordinates_of_their_sites() -> None:
    for kind, width in (("gpt2", 128), ("llama", 48)):
        found = neurons(tiny(kind).model)
        assert [(each.site, each.n_features) for each in found] == [(Site("neurons", n), width) for n in range(3)]
        assert [(each.site.kind, each.n_features, each.width) for each in heads(tiny(kind).model)] == [("z", 4, 8)] * 3
    with pytest.raises(ValueError, match="no MLP with one layer of neurons"):
        neurons(tiny("attention-only").model)


def test_groups_of_coordinates_are_written_and_measured_together() -> None:
    groups = Coordinates(Site("z", 0), 4, 2)
    gradient, share = torch.randn_like(X), torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    effects = groups.effects(X, gradient)
    assert torch.allclose(effects[..., 1], (X * gradient)[..., 2:4].sum(-1))
    written = groups.written(X, share)
    assert torch.equal(written[..., :2], X[..., :2]) and not written[..., 2:6].any()


def test_what_does_not_fit_is_refused(without_type_checks: None) -> None:
    good = random_dictionary(SITE, 8)
    parts = (good.W_enc, good.b_enc, good.W_dec, good.b_dec)
    for settings, message in (
        (dict(activation="relu6"), "expected an activation of relu"),
        (dict(activation="jumprelu"), "threshold does not go with activation 'jumprelu'"),
        (dict(threshold=torch.ones(20)), "threshold does not go with activation 'relu'"),
        (dict(activation="jumprelu", threshold=torch.ones(3)), r"finite threshold of shape \(20,\), got \(3,\)"),
        (dict(activation="jumprelu", threshold=-torch.ones(20)), "thresholds from 0 on, got -1"),
        (dict(activation="topk", k=21), "k from 1 to 20, got 21"),
        (dict(reads="normed", centred=True), "a transcoder reads 'normed' and writes mlp_out"),
    ):
        with pytest.raises(ValueError, match=message):
            Dictionary(SITE, *parts, **settings)
    with pytest.raises(ValueError, match="finite W_dec"):
        Dictionary(SITE, good.W_enc, good.b_enc, good.W_dec * torch.nan, good.b_dec)
    with pytest.raises(ValueError, match="it encodes 8 numbers and decodes 9"):
        random_dictionary(SITE, 8, d_site=9)
