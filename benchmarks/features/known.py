"""Known features: those that tell the number of the noun that counts, as the grammar that wrote the sentences knows it.

1. Fresh sentences of a structure are drawn, with both nouns' numbers and all words independent of one another.
2. At each position each feature's value is compared between singular and plural sentences: the share of pairs of sentences
   that it puts in the right order (the area under its ROC curve for the number).
3. A feature that tells the number better than `TELLS` (or as well the other way round) is known to carry it there.

So it says what a feature tells, not what the model does with it; a score of effects can differ with reason. What is beside:
features of single nouns, of the second noun's number, of the determiner or the verb.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor, nn

from edge_circuits.benchmarks.features.prompts import Agreement
from edge_circuits.benchmarks.statistics.roc_curves import area_under_roc
from edge_circuits.graphs.features.dictionary import AnyDictionary
from edge_circuits.graphs.features.nodes import FeatureNodes
from edge_circuits.graphs.features.running import Dissection
from edge_circuits.graphs.prompts.pairs import in_order

TELLS = 0.9


@torch.no_grad()
def telling(model: nn.Module, dictionaries: Sequence[AnyDictionary], drawn: Agreement) -> list[Tensor]:
    """How well each feature tells the number, [pos feature] for each dictionary: from 0.5, not at all, to 1."""
    dissection = Dissection(model, dictionaries, drawn.pairs, "patching")
    kept = [dissection.forward(batch.clean, batch) for batch in dissection.batches]
    found = []
    for number, dictionary in enumerate(dissection.dictionaries):
        values = [dictionary.active(dissection.parts(number, each).features) for each in kept]
        found.append(_areas(in_order(dissection.batches, values), drawn.numbers == 1))
    return found


def _areas(values: Float[Tensor, "pair pos feature"], plural: Bool[Tensor, " pair"]) -> Float[Tensor, "pos feature"]:
    """Mann and Whitney's statistic, ties by halves, whichever way round."""
    ranks = rankdata(values.cpu().numpy(), axis=0)
    n, m = int(plural.sum()), int((~plural).sum())
    area = (ranks[plural.numpy()].sum(0) - n * (n + 1) / 2) / (n * m)
    return torch.from_numpy(numpy.maximum(area, 1 - area))


def known_area(nodes: FeatureNodes, tells: Sequence[Tensor]) -> tuple[float, int, int]:
    """The area under the ROC curve of |score| for known features, with how many there are, and how many others.

    All features whose value differs between singular and plural sentences at all take part, scored zero where the table
    has them not; errors do not.
    """
    labels, scores = [], []
    for number, area in enumerate(tells):
        dense = torch.zeros_like(area)
        rows = (nodes.index[:, 0] == number) & ~nodes.is_error
        dense[nodes.index[rows, 1], nodes.index[rows, 2]] = nodes.scores[rows].to(dense).abs()
        labels.append((area >= TELLS)[area > 0.5])
        scores.append(dense[area > 0.5])
    label, score = torch.cat(labels), torch.cat(scores)
    return area_under_roc(label, score).item(), int(label.sum()), int((~label).sum())
