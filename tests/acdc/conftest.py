"""Small models and prompts for its tests."""

from __future__ import annotations

import pytest
import torch
from models import bridged, hugging_face, native, prompt_pairs

SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
GROUPED = SMALL | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=4)
SETTINGS = {"gpt2": dict(n_embd=16, n_layer=2, n_head=2), "neox-parallel": SMALL, "llama": GROUPED, "gemma2": GROUPED}


@pytest.fixture(scope="session")
def small():
    """A function from a kind to a model of two layers with two or four heads, float64; made once."""
    made = {}

    def model(kind):
        if kind not in made:
            if kind == "attention-only":
                module = native(n_layers=2, n_heads=3, d_model=12, d_head=4, attn_only=True, normalization_type=None)
                made[kind] = module.to(torch.float64)
            else:
                made[kind] = bridged(hugging_face(kind, **SETTINGS[kind]).double())
        return made[kind]

    return model


@pytest.fixture(scope="session")
def pairs():
    """Three prompts of two lengths."""
    return prompt_pairs([7, 7, 5], positions=[-1, -2, -1], seed=3)


@pytest.fixture(scope="session")
def trained():
    """A model that has learned to say again the first token of its prompt, and prompts."""
    torch.manual_seed(0)
    model = native(
        n_layers=2, n_heads=3, d_model=24, d_head=8, d_mlp=32, normalization_type="LN", act_fn="gelu", d_vocab=12
    )
    inner = model.original_model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(inner.parameters(), lr=5e-3)
    for _ in range(200):
        tokens = torch.randint(12, (64, 6))
        loss = torch.nn.functional.cross_entropy(model(tokens)[:, -1], tokens[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    model.eval().requires_grad_(False).to(torch.float64)
    return model, first_token_pairs()


def first_token_pairs():
    from edge_circuits.graphs import PromptPairs

    generator = torch.Generator().manual_seed(1)
    clean, corrupted = (torch.randint(12, (6, 6), generator=generator) for _ in range(2))
    corrupted[:, 0] = (clean[:, 0] + 1) % 12
    return PromptPairs(clean, corrupted, clean[:, 0].tolist(), corrupted[:, 0].tolist())
