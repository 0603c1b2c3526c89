"""The adapter gives the model's own logits on every architecture, and its graph."""

from __future__ import annotations

import pytest
import torch
from models import D_VOCAB, KINDS, WINDOW, bridged, build, hugging_face, native, relative_error, tiny
from references import edges
from torch import Tensor

from edge_circuits.graphs import Graph
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.transformer import Transformer

TOKENS = torch.arange(18).reshape(2, 9) * 7 % D_VOCAB


def logits_of(transformer: Transformer, tokens: Tensor) -> Tensor:
    """All logits of an adapted model."""
    return transformer.unembed(transformer.forward(transformer.embed(tokens)).final)


# The same logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.float64, 2e-6), (torch.bfloat16, 0.05), (torch.float16, 0.006)],
    ids=["float32", "float64", "bfloat16", "float16"],
)
def test_logits_are_the_models_own(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    # In float64 too, since the model itself takes RMS norms and softmax in float32. In the half types both sides
    # round every activation: a few units in the last of 8 and 11 bits.
    model = tiny(kind, dtype).model
    with torch.no_grad():
        expected = model(TOKENS)
        logits = logits_of(adapt(model), TOKENS)
    assert logits.dtype == dtype
    assert relative_error(logits, expected.double()) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_float64_logits_are_exact(kind: str) -> None:
    expected = torch.stack([edges.logits(tiny(kind).literal, row) for row in TOKENS.tolist()])
    assert relative_error(logits_of(adapt(tiny(kind).model), TOKENS), expected) < 1e-13


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "llama", "gemma2", "solu"])
def test_folded_weights_are_read(kind: str) -> None:
    model = build(kind).model
    adapt(model)
    model.enable_compatibility_mode(disable_warnings=True)
    with torch.no_grad():
        assert relative_error(logits_of(adapt(model), TOKENS), model(TOKENS).double()) < 5e-6


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", dict(scale_attn_by_inverse_layer_idx=True)),
        ("gpt2", dict(n_layer=1, n_head=1)),
        ("gpt2", dict(activation_function="gelu_fast")),
        ("neox-parallel", dict(rotary_pct=1.0, hidden_act="relu")),
        ("llama", dict(attention_bias=True, mlp_bias=True, num_hidden_layers=1)),
        ("llama", dict(num_key_value_heads=1, hidden_act="gelu")),
        ("qwen2", dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)),
        ("mistral", dict(sliding_window=None)),
        ("gemma", dict(hidden_activation="gelu")),  # a name that the model does not read: its function is the tanh one
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_settings_are_read(kind: str, settings: dict[str, object]) -> None:
    model = bridged(hugging_face(kind, **settings))
    with torch.no_grad():
        assert relative_error(logits_of(adapt(model), TOKENS), model(TOKENS).double()) < 2e-6


NATIVE_SETTINGS = [
    dict(attn_scale=3.0),
    dict(use_attn_scale=False),
    dict(n_heads=2, d_head=5),
    dict(d_vocab_out=7),
    dict(d_vocab_out=D_VOCAB + 9),
    dict(normalization_type=None, final_rms=True),
    dict(gated_mlp=True, act_fn=None),
    dict(act_fn="solu"),
    dict(positional_embedding_type="rotary", rotary_base=100),
]


@pytest.mark.parametrize("settings", NATIVE_SETTINGS, ids=lambda settings: "-".join(settings))
def test_native_settings_are_read(settings: dict[str, object]) -> None:
    model = native(**(dict(act_fn="gelu", normalization_type="LN") | settings))
    with torch.no_grad():
        assert relative_error(logits_of(adapt(model), TOKENS), model(TOKENS).double()) < 2e-6


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_static_rotary_scalings_are_read(kind: str) -> None:
    scaling = dict(rope_type=kind, factor=4.0, rope_theta=100.0, original_max_position_embeddings=8)
    scaling |= dict(low_freq_factor=1.0, high_freq_factor=4.0) if kind == "llama3" else {}
    model, plain = bridged(hugging_face("llama", rope_parameters=scaling)), tiny("llama", torch.float32).model
    with torch.no_grad():
        logits, expected = logits_of(adapt(model), TOKENS), model(TOKENS).double()
        assert relative_error(logits, expected) < 5e-6
        assert relative_error(logits, plain(TOKENS).double()) > 1e-2


def test_later_edits_of_the_weights_are_seen() -> None:
    model = build("gpt2").model
    before = logits_of(adapt(model), TOKENS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
        after, expected = logits_of(adapt(model), TOKENS), model(TOKENS)
    assert relative_error(after, expected.double()) < 2e-6 < relative_error(after, before.double())


@pytest.mark.parametrize(
    ("kind", "graph"),
    [
        ("gpt2", Graph(3, 4)),
        ("neox-parallel", Graph(2, 4, parallel=True)),
        ("neox-sequential", Graph(2, 4)),
        ("llama", Graph(3, 4)),
        ("attention-only", Graph(2, 4, mlps=False)),
    ],
)
def test_graph_of_a_model(kind: str, graph: Graph) -> None:
    assert adapt(tiny(kind).model).graph == Graph.from_model(tiny(kind).model) == graph


@pytest.mark.parametrize(("kind", "n_kv_heads"), [("llama", 2), ("rms-norm-pre", 1), ("gpt2", None)])
def test_graph_of_key_value_heads(kind: str, n_kv_heads: int | None) -> None:
    assert adapt(tiny(kind).model, kv_destinations="kv-head").graph.n_kv_heads == n_kv_heads


def test_name_says_the_architecture() -> None:
    assert "GPT2LMHeadModel" in adapt(tiny("gpt2").model).name
