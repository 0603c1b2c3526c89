"""Scored graphs: copied in, read by name, refused when they do not fit."""

from __future__ import annotations

import math
import re

import pytest
import torch

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.scores import ScoredGraph

SMALL = Graph(1, 1)
NAMES = {"input->a0.h0<q>": 0.5, "input->a0.h0<v>": -3.0, "a0.h0->m0": 3.0, "input->logits": -1.0}


def by_hand(dtype: torch.dtype = torch.float64) -> ScoredGraph:
    scores = torch.zeros(SMALL.n_sources, SMALL.n_destinations, dtype=dtype)
    for name, score in NAMES.items():
        scores[SMALL.edge_index(name)] = score
    return ScoredGraph(SMALL, scores, {"method": "by hand"})


def test_scores_are_read_by_name() -> None:
    scored = by_hand()
    assert {name: scored.score(name) for name in SMALL.edges if scored.score(name)} == NAMES
    with pytest.raises(ValueError, match="unknown source 'm3': layer 3 is out of range"):
        scored.score("m3->logits")


def test_values_are_in_edge_order(graph: Graph) -> None:
    scores = torch.rand(graph.n_sources, graph.n_destinations) * graph.edge_mask
    scored = ScoredGraph(graph, scores)
    assert scored.values.tolist() == [scored.score(name) for name in graph.edges]


def test_top_is_by_absolute_score_and_ties_are_in_edge_order() -> None:
    assert by_hand().top(3) == [("input->a0.h0<v>", -3.0), ("a0.h0->m0", 3.0), ("input->logits", -1.0)]
    assert by_hand().top(0) == []
    tops = by_hand().top(99)
    assert [name for name, _ in tops[4:]] == [name for name in SMALL.edges if name not in NAMES]
    assert sorted(name for name, _ in tops) == sorted(SMALL.edges)


@pytest.mark.parametrize("n", [-1, 1.0, True, None])
def test_top_takes_a_count(n: object, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="n: expected a whole number from 0, got"):
        by_hand().top(n)


def test_scores_and_metadata_are_copied_on_the_way_in() -> None:
    scores = torch.zeros(SMALL.n_sources, SMALL.n_destinations, requires_grad=True)
    metadata = {"settings": {"steps": 5}}
    scored = ScoredGraph(SMALL, scores, metadata)
    with torch.no_grad():
        scores += 1
    metadata["settings"]["steps"] = 6
    assert not scored.scores.any() and not scored.scores.requires_grad
    assert scored.metadata == {"settings": {"steps": 5}}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_precision_is_kept_and_half_widened(given: torch.dtype, kept: torch.dtype) -> None:
    assert by_hand(given).scores.dtype == kept
    assert by_hand(given).score("a0.h0->m0") == 3.0


def test_equality_is_of_graph_scores_and_metadata() -> None:
    scored = by_hand()
    assert scored == by_hand() and scored != by_hand(torch.float32) and scored != 3
    assert scored != ScoredGraph(SMALL, scored.scores * 2, scored.metadata)
    assert scored != ScoredGraph(SMALL, scored.scores, {"method": "another"})
    other = Graph(1, 1, parallel=True)
    assert ScoredGraph(SMALL, scored.scores * other.edge_mask) != ScoredGraph(other, scored.scores * other.edge_mask)


REFUSED_SCORES = [
    (
        torch.zeros(5, 3),
        r"scores: expected a tensor of shape \(3, 5\) \[source destination\], got torch.float32 of shape \(5, 3\)",
    ),
    ([[0.0] * 5] * 3, "got list"),
    (
        torch.zeros(3, 5, dtype=torch.int64),
        r"scores: expected floating point, got torch.int64; convert them with .float",
    ),
    (
        torch.ones(3, 5),
        "expected 0 where there is no edge, got 7 others, the first at source a0.h0 and destination a0.h0<q>",
    ),
    (torch.full((3, 5), math.nan), "expected 0 where there is no edge, got 7 others"),
]


@pytest.mark.parametrize(("scores", "message"), REFUSED_SCORES)
def test_scores_that_do_not_fit_are_refused(scores: object, message: str, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=message):
        ScoredGraph(SMALL, scores)


@pytest.mark.parametrize(("bad", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_scores_that_cannot_be_ranked_are_named(bad: float, text: str) -> None:
    scores = by_hand().scores.clone()
    scores[SMALL.edge_index("input->logits")] = math.nan  # a later edge of an earlier source
    scores[SMALL.edge_index("a0.h0->m0")] = bad
    scored = ScoredGraph(SMALL, scores)
    for call in (scored.check_finite, lambda: scored.top(2)):
        with pytest.raises(ValueError, match=rf"got 2 of 8 NaN or infinite, the first {text} for a0.h0->m0"):
            call()


# As a user looks at them


def test_edges_are_looked_up_counted_and_iterated() -> None:
    scored = by_hand()
    assert len(scored) == SMALL.n_edges and list(scored) == list(SMALL.edges)
    assert all(scored[edge] == scored.score(edge) for edge in scored)
    with pytest.raises(ValueError, match="unknown edge 'a0.h0'"):
        scored["a0.h0"]


def test_the_table_says_what_helps_and_what_hurts() -> None:
    scored = by_hand()
    table = scored.table(3)
    assert table.columns == ("edge", "score", "effect") and [row[:2] for row in table] == scored.top(3)
    assert all(effect == ("helps" if score < 0 else "hurts") for _, score, effect in table if score)
    sizes = ScoredGraph(SMALL, scored.scores.abs(), {"signed": False})
    assert sizes.table().columns == ("edge", "score") and not sizes.has_sign
    assert str(table) in str(ScoredGraph(SMALL, scored.scores)).replace(str(scored.table(10)), str(table))


def test_a_frame_has_every_edge(graph: Graph) -> None:
    pytest.importorskip("pandas")
    scores = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(0)) * graph.edge_mask
    frame = ScoredGraph(graph, scores).to_pandas()
    assert [f"{a}->{b}" for a, b in zip(frame["source"], frame["destination"])] == list(graph.edges)
    assert frame["score"].tolist() == ScoredGraph(graph, scores).values.tolist()


def test_heads_and_layers_add_up_what_leaves_and_enters_them(graph: Graph) -> None:
    """Against sums over names."""
    scores = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(1)) * graph.edge_mask
    scored = ScoredGraph(graph, scores.double())
    sizes = {edge: abs(scored[edge]) for edge in scored}

    def total(*, leaving: str = "", entering: str = "") -> float:
        pairs = ((edge.split("->"), size) for edge, size in sizes.items())
        return sum(
            size for (a, b), size in pairs if re.fullmatch(leaving or ".*", a) and re.fullmatch(entering or ".*", b)
        )

    for name, out, into, net in scored.heads():
        assert out == pytest.approx(total(leaving=name))
        groups = graph.n_heads // (graph.n_kv_heads or graph.n_heads)
        layer, head = map(int, name[1:].split(".h"))
        own = rf"a{layer}\.h{head}<q>|a{layer}\.h{head // groups}<[kv]>"
        assert into == pytest.approx(total(entering=own))
        assert net == pytest.approx(sum(scored[edge] for edge in scored if edge.startswith(f"{name}->")))
    for row in scored.layers():
        known = dict(zip(scored.layers().columns, row))
        for part in "qkv":
            assert known[f"into {part}"] == pytest.approx(total(entering=rf"a{row[0]}\.h\d+<{part}>"))
        assert known["out of heads"] == pytest.approx(total(leaving=rf"a{row[0]}\.h\d+"))
        if graph.mlps:
            assert known["into MLP"] == pytest.approx(total(entering=f"m{row[0]}"))
            assert known["out of MLP"] == pytest.approx(total(leaving=f"m{row[0]}"))


def test_scores_show_what_they_are() -> None:
    shown = str(ScoredGraph(SMALL, by_hand().scores, {"model": "toy", "method": "eap"}))
    assert shown.startswith(f"Scores of {SMALL.n_edges} edges: toy, eap\nedge")
