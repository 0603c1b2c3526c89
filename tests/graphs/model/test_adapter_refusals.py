"""What the adapter does not know is refused by name, before anything is computed with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from hub_models import hub_module
from models import D_VOCAB, N_CTX, bridged, build, hugging_face, logit_difference, native, prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.graphs.model.adapter import adapt


def hub_model_with(kind: str, **settings: object) -> torch.nn.Module:
    return bridged(hub_module(kind, **settings))


def changes_z(z: Tensor, hook: object) -> Tensor:
    return 0.5 * z


def only_looks(z: Tensor, hook: object) -> None:
    pass


def with_dropout() -> torch.nn.Module:
    model = bridged(hugging_face("gpt2", resid_pdrop=0.1))
    return model.train()


def other(family: str, kind: str, **sizes: object) -> torch.nn.Module:
    """A small model of a family that is not read."""
    config = getattr(transformers, f"{family}Config")(vocab_size=D_VOCAB, **sizes)
    return bridged(getattr(transformers, f"{family}{kind}")(config))


ENCODER = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)


def with_pictures() -> torch.nn.Module:
    """A small model of text and pictures."""
    vision = transformers.CLIPVisionConfig(**ENCODER, image_size=16, patch_size=8)
    text = transformers.LlamaConfig(**ENCODER, vocab_size=D_VOCAB)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=D_VOCAB - 1)
    return bridged(transformers.LlavaForConditionalGeneration(config))


def quantised(method: str | None) -> torch.nn.Module:
    """A Llama one of whose weights is a whole number, as if packed."""
    module = hugging_face("llama")
    module.model.layers[1].mlp.up_proj.weight.requires_grad_(False).data = torch.zeros(48, 32, dtype=torch.int8)
    module.config.quantization_config = method and dict(quant_method=method)
    return bridged(module)


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
            lambda: other("CodeGen", "ForCausalLM", n_embd=32, n_layer=1, n_head=4, n_positions=N_CTX, rotary_dim=4),
            "a decoder among GPT2LMHeadModel, .*, TransformerLensNative, got CodeGenForCausalLM; docs/architectures.md",
        ),
        (
            lambda: other("T5", "ForConditionalGeneration", d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4),
            "a decoder among .*, got T5ForConditionalGeneration, an encoder-decoder model",
        ),
        (
            lambda: other("Mamba", "ForCausalLM", hidden_size=32, num_hidden_layers=1, state_size=4),
            "a decoder among .*, got MambaForCausalLM, a model with state-space or recurrent layers",
        ),
        (with_pictures, "a decoder among .*, got LlavaForConditionalGeneration, a model of images or sound"),
        (lambda: other("Bert", "ForMaskedLM", **ENCODER), "a decoder among .*, got BertForMaskedLM, an encoder"),
        (
            lambda: hub_model_with("opt", do_layer_norm_before=False),
            "do_layer_norm_before of OPTForCausalLM: expected True, got False",
        ),
        (
            lambda: hub_model_with("falcon-sequential", alibi=True),
            "alibi of FalconForCausalLM: expected False, got True",
        ),
        (
            lambda: hub_model_with("gemma3", use_bidirectional_attention=True),
            "use_bidirectional_attention of Gemma3ForCausalLM: expected False or None, got True",
        ),
        (
            lambda: quantised("bitsandbytes"),
            "weights: expected floating-point numbers, got torch.int8 .*by bitsandbytes; load",
        ),
        (lambda: quantised(None), "weights: expected floating-point numbers, got torch.int8 in .*up_proj.weight; load"),
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
    ids=[
        "not-bridged",
        "no-transformer",
        "architecture",
        "encoder-decoder",
        "state-space",
        "pictures",
        "encoder",
        "post-norm",
        "alibi",
    ]
    + ["both-ways", "quantised-by", "quantised", "dropout", "dynamic-rotary", "bidirectional", "activation"],
)
def test_refuses(make: Callable[[], torch.nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(make())


@pytest.mark.parametrize("kind", ["ministral3", "phi3-long"])
def test_refuses_prompts_for_which_the_model_would_be_another(kind: str) -> None:
    with pytest.raises(ValueError, match="a prompt has 17 tokens, the model reads at most 16"):
        adapt(hub_model_with(kind)).embed(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.usefixtures("without_type_checks")
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
