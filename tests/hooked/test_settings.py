"""A HookedTransformer's settings are read, or refused by name."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import families
import hooked
import pytest
import torch
from torch import Tensor

from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.transformer import Transformer

TOKENS = torch.arange(18).reshape(2, 9) * 7 % families.D_VOCAB


def logits_of(transformer: Transformer, tokens: Tensor = TOKENS) -> Tensor:
    """All logits of an adapted model."""
    return transformer.unembed(transformer.forward(transformer.embed(tokens)).final)


ROTARY = dict(positional_embedding_type="rotary")
LLAMA3 = dict(use_NTK_by_parts_rope=True, NTK_by_parts_factor=4.0, NTK_original_ctx_len=8, rotary_base=100)
SETTINGS: list[dict[str, Any]] = [
    *[dict(normalization_type=kind) for kind in ("LN", "LNPre", "RMS", "RMSPre", None)],
    *[dict(act_fn=name) for name in ("relu", "gelu_new", "gelu_fast", "silu", "solu_ln")],
    dict(act_fn="solu_ln", normalization_type="LNPre"),
    dict(final_rms=True),
    dict(normalization_type="LNPre", final_rms=True),
    dict(attn_only=True, d_mlp=None),
    dict(parallel_attn_mlp=True),
    dict(gated_mlp=True),
    dict(n_key_value_heads=2),
    dict(n_key_value_heads=1, ungroup_grouped_query_attention=True),
    dict(n_key_value_heads=2, use_qk_norm=True),
    dict(use_qk_norm=True),
    dict(attn_scale=3.0),
    dict(use_attn_scale=False),
    dict(scale_attn_by_inverse_layer_idx=True),
    dict(attn_scores_soft_cap=0.5, output_logits_soft_cap=1.0),
    dict(use_local_attn=True, window_size=3, attn_types=["global", "local"]),
    dict(normalization_type="RMS", use_normalization_before_and_after=True),
    dict(d_head=5),
    dict(d_vocab_out=7),
    dict(d_vocab_out=families.D_VOCAB + 9),
    ROTARY,
    ROTARY | dict(rotary_adjacent_pairs=True, rotary_base=100),
    ROTARY | dict(rotary_dim=4),
    ROTARY | LLAMA3,
    dict(use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True),
    dict(n_layers=1, n_heads=1),
]


@pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda settings: "-".join(f"{name}={settings[name]}" for name in settings)
)
def test_logits_are_the_models_own(settings: dict[str, Any]) -> None:
    model = hooked.random(**(dict(act_fn="gelu") | settings))
    with torch.no_grad():
        assert families.relative_error(logits_of(adapt(model)), model(TOKENS)) < 5e-6


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.05), (torch.float16, 0.006)]
)
def test_logits_in_other_types(dtype: torch.dtype, tolerance: float) -> None:
    model = hooked.random(act_fn="gelu", normalization_type="RMS", gated_mlp=True, dtype=dtype, **ROTARY)
    with torch.no_grad():
        assert families.relative_error(logits_of(adapt(model)), model(TOKENS)) < tolerance


def test_weights_are_views() -> None:
    model = hooked.random(act_fn="gelu", n_key_value_heads=2)
    transformer = adapt(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
        assert families.relative_error(logits_of(transformer), model(TOKENS)) < 5e-6


def test_rotary_tables_beyond_those_kept() -> None:
    model = hooked.random(act_fn="gelu", n_layers=1, n_ctx=2100, **ROTARY)
    tokens = torch.arange(2100)[None] % families.D_VOCAB
    ours = logits_of(adapt(model), tokens)
    with torch.no_grad():
        assert families.relative_error(ours, model(tokens)) < 5e-6


def test_a_token_that_the_tokenizer_pads_with_is_a_token() -> None:
    class Tokenizer:
        padding_side, pad_token_id, bos_token_id = "left", 1, 2  # the first that is compared is 1

    model = hooked.random(act_fn="gelu")
    model.tokenizer = Tokenizer()
    assert torch.equal(logits_of(adapt(model)), logits_of(adapt(hooked.random(act_fn="gelu"))))


REFUSED = [
    (dict(attention_dir="bidirectional"), "attention_dir='bidirectional' is not supported; supported: 'causal'"),
    (
        dict(positional_embedding_type="alibi"),
        "positional_embedding_type='alibi' is not supported; supported: 'standard', 'rot",
    ),
    (dict(positional_embedding_type="shortformer"), "positional_embedding_type='shortformer' is not supported"),
    (dict(post_embedding_ln=True), "post_embedding_ln=True is not supported; supported: False"),
    (dict(num_experts=2, experts_per_token=1), "num_experts=2 is not supported; supported: None"),
    (dict(gated_mlp=True, act_fn="solu_ln"), "gated_mlp=True and act_fn='solu_ln' is not supported"),
]


@pytest.mark.parametrize(
    ("settings", "message"), REFUSED, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"HookedTransformer with {message}"):
        adapt(hooked.random(**(dict(act_fn="gelu") | settings)))


def test_refuses_an_activation_that_is_not_known() -> None:
    model = hooked.random(act_fn="gelu")
    model.blocks[1].mlp.act_fn = torch.sin
    with pytest.raises(ValueError, match="activation 'gelu' is not supported; supported: gelu, gelu_new"):
        adapt(model)


def test_refuses_a_norm_that_is_not_known() -> None:
    model = hooked.random(act_fn="gelu")
    model.blocks[0].ln1 = torch.nn.GroupNorm(1, 32)
    with pytest.raises(
        ValueError, match="norm GroupNorm is not supported; supported: LayerNorm, LayerNormPre, RMSNorm"
    ):
        adapt(model)


def test_refuses_version_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.19.0")
    with pytest.raises(
        ValueError, match=r"HookedTransformer of TransformerLens 2 or later, got version 1\.19\.0; install"
    ):
        adapt(hooked.random(act_fn="gelu"))


def changes_z(z: Tensor, hook: object) -> Tensor:
    return 0.5 * z


def test_refuses_a_hook_that_changes_the_logits() -> None:
    model = hooked.random(act_fn="gelu")
    adapt(model)
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", changes_z)]):
        with pytest.raises(ValueError, match=r"differ from the model's own by .* remove hooks with model\.reset_hooks"):
            adapt(model)
    adapt(model)


@pytest.mark.parametrize("positions", ["standard", "rotary"])
def test_refuses_prompts_longer_than_the_positions(positions: str) -> None:
    model = hooked.random(act_fn="gelu", positional_embedding_type=positions)
    with pytest.raises(
        ValueError, match=f"a prompt has {families.N_CTX + 1} tokens, the model reads at most {families.N_CTX}"
    ):
        adapt(model).embed(torch.zeros(1, families.N_CTX + 1, dtype=torch.long))


def test_refuses_an_unknown_token() -> None:
    with pytest.raises(
        ValueError, match=f"token id {families.D_VOCAB}, the model's ids are 0 to {families.D_VOCAB - 1}"
    ):
        adapt(hooked.random(act_fn="gelu")).embed(torch.tensor([[0, families.D_VOCAB]]))
