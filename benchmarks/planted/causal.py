"""A causal model: what each node of a circuit is to compute, and what comes out when some edges are cut.

A `Variable` belongs to a node of the circuit. It says which sources the node reads through which input and what it
computes from their values, so the circuit's edges and the causal model are one statement and cannot disagree:

1. every variable is computed on the corrupted prompts;
2. then on the clean prompts, where the destination of a cut edge reads the source's corrupted value;
3. the value of `logits` is the answer that the model must give when the same edges are cut.

Cutting all out-edges of a node is the interchange intervention of Geiger et al. 2021 (Causal Abstractions of Neural
Networks); here single edges are interchanged too, so that the network's edges are tied to the causal model's one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

INPUTS = "inputs"  # the one input of an MLP and of `logits`; heads have q, k and v


@dataclass(frozen=True)
class Variable:
    """What one node computes.

    Attributes:
        node: A head, an MLP or `logits`.
        compute: Takes, by input name (`q`, `k`, `v`, or `inputs`), the list of values of the sources read there.
        reads: Input name -> sources, of those inputs through which the node reads what differs between prompts.
    """

    node: str
    compute: Callable[..., Tensor]
    reads: Mapping[str, tuple[str, ...]]

    def destination(self, name: str) -> str:
        """The destination of that input, e.g. `a1.h0<q>` or `m1`."""
        return self.node if name == INPUTS else f"{self.node}<{name}>"

    def edges(self, name: str) -> tuple[str, ...]:
        """The in-edges of that input."""
        return tuple(f"{source}->{self.destination(name)}" for source in self.reads[name])


def head(node: str, compute: Callable[..., Tensor], **reads: tuple[str, ...]) -> Variable:
    """The variable of a head; `reads` has q, k and v, as far as they matter."""
    return Variable(node, compute, reads)


def sink(node: str, compute: Callable[..., Tensor], *sources: str) -> Variable:
    """The variable of an MLP or of `logits`, which have one input."""
    return Variable(node, compute, {INPUTS: sources})


def total(
    inputs: list[Float[Tensor, "batch d_vocab"]], strength: float | Sequence[float]
) -> Float[Tensor, "batch d_vocab"]:
    """Logits: what the movers moved, added up, by one strength for all or by each mover's own."""
    if isinstance(strength, float):
        return strength * torch.stack(inputs).sum(0)
    return sum(each * moved for each, moved in zip(strength, inputs, strict=True))


@dataclass(frozen=True)
class CausalModel:
    """Variables in the order of computation, `logits` last."""

    variables: tuple[Variable, ...]

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """All edges of the circuit."""
        return tuple(edge for variable in self.variables for name in variable.reads for edge in variable.edges(name))

    def out_edges(self, source: str) -> tuple[str, ...]:
        """The edges of the circuit that begin at a source."""
        return tuple(edge for edge in self.edges if edge.startswith(f"{source}->"))

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """`input` and the nodes that other nodes read."""
        return ("input", *(variable.node for variable in self.variables[:-1]))

    def logits(self, clean: Tensor, corrupted: Tensor, cut: Collection[str] = ()) -> Float[Tensor, "batch d_vocab"]:
        """The answer to the clean prompts when the given edges are cut to the corrupted ones.

        Args:
            clean: The value of `input` on the clean prompts, first axis batch.
            corrupted: The same on the corrupted prompts.
            cut: Edges; those outside the circuit change nothing.
        """
        return self.values(clean, cut, self.values(corrupted))["logits"]

    def values(
        self, inputs: Tensor, cut: Collection[str] = (), cut_values: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The value of every node; the destination of a cut edge reads the source's value in `cut_values`."""
        values = {"input": inputs}
        for variable in self.variables:
            reads = {
                name: [
                    (cut_values if edge in cut else values)[source]
                    for source, edge in zip(sources, variable.edges(name))
                ]
                for name, sources in variable.reads.items()
            }
            values[variable.node] = variable.compute(**reads)
        return values
