"""One MLP, dense or routed: what a token's normalised stream makes it write.

A routed layer (mixture of experts) is one node. Each token goes to the experts of its largest router logits and gets their
outputs, weighted by a softmax of these logits. Which experts these are is decided anew on whatever the node reads, so a run with
cut edges and exact patching may go to others than the clean run. A gradient sees the chosen ones alone: it flows through their
outputs and through their weights (`Operations.routing`), never through the choice. `writes` gives what each expert writes, for
experts as nodes of their own (`edge_circuits.graphs.features`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.operations import EXACT, Operations, linear


@dataclass(frozen=True)
class Mlp:
    """Weights of one MLP.

    Attributes:
        W_gate: makes it gated: `activation(x W_gate) * (x W_in)`.
        mid_norm: after the activation (SoLU models).
        signal: an activation function of `x W_in` beside a gate, and `offset` what is added to it (gpt-oss).
        write_scale: factor of the neurons' values, and so of what they write (Granite).
    """

    W_in: Float[Tensor, "d_model d_mlp"]
    W_out: Float[Tensor, "d_mlp d_model"]
    b_in: Float[Tensor, " d_mlp"] | None
    b_out: Float[Tensor, " d_model"] | None
    activation: str
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None
    b_gate: Float[Tensor, " d_mlp"] | None = None
    mid_norm: Norm | None = None
    signal: str | None = None
    offset: float = 0.0
    write_scale: float = 1.0

    def __call__(
        self,
        x: Float[Tensor, "*n d_model"],
        operations: Operations = EXACT,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The MLP's output for a normalised input, on whose device it is; `change` is made to its neurons' values."""
        hidden = self.hidden(x, operations)
        return linear(hidden if change is None else change(hidden), self.W_out, self.b_out).to(x.device)

    def hidden(self, x: Float[Tensor, "*n d_model"], operations: Operations = EXACT) -> Float[Tensor, "*n d_mlp"]:
        """The neurons' values: what `W_out` reads, on the weights' device."""
        here = x.to(self.W_in.device)
        hidden = linear(here, self.W_in, self.b_in)
        if self.W_gate is None:
            hidden = operations.norm(self.mid_norm, operations.activation(self.activation, hidden))
        else:
            if self.signal is not None:
                hidden = operations.activation(self.signal, hidden) + self.offset
            hidden = operations.gate(
                operations.activation(self.activation, linear(here, self.W_gate, self.b_gate)), hidden
            )
        return hidden if self.write_scale == 1 else hidden * self.write_scale


@dataclass(frozen=True)
class Experts:
    """A routed layer of gated MLPs.

    Attributes:
        W_router: logits of the experts, from the same normalised input that they read.
        n_chosen: experts of a token.
        normalised: their weights sum to 1 (the softmax is over their logits); otherwise the softmax is over all experts'.
        signal, offset: as in `Mlp`.
    """

    W_router: Float[Tensor, "d_model expert"]
    b_router: Float[Tensor, " expert"] | None
    n_chosen: int
    normalised: bool
    W_in: Float[Tensor, "expert d_model d_mlp"]
    W_gate: Float[Tensor, "expert d_model d_mlp"]
    W_out: Float[Tensor, "expert d_mlp d_model"]
    b_in: Float[Tensor, "expert d_mlp"] | None
    b_gate: Float[Tensor, "expert d_mlp"] | None
    b_out: Float[Tensor, "expert d_model"] | None
    activation: str
    signal: str | None = None
    offset: float = 0.0

    def expert(self, index: int) -> Mlp:
        """One expert, in views of the weights."""
        names = ("W_in", "W_out", "b_in", "b_out", "W_gate", "b_gate")
        own = {name: None if (each := getattr(self, name)) is None else each[index] for name in names}
        return Mlp(**own, activation=self.activation, signal=self.signal, offset=self.offset)

    def route(
        self, x: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token chosen"], Int[Tensor, "token chosen"]]:
        """The weights of each token's experts and which they are; softmax in float32 at least."""
        logits = linear(x, self.W_router, self.b_router)
        wide = logits.to(torch.promote_types(x.dtype, torch.float32))
        largest, chosen = wide.topk(self.n_chosen, dim=-1)
        total = largest if self.normalised else wide
        return (largest - total.logsumexp(-1, keepdim=True)).exp().to(x.dtype), chosen

    def __call__(
        self,
        x: Float[Tensor, "*n d_model"],
        operations: Operations = EXACT,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The layer's output for a normalised input, on whose device it is; `change` is made to the experts' single writes."""
        if change is not None:
            return change(self.writes(x, operations)).sum(-2).to(x.device)
        tokens = x.flatten(0, -2).to(self.W_router.device)
        out = torch.zeros_like(tokens)
        for _, token, written in self._each(tokens, operations):
            out = out.index_add(0, token, written)
        return out.view(x.shape).to(x.device)

    def writes(
        self, x: Float[Tensor, "*n d_model"], operations: Operations = EXACT
    ) -> Float[Tensor, "*n expert d_model"]:
        """What each expert writes for a normalised input, its weight included: zero where it is not chosen."""
        tokens = x.flatten(0, -2).to(self.W_router.device)
        out = tokens.new_zeros(len(tokens), len(self.W_in), x.shape[-1])
        for index, token, written in self._each(tokens, operations):
            out = out.index_put((token, torch.full_like(token, index)), written)
        return out.view(*x.shape[:-1], *out.shape[1:]).to(x.device)

    def _each(
        self, tokens: Float[Tensor, "token d_model"], operations: Operations
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each expert that is chosen, the tokens that chose it, and what it writes for them."""
        weights, chosen = self.route(tokens)
        weights = operations.routing(weights)
        for index in chosen.unique().tolist():
            token, place = (chosen == index).nonzero(as_tuple=True)
            yield index, token, self.expert(index)(tokens[token], operations) * weights[token, place, None]
