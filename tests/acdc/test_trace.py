"""Traces: what they tell, and their files."""

from __future__ import annotations

import json

import pytest

from edge_circuits import acdc
from edge_circuits.acdc.trace import Trace, agreed, is_kept
from edge_circuits.graphs import Circuit, Graph
from edge_circuits.graphs.files.documents import sealed

GRAPH = Graph(1, 1, mlps=False)
EDGES = ("a0.h0->logits", "input->logits", "input->a0.h0<v>", "input->a0.h0<k>", "input->a0.h0<q>")


def trace(**changed):
    """Five decisions: kept, cut, kept, a near tie, and one that was never tried."""
    columns = dict(
        start=Circuit.full(GRAPH),
        threshold=0.5,
        change="signed",
        start_value=1.0,
        edges=EDGES,
        values=(2.0, 1.25, 1.8, 1.25 + 0.5 - 1e-9, None),
        kept=(True, False, True, False, False),
        noise=1e-9,
        complete=True,
        settings={"model": "toy", "metric": "kl"},
    )
    return Trace(**(columns | changed))


def test_decisions():
    decisions = trace().decisions
    assert [each.edge for each in decisions] == list(EDGES)
    assert [each.value_before for each in decisions] == [1.0, 1.0, 1.25, 1.25, 1.75 - 1e-9]
    assert [each.near_tie for each in decisions] == [False, False, False, True, False]
    assert trace().near_ties == (decisions[3],)
    assert (trace().n_tried, trace().n_kept, trace().value) == (4, 2, 1.75 - 1e-9)


def test_the_circuit_carries_its_trace():
    circuit = trace().circuit
    assert circuit == Circuit.from_edges(GRAPH, [EDGES[0], EDGES[2]])
    assert circuit.trace == trace()
    assert circuit.metadata["threshold"] == 0.5 and circuit.metadata["n_near_ties"] == 1
    assert type(circuit.live()) is Circuit


def test_edges_not_yet_decided_are_in_the_circuit():
    half = trace(edges=EDGES[:2], values=(2.0, 1.25), kept=(True, False), complete=False)
    assert half.circuit == Circuit.full(GRAPH) - Circuit.from_edges(GRAPH, [EDGES[1]])


@pytest.mark.parametrize("threshold", [0.5, float("inf")])
@pytest.mark.parametrize("start", [Circuit.full(GRAPH), Circuit.from_edges(GRAPH, EDGES[:3])], ids=["full", "pruned"])
def test_files_hold_everything(tmp_path, threshold, start):
    n = 5 if start == Circuit.full(GRAPH) else 3
    whole = trace(threshold=threshold, start=start, edges=EDGES[:n], values=trace().values[:n], kept=trace().kept[:n])
    whole.save(tmp_path / "trace.jsonl")
    assert Trace.load(tmp_path / "trace.jsonl") == whole


def test_a_file_is_a_header_and_a_line_for_each_decision(tmp_path):
    trace().save(tmp_path / "trace.jsonl")
    header, *lines = map(json.loads, (tmp_path / "trace.jsonl").read_text().splitlines())
    assert header["n_decisions"] == 5 and header["settings"]["model"] == "toy"
    assert lines[1] == ["input->logits", 1.0, 1.25, False]


def test_circuits_are_saved_without_their_trace(tmp_path):
    trace().circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json") == trace().circuit


@pytest.mark.parametrize("n_bytes", [1, 30, 100])
def test_torn_files_are_refused(tmp_path, n_bytes):
    path = tmp_path / "trace.jsonl"
    trace().save(path)
    path.write_bytes(path.read_bytes()[:-n_bytes])
    with pytest.raises(ValueError, match=r"trace.jsonl: expected .*, got a torn .*; delete it to begin anew"):
        Trace.load(path)


@pytest.mark.parametrize(
    "line, column, value, message",
    [
        (0, "format", "other", "trace.jsonl: expected a trace, got another file; delete it"),
        (0, "version", 99, '"version": expected at most 2, got 99'),
        (0, "n_decisions", 6, "expected 6 decisions, got a torn file of 5"),
        (2, 0, "a0.h0->logits", "expected one decision for each edge at the start, got an edge twice"),
        (2, 0, "m0->logits", "unknown source 'm0'"),
        (0, "noise", None, '"noise": expected a finite number from 0, got None'),
        (0, "threshold", "many", '"threshold": expected a finite number from 0, got'),
        (2, 3, 1, "kept: expected True or False, got 1"),
        (2, 2, "x", "value: expected a finite number, got 'x'"),
        (3, 1, 7.0, "expected values that follow from one another, got others"),
    ],
)
def test_other_files_are_refused(tmp_path, line, column, value, message):
    path = tmp_path / "trace.jsonl"
    trace().save(path)
    lines = [json.loads(each) for each in path.read_text().splitlines()]
    lines[line][column] = value
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    with pytest.raises(ValueError):
        Trace.load(path)
    del lines[0]["digest"]
    lines[0]["digest"] = sealed({**lines[0], "rows": lines[1:]})["digest"]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    with pytest.raises(ValueError, match=message):
        Trace.load(path)


def test_a_changed_file_is_refused_and_one_of_version_1_read_with_a_warning(tmp_path):
    path = tmp_path / "trace.jsonl"
    trace().save(path)
    text = path.read_text()
    path.write_text(text.replace("toy", "top"))
    with pytest.raises(ValueError, match='"digest": expected .*, got .*changed after it was written; delete it'):
        Trace.load(path)
    header, *rows = text.splitlines()
    old = {name: value for name, value in json.loads(header).items() if name != "digest"} | {"version": 1}
    path.write_text("\n".join([json.dumps(old), *rows]) + "\n")
    with pytest.warns(UserWarning, match="a file of an older version has no digest"):
        assert Trace.load(path) == trace()


def test_a_trace_that_calls_itself_complete_and_is_not(tmp_path):
    half = trace(edges=EDGES[:2], values=(2.0, 1.25), kept=(True, False))
    half.save(tmp_path / "trace.jsonl")
    with pytest.raises(ValueError, match="as the file calls itself complete, got fewer"):
        Trace.load(tmp_path / "trace.jsonl")


def test_how_far_another_threshold_agrees():
    assert agreed(trace(), 0.5) == 5
    assert agreed(trace(), 0.2) == 1  # there input->logits, whose cut costs 0.25, stays
    assert agreed(trace(), 2.0) == 0
    assert agreed(trace(), 0.52) == 5
    assert agreed(trace(), 0.6) == 2


def test_when_an_edge_is_kept():
    assert is_kept(1.0, 1.5, 0.5, "signed") and not is_kept(1.0, 1.5, 0.51, "signed")
    assert not is_kept(1.0, 0.0, 0.5, "signed") and is_kept(1.0, 0.0, 0.5, "absolute")
    assert is_kept(1.0, 1.0, 0.0, "signed") and not is_kept(1.0, 1.0, float("inf"), "absolute")


def test_a_real_trace_survives_its_file(trained, tmp_path):
    found = acdc.discover(*trained, "kl", 0.01, quiet=True).trace
    found.save(tmp_path / "trace.jsonl")
    assert Trace.load(tmp_path / "trace.jsonl") == found
