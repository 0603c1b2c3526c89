"""What the adapter does not know is refused by name, before anything is computed with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import D_VOCAB, N_CTX, bridged, build, hugging_face, logit_difference, native, prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.graphs.model.adapter import adapt


def changes_z(z: Tensor, hook: object) -> Tensor:
    return 0.5 * z


def only_looks(z: Tensor, hook: object) -> None:
    pass


def with_dropout() -> torch.nn.Module:
    model = bridged(hugging_face("gpt2", resid_pdrop=0.1))
    return model.train()


def codegen() -> torch.nn.Module:
    from transformers import CodeGenConfig, CodeGenForCausalLM

    sizes = dict(n_embd=32, n_layer=1, n_head=4, n_positions=N_CTX, vocab_size=D_VOCAB, rotary_dim=4)
    return bridged(CodeGenForCausalLM(CodeGenConfig(**sizes)))


DYNAMIC = dict(rope_type="dynamic", factor=2.0, rope_theta=10000.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: hugging_face("gpt2"),
            r"expected a TransformerBridge of TransformerLens 4, got GPT2LMHeadModel\. .*boot_transformers",
        ),
        (lambda: torch.nn.Linear(2, 2), "expected a TransformerBridge of TransformerLens 4, got Linear"),
        (
            codegen,
            "architecture CodeGenForCausalLM is not supported; supported: GPT2LMHeadModel, .*, TransformerLensNative",
        ),
        (with_dropout, r"training mode with dropout; call model\.eval\(\) first"),
        (
            lambda: bridged(hugging_face("llama", rope_parameters=DYNAMIC)),
            "rotary embedding of type 'dynamic' is not supported; supported: default, linear, llama3, yarn",
        ),
        (lambda: native(attention_dir="bidirectional", act_fn="gelu"), "bidirectional attention is not supported"),
        (
            lambda: bridged(hugging_face("gpt2", activation_function="quick_gelu")),
            "activation 'quick_gelu' is not supported; supported: gelu, gelu_new",
        ),
    ],
    ids=["not-bridged", "no-transformer", "architecture", "dropout", "dynamic-rotary", "bidirectional", "activation"],
)
def test_refuses(make: Callable[[], torch.nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(make())


def test_refuses_an_unknown_kind_of_key_value_destinations() -> None:
    with pytest.raises(ValueError, match="'query-head', 'kv-head', got 'kv_head'"):
        adapt(tiny("gpt2").model, kv_destinations="kv_head")


@pytest.mark.parametrize("seen_before", [False, True])
def test_refuses_a_hook_that_changes_the_logits(seen_before: bool) -> None:
    model = build("gpt2").model
    if seen_before:
        adapt(model)
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", changes_z)]):
        with pytest.raises(ValueError, match=r"differ from the model's own by .* remove hooks with model\.reset_hooks"):
            adapt(model)
    adapt(model)


def test_accepts_a_hook_that_only_looks() -> None:
    model = build("gpt2").model
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", only_looks)]):
        assert adapt(model).graph == adapt(tiny("gpt2").model).graph


def test_refuses_a_setting_that_it_does_not_read() -> None:
    model = bridged(hugging_face("gpt2", scale_attn_weights=False))
    with pytest.raises(ValueError, match="is changed by a setting that is not supported"):
        adapt(model)


@pytest.mark.parametrize("kind", ["gpt2", "layer-norm-pre"])  # learned positions; a table of rotary angles
def test_refuses_prompts_longer_than_the_positions(kind: str) -> None:
    pairs = prompt_pairs([3, N_CTX + 1])
    with pytest.raises(ValueError, match=f"a prompt has {N_CTX + 1} tokens, the model reads at most {N_CTX}"):
        eap.score(tiny(kind).model, pairs, logit_difference, "eap", quiet=True)


def test_rotary_reads_past_the_trained_length() -> None:
    scored = eap.score(tiny("llama").model, prompt_pairs([N_CTX + 1]), logit_difference, "eap", quiet=True)
    assert scored.values.isfinite().all() and scored.values.abs().max() > 0


@pytest.mark.parametrize("token", [-1, D_VOCAB])
def test_refuses_an_unknown_token(token: int) -> None:
    embed = adapt(tiny("gpt2").model).embed
    with pytest.raises(ValueError, match=f"token id {token}, the model's ids are 0 to {D_VOCAB - 1}"):
        embed(torch.tensor([[0, token]]))


def test_reads_the_first_and_the_last_token() -> None:
    tokens = torch.tensor([[0, D_VOCAB - 1]])
    assert adapt(tiny("gpt2").model).embed(tokens).shape == (1, 2, 32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_weights_that_are_not_finite_whichever_tokens_they_are_of(bad: float) -> None:
    model = build("gpt2", torch.float32).model
    with torch.no_grad():
        model.embed.original_component.weight[D_VOCAB - 1, 3] = bad
    with pytest.raises(ValueError, match=r"model: expected finite weights, got 1 NaN or infinite in .*; load it again"):
        adapt(model)
