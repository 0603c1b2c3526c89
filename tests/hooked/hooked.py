"""HookedTransformers of TransformerLens 2 and 3; with version 4, which has none, the test file that imports this is skipped."""

from __future__ import annotations

import importlib
from typing import Any

import families
import pytest
import torch
from torch import nn

if not families.HAS_HOOKED_TRANSFORMER:
    pytest.skip(
        "TransformerLens 4 has no HookedTransformer; `make test-tl2 test-tl3` tests it", allow_module_level=True
    )

from transformer_lens import HookedTransformer, HookedTransformerConfig


def empty(**settings: Any) -> HookedTransformer:
    """A HookedTransformer of the tests' shape with weights of its own making."""
    defaults = families.SHAPE | dict(seed=0, device="cpu")
    return HookedTransformer(HookedTransformerConfig(**(defaults | settings))).eval()


def random(**settings: Any) -> HookedTransformer:
    """A HookedTransformer with noise in all its weights, biases of gated MLPs too."""
    model = empty(**settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(families.noise(name, parameter.shape) + (1.0 if name.endswith(".w") else 0.0))
    return model


def hooked(kind: str, **settings: Any) -> HookedTransformer:
    """The model of a kind of `families`, Hugging Face's weights through TransformerLens' own conversion."""
    if kind in families.NATIVE:
        model = empty(**(families.NATIVE[kind] | settings))
        return loaded(model, families.hooked_weights(dict(model.named_parameters())))
    family = families.HUGGING_FACE[kind]
    model, module = empty(**(family.hooked | settings)), families.hugging_face(kind)
    conversions = importlib.import_module("transformer_lens.pretrained.weight_conversions")
    return loaded(model, getattr(conversions, f"convert_{family.converter}_weights")(module, model.cfg))


def loaded(model: HookedTransformer, weights: dict[str, torch.Tensor]) -> HookedTransformer:
    """A model with weights; what the conversion forgets or gives in excess (Phi 3) are biases of zero."""
    own = dict(model.named_parameters())
    missing = {*own} - {*weights}
    excess = {name: weights[name] for name in {*weights} - {*model.state_dict()}}
    assert not any(x.any() for x in excess.values()) and not any(own[name].any() for name in missing), (excess, missing)
    nn.Module.load_state_dict(model, {name: x for name, x in weights.items() if name not in excess}, strict=False)
    return model
