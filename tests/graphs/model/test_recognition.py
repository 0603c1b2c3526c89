"""A model that computes something else than when it was first seen is compared again, and refused; others are not run again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import peft
import pytest
import torch
from hub_models import hub_module
from models import RAGGED, bridged, build, hugging_face, logit_difference, native
from torch import Tensor, nn

from edge_circuits import eap
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.recognition import copied


def scores(model: nn.Module) -> Tensor:
    return eap.score(model, RAGGED, logit_difference, "eap", quiet=True).scores


@contextmanager
def counted_passes(model: nn.Module) -> Iterator[list[int]]:
    """How often the model itself is run."""
    n_passes = [0]

    def count(module: nn.Module, _: object) -> None:
        n_passes[0] += module is model

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    yield n_passes
    handle.remove()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "rms-gated-grouped"])
def test_an_unchanged_model_is_compared_once(kind: str) -> None:
    model = build(kind).model
    with counted_passes(model) as n_passes:
        adapt(model)
        assert n_passes == [1]
        for _ in range(3):
            adapt(model)
    assert n_passes == [1]


@pytest.mark.parametrize("kind", ["falcon", "falcon-sequential", "bloom", "mpt", "opt", "phi3"])
def test_what_a_bridge_sets_on_a_model_needs_no_comparison(kind: str) -> None:
    model = bridged(hub_module(kind))
    adapt(model)
    with counted_passes(model) as n_passes:
        adapt(model)
    assert n_passes == [0]
    model.blocks[0].mlp.hook_out.add_hook(lambda x, hook: 2 * x)
    with pytest.raises(ValueError, match="It has a hook on .*hook_"):
        adapt(model)


@pytest.mark.parametrize("kind", ["falcon", "falcon-sequential", "bloom", "mpt", "phi3"])
def test_the_projection_that_a_bridge_has_split_is_idle(kind: str) -> None:
    model, n_calls = bridged(hub_module(kind)), []
    for block in model.blocks:
        for module in block.attn.qkv.modules():
            module.register_forward_pre_hook(lambda module, args: n_calls.append(module))
    model(RAGGED.clean)
    assert not n_calls


@pytest.mark.parametrize("kind", ["falcon", "phi3"])
def test_a_copy_computes_with_its_own_weights(kind: str) -> None:
    """TransformerLens sets functions on Falcon's layers that a deep copy shares: such a copy is refused once it differs."""
    model = bridged(hub_module(kind, torch.float32))
    plain, ours = copy.deepcopy(model), copied(model)
    for copy_of_it in (plain, ours):
        adapt(copy_of_it)
        with torch.no_grad():
            for parameter in copy_of_it.parameters():
                parameter.mul_(1.1)
    assert_logits_are_the_models_own(ours)
    if kind == "falcon":
        with pytest.raises(ValueError, match="It has a forward of its own on"):
            adapt(plain)


def test_trained_weights_are_read_without_another_comparison() -> None:
    model = build("gpt2").model
    before = scores(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    with counted_passes(model) as n_passes:
        after = scores(model)
    assert n_passes == [0] and not torch.allclose(before, after)
    assert_logits_are_the_models_own(model)


@torch.no_grad()
def assert_logits_are_the_models_own(model: nn.Module) -> None:
    transformer = adapt(model)
    found = transformer.unembed(transformer.forward(transformer.embed(RAGGED.clean)).final)
    torch.testing.assert_close(found, model(RAGGED.clean), rtol=1e-4, atol=1e-4)


def louder(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of modules with the same weights that give twice as much."""
    plain = kind.forward
    return type(f"Louder{kind.__name__}", (kind,), {"forward": lambda self, *args: 2 * plain(self, *args)})


def swap_component(model: nn.Module) -> None:
    new = copy.deepcopy(model.blocks[1].mlp.original_component)
    new.__class__ = louder(type(new))
    model.blocks[1].mlp.set_original_component(new)


def replace_forward(model: nn.Module) -> None:
    inner = model.blocks[0].mlp.original_component
    plain = inner.forward
    inner.forward = lambda x: 1.5 * plain(x)


def replace_class(model: nn.Module) -> None:
    inner = model.blocks[0].mlp.original_component
    inner.__class__ = louder(type(inner))


def add_a_hook(model: nn.Module) -> None:
    model.blocks[0].mlp.original_component.register_forward_hook(lambda module, args, out: 2 * out)


def add_a_parameter(model: nn.Module) -> None:
    inner = model.blocks[0].mlp.original_component
    inner.extra = nn.Parameter(torch.ones(()))
    plain = inner.forward
    inner.forward = lambda x: inner.extra * plain(x)
    adapt(model)  # it changes nothing yet
    inner.extra.data.add_(1)


@pytest.mark.parametrize("change", [swap_component, replace_forward, replace_class, add_a_hook, add_a_parameter])
def test_a_model_that_changes_after_it_was_seen_is_refused(change: Callable[[nn.Module], None]) -> None:
    model = build("gpt2").model
    adapt(model)
    change(model)
    with pytest.raises(ValueError, match="differ from the model's own"):
        scores(model)


def test_a_changed_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gpt2").model
    adapt(model)
    kind = type(model.blocks[0].mlp.original_component)
    monkeypatch.setattr(kind, "forward", louder(kind).forward)
    with pytest.raises(ValueError, match="differ from the model's own"):
        adapt(model)


def test_a_hook_that_changes_its_mind_is_seen() -> None:
    model, factor = build("llama").model, [1.0]
    model.add_hook("blocks.0.attn.hook_z", lambda z, hook: factor[0] * z)
    adapt(model)
    factor[0] = 2.0
    with pytest.raises(ValueError, match="It has a hook on blocks.0"):
        adapt(model)


def adapted(kind: str) -> nn.Module:
    """A Hugging Face model with LoRA, which starts at zero."""
    target = {"gpt2": ["c_attn", "c_fc"], "llama": ["q_proj", "v_proj", "up_proj"]}[kind]
    return peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=target), hugging_face(kind))


def train(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_adapter_that_is_trained_after_it_was_seen_is_refused_by_name(kind: str) -> None:
    model = bridged(adapted(kind))
    assert torch.equal(scores(model), scores(build(kind).model))
    train(model)
    with pytest.raises(ValueError, match=r"lora_A.*, which is not read.*\(merge_and_unload\)"):
        scores(model)


def test_a_trained_adapter_that_is_merged_gives_the_scores_of_its_weights() -> None:
    module = peft.get_peft_model(
        hugging_face("llama").double(), peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"])
    )
    train(module)
    with torch.no_grad():
        expected = module.eval()(RAGGED.clean).logits
    model = bridged(module.merge_and_unload())
    torch.testing.assert_close(model(RAGGED.clean), expected, rtol=1e-4, atol=1e-4)
    assert_logits_are_the_models_own(model)
    assert not torch.allclose(scores(model), scores(build("llama", torch.float64).model))


def test_native_models_without_their_own_forward_are_not_foreign() -> None:
    model = native(n_layers=1, n_heads=2, d_model=8, d_head=4, attn_only=True, normalization_type=None)
    adapt(model)
    with counted_passes(model) as n_passes:
        adapt(model)
    assert n_passes == [0]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [("gpt2", "eps", 0.5), ("neox-parallel", "scaling", 0.9), ("gemma2", "final_logit_softcapping", 1.0)],
)
def test_settings_that_are_changed_after_the_first_look_are_seen(kind: str, name: str, value: float) -> None:
    model = build(kind).model
    adapt(model)
    held = [*model.modules(), model.original_model.config]
    for each in held:
        if isinstance(vars(each).get(name), float):
            setattr(each, name, value)
    with pytest.raises(ValueError, match="the logits computed from its weights differ from the model's own"):
        adapt(model)


def test_a_model_that_was_run_with_gradients_is_copied() -> None:
    """Its bridge holds the attention pattern of that pass, with its history."""
    model = build("gpt2").model
    tokens = torch.tensor([[1, 2, 3]])
    with torch.enable_grad():
        expected = model(tokens)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    assert torch.equal(copied(model)(tokens), expected)
