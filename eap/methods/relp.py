"""Edge-RelP: edge attribution patching with LRP coefficients in place of the gradient.

    score = sum over tokens of  (source_cut - source_clean) . coefficient at the destination's input

The coefficients come from the same single backward pass as the gradient, under the rules of `edge_circuits.eap.rules`, so the price
is that of edge attribution patching: two forward passes and one backward pass. RelP scores nodes; the edge form, with
the formula that needs no split inputs, is this project's.

Reference: Jafari, Eberle, Khakzar and Nanda 2025, RelP: Faithful and Efficient Circuit Discovery via Relevance Patching.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from edge_circuits.eap.gradient_method import OnePass
from edge_circuits.eap.rules import (
    ActivationRule,
    AttentionRule,
    GateRule,
    NormRule,
    SecantAttention,
    SoftenedAttention,
    constant_gate,
    constant_pattern_attention,
    cut_heads,
    half_gate,
    identity_activation,
    shared_attention,
)
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import number, refusal
from edge_circuits.graphs.model.operations import Operations, as_it_is, constant, exact_activation, exact_attention
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.patching import answer_rows

GATES = {"half": half_gate, "all": constant_gate, "exact": torch.mul}
SHARES = {"live": (1.0, 1.0), "attnlrp": (0.25, 0.5)}  # of the gradient: queries and keys, values
ATTENTIONS = {"live": exact_attention, "ah": constant_pattern_attention, "attnlrp": shared_attention}


@dataclass(frozen=True)
class RelP(OnePass):
    """Edge-RelP: which rule is used where. The default is RelP's own: LN, Identity and Half, attention live.

    "gim" is the same pass with the rules of gradient interaction modifications (Edin et al. 2025): frozen norms, attention
    softened at temperature 2 and shared as in AttnLRP, gates shared, activation functions as they are.

    Attributes:
        reader: how an edge's change passes the destination that it enters; see `edge_circuits.eap.destinations`.
        norm: "ln", or "exact", the gradient.
        activation: "identity", or "exact".
        attention: "live" (the gradient), "ah", "attnlrp" or "secant".
        temperature: with attention "live" or "attnlrp", the backward pass takes the softmax as if its scores were divided by
            this number, so that a saturated pattern passes something on. 1: the gradient.
        gate: "half"; "all", where the gate act(W_gate x) is a constant; or "exact". The weights of routed experts are
            constants but for "exact".

    Raises:
        ValueError: an unknown choice.
    """

    short_names: ClassVar = {"relp": {}, "gim": {"activation": "exact", "attention": "attnlrp", "temperature": 2.0}}

    norm: NormRule = "ln"
    activation: ActivationRule = "identity"
    attention: AttentionRule = "live"
    gate: GateRule = "half"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number("temperature", self.temperature, above=0)
        if self.temperature != 1 and self.attention not in SHARES:
            raise refusal("temperature", f"1 with attention {self.attention!r}", repr(self.temperature))

    def operations(self, transformer: Transformer, batch: PromptPairs, cut: Callable[[], Activations]) -> Operations:
        """The steps of a forward pass under these rules."""
        if self.attention == "secant":
            rows = answer_rows(batch).to(transformer.device)
            attention = SecantAttention(iter(cut_heads(transformer, cut(), rows)))
        elif self.temperature != 1:
            attention = SoftenedAttention(self.temperature, *SHARES[self.attention])
        else:
            attention = ATTENTIONS[self.attention]
        return Operations(
            constant_scale=self.norm == "ln",
            activation=identity_activation if self.activation == "identity" else exact_activation,
            gate=GATES[self.gate],
            routing=as_it_is if self.gate == "exact" else constant,
            attention=attention,
        )

    def check_model(self, transformer: Transformer) -> None:
        """Refuse a rule for which a model has no place.

        RelP's own rules are for models in general and have nothing to do where there is no such step; a choice that
        departs from them is meant for a step that has to be there.

        Raises:
            ValueError: gate "all" without a gated MLP, or a reader without a place.
        """
        super().check_model(transformer)
        gated = any(block.mlp is not None and block.mlp.W_gate is not None for block in transformer.blocks)
        if self.gate == "all" and not gated:
            raise ValueError(
                f"gate rule 'all' has no place in {transformer.name}: it has no gated MLP. Use 'half' or 'exact'."
            )
