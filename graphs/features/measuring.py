"""How good circuits of features are: faithfulness and completeness over the number of nodes.

    faithfulness(C) = (m(C) - m(nothing)) / (m(model) - m(nothing)),   completeness(C) = faithfulness(all but C)

A good circuit has faithfulness near 1 and, complete, leaves nothing behind: completeness near 0.

Reference: Marks et al. 2024, Sparse Feature Circuits, section 4, figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.features.dictionary import AnyDictionary
from edge_circuits.graphs.features.nodes import FeatureNodes
from edge_circuits.graphs.features.running import Dissection, Errors, run_nodes
from edge_circuits.graphs.measures.values import Ends, checked
from edge_circuits.graphs.metrics import Metric, as_metric
from edge_circuits.graphs.prompts.pairs import in_order
from edge_circuits.graphs.running.patching import Intervention


@dataclass(frozen=True, eq=False)
class FeatureCurve:
    """Circuits of growing size, cut from one table of scores.

    Attributes:
        sizes: nodes of each circuit.
        ends: the metric of the model, and with every node cut.
        values: the metric of each circuit. [size pair]
        complements: of all nodes but the circuit's. [size pair]
    """

    sizes: tuple[int, ...]
    ends: Ends
    values: Float[Tensor, "size pair"]
    complements: Float[Tensor, "size pair"]

    @property
    def faithfulness(self) -> Float[Tensor, " size"]:
        """The share of the metric that each circuit recovers; 1 is the model's."""
        return self.ends.share(self.values)

    @property
    def completeness(self) -> Float[Tensor, " size"]:
        """The share that is left without the circuit; near 0, the circuit is complete."""
        return self.ends.share(self.complements)


@torch.no_grad()
def feature_curves(
    model: nn.Module,
    dictionaries: Sequence[AnyDictionary],
    scored: Mapping[str, FeatureNodes],
    pairs: PromptPairs,
    metric: Metric | str,
    sizes: Sequence[int],
    intervention: Intervention = "mean-positional",
    *,
    errors: Errors = "nodes",
    batch_size: int | None = None,
) -> dict[str, FeatureCurve]:
    """The curve of each table of scores: its `sizes` nodes with the largest scores are kept, or all but them.

    Args:
        model: a TransformerLens model; left unchanged.
        dictionaries: those that the nodes were found with.
        scored: tables of scores by name, best made on other prompts.
        sizes: numbers of nodes; a table with fewer nodes gives all it has.
        intervention: what is cut becomes; means are taken over `pairs`.
        errors: as for `run_features`; also with nothing kept.

    Raises:
        ValueError: nodes of other dictionaries, or a metric that cutting everything does not change.
    """
    dissection = Dissection(model, dictionaries, pairs, intervention, batch_size)
    metric = as_metric(metric, dissection.transformer, pairs)
    circuits = {name: [nodes.top(size) for size in sizes] for name, nodes in scored.items()}
    nothing = next(iter(scored.values())).top(0)
    asked = [
        (nothing, False),
        *((one, other) for all_sizes in circuits.values() for other in (False, True) for one in all_sizes),
    ]
    parts = []
    for batch in dissection.batches:
        clean = dissection.logits(dissection.forward(batch.clean, batch), batch)
        runs = (run_nodes(dissection, batch, nodes, errors, complement) for nodes, complement in asked)
        parts.append(torch.stack([checked(metric, logits, batch) for logits in (clean, *runs)], dim=1))
    rows = in_order(dissection.batches, parts).T
    ends = Ends(rows[0], rows[1])
    ends.check()
    found = zip(circuits.items(), rows[2:].split(2 * len(sizes)))
    return {
        name: FeatureCurve(tuple(map(len, all_sizes)), ends, values[: len(sizes)], values[len(sizes) :])
        for (name, all_sizes), values in found
    }
