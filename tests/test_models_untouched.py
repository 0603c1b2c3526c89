"""A model is left unchanged: hooks, flags, settings and weights, also after an exception."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from models import HUGGING_FACE, RAGGED, build, logit_difference
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from edge_circuits import eap
from edge_circuits.graphs import Circuit, Graph, run


def only_looks(z: Tensor, hook: object) -> None:
    """A hook of the user's own."""


def run_before(kind: str) -> TransformerBridge:
    """A fresh model after one run, in which TransformerLens sets up hooks of its own."""
    model = build(kind).model
    with torch.no_grad():
        model(RAGGED.clean)
    return model


def state_of(model: TransformerBridge) -> dict[str, object]:
    """All that a call could leave behind."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    return {
        "hooks": {name: _hooks_of(module) for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in parameters.items()},
        "grad": {name: parameter.grad for name, parameter in parameters.items()},
        "settings": copy.deepcopy(vars(model.cfg)),
        "modules": {name: id(module) for name, module in modules.items()},
        "random": torch.get_rng_state().tolist(),
        "grad_mode": torch.is_grad_enabled(),
    }


def _hooks_of(module: torch.nn.Module) -> dict[str, object]:
    hooks = {key: value for key, value in vars(module).items() if "_hooks" in key}
    return {key: list(value) if isinstance(value, dict) else copy.copy(value) for key, value in hooks.items()}


def fails(logits: Tensor, pairs: object) -> Tensor:
    raise RuntimeError("the metric's own trouble")


@pytest.mark.parametrize("kind", [*HUGGING_FACE, "rms-gated-grouped"])
@pytest.mark.parametrize("metric", [logit_difference, fails])
def test_model_is_left_unchanged(kind: str, metric: Callable) -> None:
    model = run_before(kind)
    model.add_hook("blocks.0.attn.hook_z", only_looks)
    model.ln_final.train()
    frozen = next(model.parameters()).requires_grad_(False)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = state_of(model)
    if metric is fails:
        with pytest.raises(RuntimeError, match="the metric's own trouble"):
            eap.score(model, RAGGED, metric, "eap", quiet=True)
    else:
        eap.score(model, RAGGED, metric, "eap", quiet=True)
        run(model, Circuit.full(Graph.from_model(model)), RAGGED)
    assert state_of(model) == before
    assert not frozen.requires_grad
    after = model.state_dict()
    assert after.keys() == weights.keys()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in weights.items()
    )


def test_model_is_left_unchanged_after_a_refusal() -> None:
    model = run_before("gpt2")
    before = state_of(model)
    with pytest.raises(ValueError, match="circuit: expected one of Graph"):
        run(model, Circuit.empty(Graph(1, 1)), RAGGED)
    assert state_of(model) == before
