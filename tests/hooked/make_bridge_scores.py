"""Writes `bridge_scores.npz`: what the bridge of TransformerLens 4 gives for the models of `families`, float32.

    .venv/bin/python tests/hooked/make_bridge_scores.py

Tests with TransformerLens 2 and 3 hold a HookedTransformer of the same weights against it.
"""

from __future__ import annotations

from pathlib import Path

import families
import numpy
import torch
from torch import nn

FILE = Path(__file__).with_name("bridge_scores.npz")


def bridge(kind: str) -> nn.Module:
    """The model of a kind in TransformerLens 4."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    if kind in families.HUGGING_FACE:
        module = families.hugging_face(kind)
        return build_bridge_from_module(module, type(module).__name__, hf_config=module.config).eval()
    config = TransformerBridgeConfig(**(families.SHAPE | families.NATIVE[kind]))
    model = TransformerBridge.boot_native(config).eval()
    shapes = {name: torch.empty(shape) for name, shape in hooked_shapes(config).items()}
    missing, unexpected = model.load_state_dict(
        convert_tl_checkpoint(families.hooked_weights(shapes), config), strict=False
    )
    assert not unexpected and not missing, (missing, unexpected)
    return model


def hooked_shapes(config: object) -> dict[str, tuple[int, ...]]:
    """The weights of a HookedTransformer by name: version 4 has no such class to ask."""
    d_model, d_head, d_mlp, n_heads = config.d_model, config.d_head, config.d_mlp, config.n_heads
    kv, n_kv = ("_", config.n_key_value_heads) if config.n_key_value_heads else ("", n_heads)
    kind = config.normalization_type
    shapes = {
        "embed.W_E": (config.d_vocab, d_model),
        "unembed.W_U": (d_model, config.d_vocab),
        "unembed.b_U": (config.d_vocab,),
    }
    if config.positional_embedding_type == "standard":
        shapes["pos_embed.W_pos"] = (config.n_ctx, d_model)
    block = {
        "attn.W_Q": (n_heads, d_model, d_head),
        "attn.b_Q": (n_heads, d_head),
        "attn.W_O": (n_heads, d_head, d_model),
    }
    block |= {"attn.b_O": (d_model,)}
    for part in "KV":
        block |= {f"attn.{kv}W_{part}": (n_kv, d_model, d_head), f"attn.{kv}b_{part}": (n_kv, d_head)}
    if not config.attn_only:
        block |= {"mlp.W_in": (d_model, d_mlp), "mlp.W_out": (d_mlp, d_model)}
        block |= (
            {"mlp.W_gate": (d_model, d_mlp)} if config.gated_mlp else {"mlp.b_in": (d_mlp,), "mlp.b_out": (d_model,)}
        )
    norms = {"ln1": d_model, "ln2": d_model} if kind in ("LN", "RMS") else {}
    norms |= {"mlp.ln": d_mlp} if config.act_fn == "solu_ln" and kind == "LN" else {}
    for name, width in norms.items():
        block |= {f"{name}.w": (width,)} | ({f"{name}.b": (width,)} if kind == "LN" else {})
    if kind in ("LN", "RMS"):
        shapes |= {"ln_final.w": (d_model,)} | ({} if kind == "RMS" or config.final_rms else {"ln_final.b": (d_model,)})
    return shapes | {
        f"blocks.{layer}.{name}": shape for layer in range(config.n_layers) for name, shape in block.items()
    }


def all_scores() -> dict[str, numpy.ndarray]:
    """Every array of the file, named `kind/measure`."""
    return {
        f"{kind}/{name}": value.numpy().astype(numpy.float32)
        for kind in families.KINDS
        for name, value in families.measured(bridge(kind)).items()
    }


if __name__ == "__main__":
    numpy.savez_compressed(FILE, **all_scores())
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")
