"""A model of five edges, worked out on paper.

One layer, one head, a residual stream of one number, no norm, no MLP. Token t is embedded as 1, 2, 5; the head has
q = x - 1, k = x ln 3, v = x and writes 2 z; the logits are 0, x and 4 x, and the metric is the third minus the second,
3 x, at the second of two positions. Clean prompt (1, 2), corrupted prompt (5, 1), as embedded.

Clean: q = 1, so the pattern is 3**1 : 3**2 = 1/4, 3/4; z = 7/4; x = 2 + 2 z. Corrupted: q = 0, the pattern is even,
z = 3. The metric's slope is 3 in x, 6 in z, and z has the slopes

    in v_j: p_j                       1/4, 3/4
    in k_j: q p_j (v_j - z)           -3/16, 3/16
    in q:   sum of p_j k_j (v_j - z)  3/16 ln 3
"""

from __future__ import annotations

import math

import pytest
import torch
from models import native
from references import edges
from references.edges import Prompt
from references.native import Native
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from edge_circuits import eap
from edge_circuits.graphs import Circuit, PromptPairs, run

PAIRS = PromptPairs([[0, 1]], [[2, 0]])
LN3 = math.log(3)
BY_HAND = {
    "patching": {
        "input->logits": 3 * (1 - 2),
        "a0.h0->logits": 6 * (3 - 7 / 4),
        "input->a0.h0<v>": 6 * (1 / 4 * 4 + 3 / 4 * -1),
        "input->a0.h0<k>": 6 * LN3 * (-3 / 16 * 4 + 3 / 16 * -1),
        "input->a0.h0<q>": 6 * 3 / 16 * LN3 * -1,
    },
    "zero": {
        "input->logits": 3 * -2,
        "a0.h0->logits": 6 * -7 / 4,
        "input->a0.h0<v>": 6 * (1 / 4 * -1 + 3 / 4 * -2),
        "input->a0.h0<k>": 6 * LN3 * (-3 / 16 * -1 + 3 / 16 * -2),
        "input->a0.h0<q>": 6 * 3 / 16 * LN3 * -2,
    },
    "mean": {  # the corrupted embedding's mean is 3; z is 5 and then 3, as its first token sees only itself: 4
        "input->logits": 3 * (3 - 2),
        "a0.h0->logits": 6 * (4 - 7 / 4),
        "input->a0.h0<v>": 6 * (1 / 4 * 2 + 3 / 4 * 1),
        "input->a0.h0<k>": 6 * LN3 * (-3 / 16 * 2 + 3 / 16 * 1),
        "input->a0.h0<q>": 6 * 3 / 16 * LN3 * 1,
    },
}
EXACT = {
    "input->logits": -3.0,
    "a0.h0->logits": 7.5,
    "input->a0.h0<v>": 1.5,
    "input->a0.h0<k>": 6 * (1 * 243 / 246 + 2 * 3 / 246 - 7 / 4),  # keys 5 and 1: weights 3**5 and 3**1
    "input->a0.h0<q>": 6 * (3 / 2 - 7 / 4),  # even
}


def model() -> TransformerBridge:
    settings = dict(
        n_layers=1, n_heads=1, d_model=1, d_head=1, n_ctx=2, d_vocab=3, attn_only=True, normalization_type=None
    )
    bridge = native(**settings).double()
    weights = {"q": (1.0, -1.0), "k": (LN3, 0.0), "v": (1.0, 0.0), "o": (2.0, 0.0)}
    with torch.no_grad():
        bridge.embed.weight.copy_(torch.tensor([[1.0], [2.0], [5.0]]))
        bridge.pos_embed.weight.zero_()
        bridge.unembed.weight.copy_(torch.tensor([[0.0], [1.0], [4.0]]))
        for part, (weight, bias) in weights.items():
            linear = getattr(bridge.blocks[0].attn, part)
            linear.weight.fill_(weight)
            linear.bias.fill_(bias)
    return bridge


def metric(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return logits[:, 2] - logits[:, 1]


@pytest.mark.parametrize("intervention", BY_HAND)
def test_scores_by_hand(intervention: str) -> None:
    scored = eap.score(model(), PAIRS, metric, "eap", intervention=intervention, quiet=True)
    assert set(scored.graph.edges) == BY_HAND[intervention].keys()
    for edge, value in BY_HAND[intervention].items():
        assert scored.score(edge) == pytest.approx(value, rel=1e-12), edge


def test_exact_cuts_by_hand() -> None:
    bridge = model()
    full = Circuit.full(eap.score(bridge, PAIRS, metric, "eap", quiet=True).graph)
    clean = metric(run(bridge, full, PAIRS), PAIRS).item()
    assert clean == pytest.approx(3 * (2 + 7 / 2))
    for edge in EXACT:
        without = full - Circuit.from_edges(full.graph, [edge])
        assert metric(run(bridge, without, PAIRS), PAIRS).item() - clean == pytest.approx(EXACT[edge], rel=1e-12), edge


def test_the_slow_reference_by_hand() -> None:
    bridge = model()
    literal, prompt = Native(bridge.original_model.state_dict(), bridge.cfg), Prompt([0, 1], [2, 0], 1)
    for intervention, by_hand in BY_HAND.items():
        slow = edges.edge_attribution(literal, [prompt], lambda logits, row: logits[2] - logits[1], intervention)
        assert slow == pytest.approx(by_hand, rel=1e-12)
