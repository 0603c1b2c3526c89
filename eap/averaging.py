"""`mean_scores`: the mean of several methods' scores.

    scores = mean_scores([score(model, pairs, metric, method) for method in ("eap", "relp")])

Scores with a sign estimate one thing in one unit, the change of the metric, so their mean estimates it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edge_circuits.eap.methods.lookup import known
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.checks import refusal


def mean_scores(scored: Sequence[ScoredGraph]) -> ScoredGraph:
    """The mean of scores of one model, edge by edge, and group by group where all of them have groups.

    Args:
        scored: What `score` or `score_groups` gave, with the same metric and intervention and as many prompts.

    Raises:
        ValueError: Nothing to take a mean of; scores of different graphs, metrics, interventions or prompts; or of a method
            whose scores have no sign.
    """
    if not scored:
        raise refusal("scored", "one result of `score` or more", "none")
    first = scored[0]
    for one in scored:
        if one.graph != first.graph:
            raise refusal("scored", f"scores of {first.graph} alone", f"some of {one.graph}", "score one model")
        asked, expected = (_asked(each) for each in (one, first))
        if asked != expected:
            raise refusal("scored", f"one metric, intervention and number of prompts, {expected}", str(asked))
        method = one.metadata.get("method")
        if method in known() and not known()[method].signed:
            raise refusal("scored", "scores with a sign", f"those of method {method!r}", "leave them out")
    groups = [one.per_group for one in scored]
    same = all(each is not None and each.shape == groups[0].shape for each in groups)
    metadata = {key: first.metadata[key] for key in ("model", "d_model", "metric", "versions") if key in first.metadata}
    metadata |= {"method": "mean", "of": [dict(one.metadata) for one in scored]}
    mean = torch.stack([one.scores.double() for one in scored]).mean(0).to(first.scores.dtype)
    return ScoredGraph(first.graph, mean, metadata, torch.stack(groups).mean(0) if same else None)


def _asked(one: ScoredGraph) -> dict[str, object]:
    settings = one.metadata.get("settings", {})
    return {
        "metric": one.metadata.get("metric"),
        **{name: settings.get(name) for name in ("intervention", "n_prompts")},
    }
