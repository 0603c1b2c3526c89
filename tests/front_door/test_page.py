"""What a page holds, and that the file is whole and safe, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from edge_circuits.eap.intervals import error_bars
from edge_circuits.eap.verification import Check, Verification
from edge_circuits.graphs import Circuit, Graph, PromptPairs, ScoredGraph, prune
from edge_circuits.graphs.drawing.looks import EDGE_COLOURS
from edge_circuits.graphs.measures.curves import Curve
from edge_circuits.graphs.measures.quality import Measures
from edge_circuits.graphs.measures.values import Ends
from edge_circuits.page.payload import Prompts, Side
from edge_circuits.page.report import page_text, write_page

PAGE = Path(__file__).parents[2] / "edge_circuits" / "page"


def scores_of(graph: Graph, seed: int = 0, **metadata: object) -> ScoredGraph:
    """Scores with many ties, so that the order of edges matters."""
    values = torch.randint(
        -9, 10, (graph.n_sources, graph.n_destinations), generator=torch.Generator().manual_seed(seed)
    )
    return ScoredGraph(graph, values.float() * graph.edge_mask, metadata)


def payload_of(path: Path) -> dict:
    """The JSON of a page."""
    return json.loads(re.search(r'id="payload">(.*?)</script>', path.read_text(), re.DOTALL).group(1))


def names_of(graph: Graph, side: dict, n: int | None = None) -> list[str]:
    places = list(zip(side["source"], side["destination"]))[:n]
    return [f"{graph.sources[s]}->{graph.destinations[d]}" for s, d in places]


def test_edges_come_in_the_order_in_which_prune_takes_them(tmp_path: Path) -> None:
    scores = scores_of(Graph(3, 2), model="m", task="t")
    content = payload_of(write_page(tmp_path / "a.html", scores, k=7))
    for k in (1, 7, 30, scores.graph.n_edges):
        first = names_of(scores.graph, content["sides"][0], k)
        assert Circuit.from_edges(scores.graph, first).live() == prune(scores, k)
    assert (content["k"], content["most"], content["title"]) == (7, scores.graph.n_edges, "m, t")


def test_of_a_large_graph_the_best_edges_and_the_circuits_own_are_given(tmp_path: Path) -> None:
    scores = scores_of(Graph(3, 2))
    circuit = prune(scores, 40, by="negative")
    content = payload_of(write_page(tmp_path / "b.html", Side(scores, circuit=circuit), most=10))
    side = content["sides"][0]
    given, best = names_of(scores.graph, side), [edge for edge, _ in scores.top(10)]
    assert given[:10] == best and content["most"] == side["most"] == 10
    assert set(given[10:]) == set(circuit.edges) - set(best) != set()
    assert [edge for edge, kept in zip(given, side["kept"]) if kept] == [edge for edge in given if edge in circuit]
    assert content["alone"]  # it is not what the slider would show


def test_a_pruned_circuit_begins_as_the_slider_shows_it(tmp_path: Path) -> None:
    scores = scores_of(Graph(3, 2))
    content = payload_of(write_page(tmp_path / "a.html", Side(scores, circuit=prune(scores, 20))))
    assert content["k"] == 20 and not content["alone"]


def test_a_circuit_alone_gives_its_own_edges(tmp_path: Path) -> None:
    circuit = prune(scores_of(Graph(3, 2)), 20)
    content = payload_of(write_page(tmp_path / "a.html", circuit))
    assert set(names_of(circuit.graph, content["sides"][0])) == set(circuit.edges) and content["k"] == len(circuit)
    bare = payload_of(write_page(tmp_path / "b.html", Circuit(circuit.graph, circuit.mask)))
    assert "score" not in bare["sides"][0] and names_of(circuit.graph, bare["sides"][0]) == list(circuit.edges)


def test_intervals_and_exact_effects_stand_beside_their_edges(tmp_path: Path) -> None:
    graph = Graph(2, 2)
    parts = torch.stack([scores_of(graph, seed).scores for seed in range(4)])
    scores = ScoredGraph(graph, parts.sum(0), {}, parts)
    bars, edge = error_bars(scores), graph.edges[5]
    side = payload_of(write_page(tmp_path / "a.html", Side(scores, bars=bars, exact={edge: -0.25})))["sides"][0]
    row = names_of(graph, side).index(edge)
    place = graph.edge_index(edge)
    assert side["exact"][row] == -0.25 and [v for v in side["exact"] if v is not None] == [-0.25]
    assert side["low"][row] == pytest.approx(bars.low[place].item(), rel=1e-5)
    assert side["stability"][row] == pytest.approx(bars.sign_stability[place].item(), rel=1e-5)


def test_what_was_measured_is_told(tmp_path: Path) -> None:
    scores = scores_of(Graph(2, 2), metric="logit_difference", method="eap")
    ends = Ends(torch.tensor([2.0, 4.0]).double(), torch.zeros(2).double())
    circuit, values = prune(scores, 10), torch.tensor([1.0, 3.5]).double()
    measures = Measures(circuit, ends, values, values * 0, values, None, None)
    pairs = PromptPairs([[1, 2], [1, 3, 4]], [[1, 5], [1, 6, 4]], [7, 8], [[9, 10], [9]])
    curve = Curve((0.5, 1.0), (16, 33), (9, 33), 33, ends, torch.stack([values, ends.clean]), torch.zeros(2, 2))
    checks = Verification((Check("logits", 1e-6, 1e-3), Check("spoilt", float("nan"), 0.3, False, "it is <refused>")))
    path = write_page(
        tmp_path / "a.html", scores, curve=curve, verification=checks, prompts=Prompts(measures, pairs, note="held out")
    )
    content = payload_of(path)
    assert content["headline"].endswith("edges recover 75.0% of logit_difference on 2 prompts. 1 of 2 checks failed.")
    assert content["curve"]["faithfulness"] == [0.75, 1.0] and content["curve"]["k"] == [16, 33]
    assert content["curve"]["low"][0] <= 0.75 <= content["curve"]["high"][0]
    assert [check["passed"] for check in content["checks"]] == [True, False] and content["checks"][1]["value"] is None
    first = content["prompts"]["rows"][0]
    assert (first["clean"], first["answers"], first["wrong"]) == (["1 ", "2 "], ["7 "], ["9 ", "10 "])
    assert (first["model"], first["circuit"], first["cut"]) == (2.0, 1.0, 0.0)


class Joining:
    """A tokenizer that, as many do, puts spaces between words alone, and takes two tokens for the last letter."""

    WORDS = ("", "", "so", "far", "\ufffd", "\ufffd")

    def decode(self, ids: list[int]) -> str:
        text = " ".join(self.WORDS[token] for token in ids)
        return text.replace("\ufffd \ufffd", "\u00e9")


def test_tokens_keep_their_spaces(tmp_path: Path) -> None:
    scores = scores_of(Graph(2, 2))
    ends, values = Ends(torch.ones(1).double(), torch.zeros(1).double()), torch.ones(1).double()
    measures = Measures(prune(scores, 10), ends, values, values, values, None, None)
    pairs = PromptPairs([[2, 3, 4, 5]], [[2, 3, 4, 5]], [[3]], [[2, 3]])
    shown = payload_of(write_page(tmp_path / "a.html", scores, prompts=Prompts(measures, pairs, Joining())))
    row = shown["prompts"]["rows"][0]
    assert row["clean"] == ["so", " far", " \ufffd", "\ufffd"]
    assert (row["answers"], row["wrong"]) == (["far"], ["so", "far"])


def test_prompts_that_were_not_measured_are_refused(tmp_path: Path) -> None:
    scores, values = scores_of(Graph(2, 2)), torch.ones(3)
    measures = Measures(prune(scores, 3), Ends(values, values * 0), values, values, values, None, None)
    with pytest.raises(ValueError, match="expected the 3 that were measured, got 1"):
        write_page(tmp_path / "a.html", scores, prompts=Prompts(measures, PromptPairs([[1]], [[2]])))
    assert not list(tmp_path.iterdir())


def test_scores_without_a_sign_say_nothing_of_helping_or_hurting(tmp_path: Path) -> None:
    for method, signed in (("eap", True), ("information-flow-routes", False)):
        side = payload_of(write_page(tmp_path / "a.html", scores_of(Graph(2, 2), method=method)))["sides"][0]
        assert side["signed"] is signed


def test_texts_cannot_end_the_script_that_they_stand_in(tmp_path: Path) -> None:
    path = write_page(tmp_path / "a.html", scores_of(Graph(2, 2)), title="</script><script>alert(1)</script>")
    assert path.read_text().count("</script>") == 2 and "alert(1)</script>" not in path.read_text()
    assert payload_of(path)["title"] == "</script><script>alert(1)</script>"


def test_a_part_may_hold_the_mark_of_another() -> None:
    text = page_text({"title": "{{script}} {{payload}}"})
    assert "<title>{{script}} {{payload}}</title>" in text and "{{style}}" not in text


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"k": -1}, "k: expected 0 to most=5000"),
        ({"k": 11, "most": 10}, "k: expected 0 to most=10"),
        ({"there": scores_of(Graph(2, 3))}, "there: expected scores or a circuit of the same graph"),
        ({"there": "eap"}, "found: expected a ScoredGraph or a Circuit, got str"),
    ],
)
def test_what_makes_no_page_is_refused(tmp_path: Path, kwargs: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write_page(tmp_path / "a.html", scores_of(Graph(2, 2)), **kwargs)


def test_infinite_scores_and_sides_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    scores = scores_of(Graph(2, 2))
    endless = ScoredGraph(scores.graph, scores.graph.edge_mask * torch.tensor(1e38) * 10)
    with pytest.raises(ValueError, match="scores: expected finite numbers"):
        write_page(tmp_path / "a.html", endless)
    with pytest.raises(ValueError, match="circuit: expected one of the graph of the scores"):
        Side(scores, circuit=Circuit.full(Graph(2, 3)))
    with pytest.raises(ValueError, match="circuit: expected one of the graph of the scores"):
        Side(Circuit.full(scores.graph), circuit=Circuit.full(scores.graph))


def test_the_page_has_the_colours_of_the_drawings_and_stays_small() -> None:
    style = (PAGE / "page.css").read_text()
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", style.split("data-theme")[0]))
    assert {name: light[name] for name in EDGE_COLOURS} == EDGE_COLOURS
    files = [file for file in PAGE.iterdir() if file.suffix in (".js", ".css", ".html")]
    assert sum(len(file.read_text().splitlines()) for file in files) <= 715
