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

from edge_circuits.eap.one_pass import OnePass
from edge_circuits.eap.rules import (
    ActivationRule,
    AttentionRule,
    GateRule,
    NormRule,
    SecantAttention,
    constant_gate,
    constant_pattern_attention,
    cut_heads,
    half_gate,
    identity_activation,
    shared_attention,
)
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.operations import Operations, as_it_is, constant, exact_activation, exact_attention
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.patching import answer_rows

GATES = {"half": half_gate, "all": constant_gate, "exact": torch.mul}
ATTENTIONS = {"live": exact_attention, "ah": constant_pattern_attention, "attnlrp": shared_attention}


@dataclass(frozen=True)
class RelP(OnePass):
    """Edge-RelP: which rule is used where. The default is RelP's own: LN, Identity and Half, attention live.

    Attributes:
        reader: how an edge's change passes the destination that it enters; see `edge_circuits.eap.destinations`.
        norm: "ln", or "exact", the gradient.
        activation: "identity", or "exact".
        attention: "live" (the gradient), "ah", "attnlrp" or "secant".
        gate: "half"; "all", where the gate act(W_gate x) is a constant; or "exact". The weights of routed experts are
            constants but for "exact".

    Raises:
        ValueError: an unknown choice.
    """

    short_names: ClassVar = {"relp": {}}

    norm: NormRule = "ln"
    activation: ActivationRule = "identity"
    attention: AttentionRule = "live"
    gate: GateRule = "half"

    def operations(self, transformer: Transformer, batch: PromptPairs, cut: Callable[[], Activations]) -> Operations:
        """The steps of a forward pass under these rules."""
        if self.attention == "secant":
            rows = answer_rows(batch).to(transformer.device)
            attention = SecantAttention(iter(cut_heads(transformer, cut(), rows)))
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
