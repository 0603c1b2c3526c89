"""Features in the hub's other families: runs are the model's own, sums those of nodes, heads' edges those of the graph."""

from __future__ import annotations

import pytest
from dictionaries import random_dictionary
from hub_models import hub_model
from models import curved, prompt_pairs
from test_feature_edges import every, summed

from edge_circuits.eap.feature_edges import score_feature_edges
from edge_circuits.eap.feature_scores import score_features
from edge_circuits.eap.node_scores import score_nodes
from edge_circuits.eap.scoring import score
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.features.dictionary import Coordinates, heads, neurons
from edge_circuits.graphs.features.running import run_features
from edge_circuits.graphs.features.sites import Site
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.execution import run

EVEN = prompt_pairs([6, 6], seed=3)


@pytest.mark.parametrize("kind", ["gemma3", "olmo2", "granite", "cohere", "gpt-oss"])
def test_a_familys_own_steps_are_in_runs_scores_and_edges(kind: str) -> None:
    model, transformer = hub_model(kind), adapt(hub_model(kind))
    own = run(model, Circuit.full(transformer.graph), EVEN)
    for dictionaries in (heads(model), neurons(model) if kind != "gpt-oss" else heads(model)):
        found = run_features(model, dictionaries, every(dictionaries), EVEN)
        assert (found - own).abs().max() < 1e-12 * own.abs().max()
    width = transformer.W_U.shape[0]
    dictionaries = [random_dictionary(Site(at, 0), width) for at in ("attention_out", "mlp_out")]
    features = score_features(model, dictionaries, EVEN, curved, "relp", quiet=True)
    nodes = score_nodes(model, EVEN, curved, "relp", quiet=True)
    for number, dictionary in enumerate(dictionaries):
        expected = nodes.mean(dictionary.site.kind)[0].sum().item()
        assert features.total(number) == pytest.approx(expected, rel=1e-10)
    whole = [Coordinates(Site("embed"), 1, width), *heads(model)]
    edges = summed(score_feature_edges(model, whole, every(whole), EVEN, curved, "relp"))
    scored = score(model, EVEN, curved, "relp", quiet=True)
    for (start, end), value in edges.items():
        place = scored.graph.source_index(start), scored.graph.destination_index(end)
        assert abs(value - scored.scores[place].item()) < 1e-12 * scored.scores.abs().max()
    assert len(edges) > 20


@pytest.mark.parametrize("kind", ["mixtral", "gpt-oss"])
def test_layers_of_experts_have_no_neurons(kind: str) -> None:
    with pytest.raises(ValueError, match="no MLP with one layer of neurons"):
        neurons(hub_model(kind))
    table = [Coordinates(Site("neurons", 0), 40)]
    with pytest.raises(ValueError, match="no MLP with one layer of neurons there"):
        run_features(hub_model(kind), table, every(table), EVEN)
