"""The hub's decoder families: the model of Hugging Face itself is the reference, taken apart by hooks on its modules."""

from __future__ import annotations

import pytest
import torch
from hub_models import HUB, hub_model, hub_module, hub_reference
from models import D_VOCAB, curved, one_by_one, prompt_pairs, prompts_of, relative_error
from references import edges

from edge_circuits import eap
from edge_circuits.graphs.model.adapter import adapt

TOKENS = torch.arange(18).reshape(2, 9) * 7 % D_VOCAB
PAIRS = prompt_pairs([7, 3], positions=[-1, -2])


@pytest.mark.parametrize("kind", HUB)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 2e-6), (torch.bfloat16, 0.05)], ids=str
)
def test_logits_are_those_of_hugging_face(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    transformer = adapt(hub_model(kind, dtype))
    with torch.no_grad():
        expected = hub_module(kind, dtype)(TOKENS, use_cache=False).logits
        ours = transformer.unembed(transformer.forward(transformer.embed(TOKENS)).final)
    error = (ours - expected).abs().amax(-1).flatten().sort().values / expected.abs().max()
    rounding_picks_experts = dtype == torch.bfloat16 and "num_experts_per_tok" in HUB[kind].settings
    assert error[len(error) // 2 if rounding_picks_experts else -1] < tolerance


@pytest.mark.parametrize("kind", HUB)
def test_gradients_are_those_of_hugging_face(kind: str) -> None:
    scored = eap.score(hub_model(kind), PAIRS, curved, "eap", quiet=True)
    expected = edges.edge_attribution(hub_reference(kind), prompts_of(PAIRS), one_by_one(curved, PAIRS))
    values = torch.tensor([expected[edge] for edge in scored.graph.edges], dtype=torch.float64)
    ours = scored.scores.T[scored.graph.edge_mask.T]
    assert relative_error(ours, values) < 2e-5  # Hugging Face takes RMS norms, softmax and angles in float32
