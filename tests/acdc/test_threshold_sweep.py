"""Many thresholds, and sweeps that are interrupted."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from counting import IDENTIFIED, Counting, Stopped
from models import logit_difference

from edge_circuits import acdc
from edge_circuits.acdc import algorithm
from edge_circuits.acdc.search import Search
from edge_circuits.acdc.trace import Trace
from edge_circuits.graphs import Circuit, Graph, prune, run

THRESHOLDS = [0.1, 0.003, 0.02, 0.5]


@pytest.fixture(params=["kl", logit_difference], ids=["kl", "logit_difference"])
def metric(request):
    return request.param


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
def test_circuits_are_those_of_single_sweeps(trained, metric):
    found = acdc.sweep(*trained, metric, THRESHOLDS, quiet=True)
    assert found.thresholds == tuple(sorted(THRESHOLDS))
    for threshold, trace in zip(found.thresholds, found.traces):
        alone = acdc.discover(*trained, metric, threshold, quiet=True).trace
        assert trace.edges == alone.edges and trace.kept == alone.kept
        assert [value is None for value in trace.values] == [value is None for value in alone.values]
        pairs = [(a, b) for a, b in zip(trace.values, alone.values) if a is not None]
        assert all(a == pytest.approx(b, abs=1e-12) for a, b in pairs)


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
def test_the_largest_threshold_an_edge_survives(trained, metric):
    found = acdc.sweep(*trained, metric, THRESHOLDS, quiet=True)
    graph = found.traces[0].graph
    singles = {threshold: acdc.discover(*trained, metric, threshold, quiet=True) for threshold in THRESHOLDS}
    for edge in graph.edges:
        survived = [threshold for threshold, circuit in singles.items() if edge in circuit]
        assert found.survival[graph.edge_index(edge)] == max(survived, default=0)
    assert found.scored.metadata["method"] == "acdc"
    kept = prune(found.scored, threshold=0.1)
    assert kept == Circuit(graph, found.survival >= 0.1).live()


def test_what_thresholds_share_is_tried_once(trained, monkeypatch):
    def n_tried(thresholds):
        tried.clear()
        acdc.sweep(*trained, "kl", thresholds, quiet=True)
        return sum(tried)

    tried, values = [], Search.values

    def counted(self, runs, destination, candidates):
        tried.append(len(candidates))
        return values(self, runs, destination, candidates)

    monkeypatch.setattr(Search, "values", counted)
    alone = n_tried([0.02])
    assert n_tried([0.02, 0.02 * (1 + 1e-9)]) == alone  # the same decisions: nothing is tried again
    assert alone < n_tried([0.02, 0.021]) < alone + n_tried([0.021])


def test_a_sweep_of_a_pruned_graph(trained):
    model, pairs = trained
    graph = Graph.from_model(model)
    circuit = Circuit(graph, graph.edge_mask & (torch.arange(graph.n_sources) % 3 != 1)[:, None])
    found = acdc.sweep(model, pairs, "kl", [0.02], circuit=circuit, quiet=True)
    assert found.traces[0] == acdc.refine(model, circuit, pairs, "kl", 0.02, quiet=True).trace
    assert not found.survival[~circuit.mask].any()


@pytest.mark.parametrize("thresholds", [[], [0.1, 0.1]])
def test_thresholds_are_refused(trained, thresholds):
    with pytest.raises(ValueError, match="thresholds: expected one or more different numbers, got"):
        acdc.sweep(*trained, "kl", thresholds, quiet=True)


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
@pytest.mark.parametrize("seed", range(3))
def test_interrupted_at_random_points_ends_as_if_it_had_not_been(trained, tmp_path, monkeypatch, seed):
    monkeypatch.setattr(algorithm, "FRESH_AFTER", 9)
    whole = acdc.sweep(*trained, logit_difference, THRESHOLDS, checkpoint=tmp_path / "whole", quiet=True)
    generator, n_interruptions, n_files = random.Random(seed), 0, set()
    while True:
        metric = Counting(generator.randrange(20, 120))
        try:
            found = acdc.sweep(*trained, metric, THRESHOLDS, checkpoint=tmp_path / "cut", quiet=True)
            break
        except Stopped:
            n_interruptions += 1
            n_files.add(len(list((tmp_path / "cut").iterdir())))
    assert found == whole  # every number, bit for bit
    assert n_interruptions > 3 and len(n_files) > 2
    for trace in found.traces:
        name = f"threshold-{trace.threshold!r}.jsonl"
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_discover_continues_from_its_checkpoint(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(algorithm, "FRESH_AFTER", 9)
    path = tmp_path / "begun" / "threshold-0.3.jsonl"
    whole = acdc.discover(*trained, logit_difference, 0.3, quiet=True).trace
    with pytest.raises(Stopped):
        acdc.discover(*trained, Counting(40), 0.3, checkpoint=path.parent, quiet=True)
    begun = Trace.load(path)
    assert 0 < len(begun.edges) < len(whole.edges) and not begun.complete
    assert acdc.discover(*trained, logit_difference, 0.3, checkpoint=path.parent, quiet=True).trace == whole
    assert Trace.load(path) == whole


def test_a_finished_sweep_is_only_read(trained, tmp_path):
    whole = acdc.discover(*trained, logit_difference, 0.3, checkpoint=tmp_path, quiet=True).trace
    only_the_start = Counting(IDENTIFIED + 2)
    assert acdc.discover(*trained, only_the_start, 0.3, checkpoint=tmp_path, quiet=True).trace == whole


def test_checkpoints_of_other_sweeps_are_refused(trained, tmp_path):
    model, pairs = trained
    acdc.discover(model, pairs, "kl", 0.3, checkpoint=tmp_path, quiet=True)
    (tmp_path / "threshold-0.2.jsonl").write_bytes((tmp_path / "threshold-0.3.jsonl").read_bytes())
    for changed, name in [
        (dict(threshold=0.2), "threshold"),
        (dict(metric=logit_difference), "metric"),
        (dict(pairs=pairs[:4]), "n_prompts"),
        (dict(pairs=pairs[[1, 0, 2, 3, 4, 5]]), "prompts"),
        (dict(change="absolute"), "change"),
        (dict(intervention="zero"), "intervention"),
        (dict(order=list(reversed(Graph.from_model(model).edges))), "order"),
    ]:
        arguments = dict(pairs=pairs, metric="kl", threshold=0.3) | changed
        with pytest.raises(
            ValueError, match=f"checkpoint: expected a trace of this sweep, whose {name} is .* begin anew"
        ):
            acdc.discover(model, checkpoint=tmp_path, quiet=True, **arguments)


def test_a_file_is_no_folder_for_traces(trained, tmp_path):
    whole = acdc.discover(*trained, "kl", 0.3, quiet=True).trace
    whole.save(tmp_path / "trace.jsonl")
    with pytest.raises(
        ValueError, match="checkpoint: expected a folder, got the file .*trace.jsonl; give a folder; .* move"
    ):
        acdc.discover(*trained, "kl", 0.3, checkpoint=tmp_path / "trace.jsonl", quiet=True)


def test_the_model_comes_back_as_it_was(trained):
    model, pairs = trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    n_hooks = count_hooks(model)
    acdc.sweep(model, pairs, "kl", [0.02], quiet=True)
    with pytest.raises(Stopped):
        acdc.sweep(model, pairs, Counting(30), [0.02], quiet=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert count_hooks(model) == n_hooks
    assert torch.is_grad_enabled() and not model.training


def count_hooks(model):
    """How many hooks a model's modules have; a bridge has some of its own."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_a_trace_of_a_scaled_metric_is_refused(trained, tmp_path):
    model, pairs = trained
    factor = [1.0]

    def metric(logits, pairs):
        return factor[0] * logit_difference(logits, pairs)

    acdc.discover(model, pairs, metric, 0.3, checkpoint=tmp_path, quiet=True)
    factor[0] = 100.0
    with pytest.raises(ValueError, match="a trace of this sweep, whose metric's values is .* begin anew"):
        acdc.discover(model, pairs, metric, 0.3, checkpoint=tmp_path, quiet=True)


def test_a_trace_of_a_metric_that_differs_where_edges_are_cut_is_refused(trained, tmp_path):
    model, pairs = trained
    cut, factor = run(model, Circuit.empty(Graph.from_model(model)), pairs).detach(), [1.0]

    def metric(logits, pairs):
        is_cut = (logits - cut[pairs.indices]).abs().amax(-1) < 1e-9
        return torch.where(is_cut, factor[0], 1.0) * logit_difference(logits, pairs)

    acdc.discover(model, pairs, metric, 0.3, checkpoint=tmp_path, quiet=True)
    factor[0] = 1.5
    with pytest.raises(ValueError, match="checkpoint: expected value with all edges cut .* begin anew"):
        acdc.discover(model, pairs, metric, 0.3, checkpoint=tmp_path, quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(start_value=lambda value: value + 0.1), "expected start value"),
        (dict(kept=lambda kept: (not kept[0], *kept[1:])), "expected decisions by threshold 0.3"),
    ],
)
def test_a_trace_whose_numbers_cannot_be_is_refused(trained, tmp_path, change, message):
    whole = acdc.discover(*trained, logit_difference, 0.3, checkpoint=tmp_path, quiet=True).trace
    ((name, changed),) = change.items()
    replace(whole, **{name: changed(getattr(whole, name))}).save(tmp_path / "threshold-0.3.jsonl")
    with pytest.raises(ValueError, match=f"checkpoint: {message}.*begin anew"):
        acdc.discover(*trained, logit_difference, 0.3, checkpoint=tmp_path, quiet=True)
