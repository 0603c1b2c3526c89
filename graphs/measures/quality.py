"""How good a circuit is: faithfulness, completeness, minimality, accuracy kept, and divergence from the model.

With m the mean of a metric over prompts, C a circuit and M the model (all edges):

| measure       | what                                                       | of a perfect circuit |
| ------------- | ---------------------------------------------------------- | -------------------- |
| faithfulness  | (m(C) - m(corrupted)) / (m(clean) - m(corrupted))          | 1                    |
| completeness  | the same of the complement, all edges outside of C         | 0                    |
| minimality    | (m(C) - m(C without e)) / (m(clean) - m(corrupted)), edge by edge | nowhere 0     |
| accuracy kept | of the prompts that the model answers right, the share that C does | 1            |
| divergence    | mean KL(M || C) at the answer position, in nats            | 0                    |

m(clean) is the model's, m(corrupted) that of the circuit without edges: under patching the model on the corrupted prompts.
Measure on prompts that the circuit was not found with.

    pairs = planted.load("ioi").task.pairs(100, split="test")
    measured = measure(model, circuit, pairs, metric)[0]
    measured.faithfulness, measured.completeness
    minimality(model, circuit, pairs, metric).by_edge()       # {"a0.h1->a2.h3<q>": 0.41, ...}

References: Wang et al. 2023, Interpretability in the Wild, section 4 (the three criteria; their completeness compares circuit
and model under further knock-outs, the complement's faithfulness is the single number of it that needs no search). Hanna,
Pezzelle and Belinkov 2024, Have Faith in Faithfulness (faithfulness between corrupted and clean).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from edge_circuits.graphs import Circuit, PromptPairs
from edge_circuits.graphs.measures.values import Ends, Trial, check_circuits, checked, values_of
from edge_circuits.graphs.metrics import Metric, as_metric
from edge_circuits.graphs.prompts.pairs import in_order
from edge_circuits.graphs.running.cached_run import CachedRun
from edge_circuits.graphs.running.dependents import bit_columns, leading_to_logits, leads_on
from edge_circuits.graphs.running.incremental import run_candidates
from edge_circuits.graphs.running.patching import Intervention
from edge_circuits.graphs.surroundings import in_plain_surroundings
from edge_circuits.graphs.tables import Table

STACKED_TOKENS = 1024


@dataclass(frozen=True, eq=False)
class Measures:
    """What a circuit does, prompt by prompt, and the measures of it.

    Attributes:
        circuit: The circuit.
        ends: The metric of the whole model and with every edge cut.
        values: The circuit's metric. [pair]
        complement: The metric of all edges outside of the circuit. [pair]
        divergences: KL(model || circuit) at the answer position, in nats. [pair]
        right: Whether the circuit's answer is right; None for pairs without answers. [pair]
        model_right: Whether the model's is. [pair]
    """

    circuit: Circuit
    ends: Ends
    values: Float[Tensor, "pair"]
    complement: Float[Tensor, "pair"]
    divergences: Float[Tensor, "pair"]
    right: Bool[Tensor, "pair"] | None
    model_right: Bool[Tensor, "pair"] | None

    @property
    def faithfulness(self) -> float:
        """The share of the metric that the circuit recovers: 0 as corrupted, 1 as clean; may lie outside."""
        return self.ends.share(self.values).item()

    @property
    def completeness(self) -> float:
        """The faithfulness of the complement: 0 where nothing outside of the circuit helps."""
        return self.ends.share(self.complement).item()

    @property
    def accuracy(self) -> float | None:
        """The share of prompts that the circuit answers right; None without answers."""
        return None if self.right is None else self.right.double().mean().item()

    @property
    def accuracy_kept(self) -> float | None:
        """Of the prompts that the model answers right, the share that the circuit does; None if there are none."""
        if self.right is None or not self.model_right.any():
            return None
        return self.right[self.model_right].double().mean().item()

    @property
    def divergence(self) -> float:
        """Mean KL(model || circuit) at the answer position, in nats."""
        return self.divergences.mean().item()

    def table(self) -> Table:
        """All measures, each with that of a perfect circuit."""
        rows = (
            ("faithfulness", self.faithfulness, 1),
            ("completeness", self.completeness, 0),
            ("accuracy", self.accuracy, None),
            ("accuracy kept", self.accuracy_kept, 1),
            ("divergence, nats", self.divergence, 0),
        )
        kept = tuple(row for row in rows if row[1] is not None)
        counts = f"{self.circuit.n_edges} of {self.circuit.graph.n_edges} edges, {len(self.values)} prompts"
        return Table(("measure", "circuit", "perfect"), kept, counts)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@dataclass(frozen=True, eq=False)
class Minimality:
    """What each edge of a circuit is worth inside of it.

    Attributes:
        circuit: The circuit.
        ends: The metric of the whole model and with every edge cut.
        values: The circuit's metric. [pair]
        without: The metric of the circuit without one edge, in the order of `circuit.edges`. [edge pair]
    """

    circuit: Circuit
    ends: Ends
    values: Float[Tensor, "pair"]
    without: Float[Tensor, "edge pair"]

    @property
    def costs(self) -> Float[Tensor, "edge"]:
        """What the circuit loses without each edge, in units of clean minus corrupted; negative: it gains."""
        return (self.values - self.without).mean(1) / self.ends.span

    def by_edge(self) -> dict[str, float]:
        """The cost of each edge by name, in edge order."""
        return dict(zip(self.circuit.edges, self.costs.tolist()))


@in_plain_surroundings
def measure(
    model: nn.Module,
    circuits: Circuit | Sequence[Circuit],
    pairs: PromptPairs,
    metric: Metric | str,
    intervention: Intervention = "patching",
    *,
    batch_size: int | None = None,
) -> list[Measures]:
    """Measure circuits, all but minimality; what they share is computed once.

    Args:
        model: A TransformerLens model; left unchanged.
        circuits: One or more of the model's graph.
        pairs: Prompts, best ones that the circuits were not found with.
        metric: `metric(logits, pairs)`, one value a prompt; or a metric's name.
        intervention: What a cut edge reads: `patching`, `zero`, `mean` or `mean-positional` (means over all `pairs`).
        batch_size: Prompts in a batch; by default as many as fit in 4,096 tokens.

    Raises:
        ValueError: No circuit, one of another graph, or a metric that cutting every edge does not change.
    """
    circuits = list(circuits) if isinstance(circuits, (list, tuple)) else [circuits]
    check_circuits(circuits)
    asked = [*circuits, *(~circuit for circuit in circuits)]
    found = values_of(model, asked, pairs, metric, intervention, batch_size=batch_size)
    found.ends.check()
    n, rights = len(circuits), found.right
    return [
        Measures(
            circuit=circuit,
            ends=found.ends,
            values=found.metric[row],
            complement=found.metric[n + row],
            divergences=found.divergence[row],
            right=None if rights is None else rights[row],
            model_right=found.model_right,
        )
        for row, circuit in enumerate(circuits)
    ]


@in_plain_surroundings
@torch.no_grad()
def minimality(
    model: nn.Module,
    circuit: Circuit,
    pairs: PromptPairs,
    metric: Metric | str,
    intervention: Intervention = "patching",
    *,
    batch_size: int | None = None,
) -> Minimality:
    """Cut each edge of a circuit in turn, the others staying as they are.

    The circuit runs once a batch; edges into one destination are tried stacked, and only what follows is computed again
    (`edge_circuits.graphs.running.incremental`). An edge that no path of kept edges leads on to `logits` costs nothing.

    Arguments are those of `measure`.

    Raises:
        ValueError: The circuit is of another graph, or cutting every edge does not change the metric.
    """
    trial = Trial(model, circuit.graph, pairs, intervention, batch_size)
    metric = as_metric(metric, trial.transformer, pairs)
    full, empty = Circuit.full(circuit.graph), Circuit.empty(circuit.graph)
    parts = []
    for batch, cut in trial.each():
        ends = [checked(metric, trial.logits(end, batch, cut), batch) for end in (full, empty)]
        cached = CachedRun(trial.transformer, circuit.mask, batch, cut)
        own = checked(metric, cached.logits, batch)
        without = list(_without(cached, circuit, batch, metric, own))
        parts.append(torch.stack([*ends, own, *without], dim=1))
    rows = in_order(trial.batches, parts).T
    result = Minimality(circuit, Ends(rows[0], rows[1]), rows[2], rows[3:])
    result.ends.check()
    return result


def _without(
    cached: CachedRun, circuit: Circuit, batch: PromptPairs, metric: Metric, own: Float[Tensor, "batch"]
) -> Iterator[Float[Tensor, "batch"]]:
    """The metric without each edge, in edge order: by destination, then by source."""
    n_stacked = max(1, STACKED_TOKENS // (len(batch) * (int(batch.positions.max()) + 1)))
    leading = leading_to_logits(circuit.graph, bit_columns(circuit.mask))
    for destination in circuit.mask.any(0).nonzero()[:, 0].tolist():
        column = circuit.mask[:, destination]
        for chosen in column.nonzero()[:, 0].split(n_stacked):
            if not leads_on(circuit.graph, leading, destination):
                yield from [own] * len(chosen)
                continue
            kept = column.repeat(len(chosen), 1)
            kept[torch.arange(len(chosen)), chosen] = False
            yield from (checked(metric, logits, batch) for logits in run_candidates(cached, destination, kept))
