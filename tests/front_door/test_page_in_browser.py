"""The page in a real browser: the slider prunes as `prune` does, and everything else that a reader can do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from browser import Browser
from test_page import scores_of

from edge_circuits.eap.verification import Check, Verification
from edge_circuits.graphs import Circuit, Graph, ScoredGraph, prune
from edge_circuits.graphs.measures.curves import Curve
from edge_circuits.graphs.measures.values import Ends
from edge_circuits.page.payload import Side
from edge_circuits.page.report import write_page

GRAPHS = {
    "sequential": Graph(3, 3),
    "parallel": Graph(3, 2, parallel=True),
    "attention only": Graph(4, 3, mlps=False),
    "key-value heads": Graph(2, 4, n_kv_heads=2),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_slider_prunes_as_prune_does(browser: Browser, tmp_path: Path, name: str) -> None:
    scores = scores_of(GRAPHS[name], seed=3)
    browser.open(write_page(tmp_path / "a.html", scores, k=0))
    for k in (0, 1, 2, 5, 11, 25, 40, scores.graph.n_edges):
        browser.choose(k)
        assert set(browser.edges()) == set(prune(scores, min(k, scores.graph.n_edges)).edges), k
    assert not browser.errors()


def test_nothing_leaves_the_page_and_nothing_fails(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path / "a.html", scores_of(Graph(3, 3)))
    browser.open(path)
    for script in ("document.getElementById('theme').click()", "document.querySelector('.node').focus()"):
        browser.do(script)
    assert not browser.errors()
    assert {url for url in browser.requests() if not url.startswith("data:")} == {path.as_uri()}


def test_the_slider_has_keys(browser: Browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    scores = scores_of(Graph(3, 3))
    browser.open(write_page(tmp_path / "a.html", scores, k=30))
    browser.do("document.getElementById('k').focus()")
    browser.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.do("return document.getElementById('number').value") == "32"
    assert set(browser.edges()) == set(prune(scores, 32).edges)
    browser.keys(Keys.HOME)
    assert browser.edges() == [] and "No path of these edges leads from input to logits; from" in browser.text(
        "figcaption"
    )
    first = next(k for k in range(scores.graph.n_edges) if len(prune(scores, k)))
    assert f"from {first} edges on one does" in browser.text("figcaption")


def test_a_click_traces_what_leads_to_and_from_a_node(browser: Browser, tmp_path: Path) -> None:
    graph = Graph(3, 2, mlps=False)
    kept = [
        "input->a0.h0<q>",
        "input->a0.h1<v>",
        "a0.h0->a1.h0<k>",
        "a0.h1->a1.h1<q>",
        "a1.h0->a2.h0<v>",
        "a2.h0->logits",
        "a1.h1->logits",
    ]
    browser.open(write_page(tmp_path / "a.html", Circuit.from_edges(graph, kept)))
    click = "document.querySelector(`[data-node='${arguments[0]}']`).dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    bright = "return [...document.querySelectorAll('.node:not(.dim)')].map((node) => node.dataset.node)"
    assert len(browser.do(bright)) == 7
    browser.do(click, "a1.h0")
    assert set(browser.do(bright)) == {"input", "a0.h0", "a1.h0", "a2.h0", "logits"}
    assert "1 edges in, 1 out" in browser.text("#selected")
    browser.keys("\ue00c")  # Escape
    assert len(browser.do(bright)) == 7
    browser.do(
        "[...document.querySelectorAll('#table button')].find((b) => b.textContent === arguments[0]).click()",
        "a0.h1->a1.h1<q>",
    )
    assert set(browser.do(bright)) == {"input", "a0.h1", "a1.h1", "logits"}


def test_arrow_keys_walk_and_enter_traces(browser: Browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(write_page(tmp_path / "a.html", Circuit.full(Graph(2, 2))))
    browser.do("document.querySelector('[data-node=\"logits\"]').focus()")
    browser.keys(Keys.ARROW_DOWN)
    assert browser.do("return document.activeElement.dataset.node") == "m1"
    browser.keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert browser.do("return document.activeElement.dataset.node").startswith("a1.h")
    browser.keys(Keys.ENTER)
    assert browser.count(".node.selected") == 1 and not browser.do("return document.getElementById('tip').hidden")


def test_search_finds_and_enter_goes_on(browser: Browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(write_page(tmp_path / "a.html", Circuit.full(Graph(2, 2))))
    browser.keys("/", "a1.h0")
    assert browser.do("return document.activeElement.id") == "search" and browser.count(".node.found") == 1
    assert "found" in browser.text("#found")
    browser.keys(Keys.ENTER)
    assert browser.text("#selected b") == "a1.h0"
    browser.keys(Keys.ENTER)
    assert "->" in browser.text("#selected b")


def test_filters_hide_and_do_not_prune(browser: Browser, tmp_path: Path) -> None:
    scores = scores_of(Graph(3, 2))
    live = prune(scores, 40).edges
    browser.open(write_page(tmp_path / "a.html", scores, k=40))
    browser.toggle("q")
    assert set(browser.edges()) == {edge for edge in live if "<q>" not in edge}
    browser.toggle("hurts")
    assert set(browser.edges()) == {edge for edge in live if "<q>" not in edge and scores.score(edge) <= 0}
    assert f"{len(live)} live, {len(browser.edges())} shown" in browser.text("#count")
    browser.toggle("q"), browser.toggle("hurts")
    browser.do(
        "const from = document.querySelector('[aria-label=\"from layer\"]'); from.value = 1; from.dispatchEvent(new Event('input'))"
    )
    assert set(browser.edges()) == {edge for edge in live if "a0." not in edge and "m0" not in edge}


def test_a_circuit_that_is_not_the_best_edges_is_shown_alone(browser: Browser, tmp_path: Path) -> None:
    scores = scores_of(Graph(3, 2))
    circuit = prune(scores, 30, by="negative")
    browser.open(write_page(tmp_path / "a.html", Side(scores, circuit=circuit)))
    assert set(browser.edges()) == set(circuit.edges)
    browser.toggle("others")
    assert set(browser.edges()) == set(prune(scores, 30).edges)


def test_two_circuits_side_by_side(browser: Browser, tmp_path: Path) -> None:
    one, other = (scores_of(Graph(3, 2), seed, method=method) for seed, method in ((0, "eap"), (1, "relp")))
    browser.open(write_page(tmp_path / "a.html", one, other, k=40))
    here, there = prune(one, 40), prune(other, 40)
    flipped = {edge for edge in (here & there).edges if one.score(edge) * other.score(edge) < 0}
    expected = {"shared": set((here & there).edges) - flipped, "only here": set((here - there).edges)}
    expected |= {"only there": set((there - here).edges), "sign flipped": flipped}
    assert set(browser.edges()) == set().union(*expected.values()) and browser.count("#drawings figure") == 2
    column = "return Object.fromEntries([...document.querySelectorAll('#table tr[data-edge]')].map((row) => [row.dataset.edge, row.children[4].textContent]))"
    for edge, where in browser.do(column).items():
        assert edge in expected[where]
    browser.toggle("only here")
    assert not set(browser.edges()) & expected["only here"] and not browser.errors()
    browser.choose(1)
    assert browser.text("figcaption").startswith("eap: 0 edges. No path of these edges")


def test_curve_checks_and_grid_are_drawn(browser: Browser, tmp_path: Path) -> None:
    scores = scores_of(Graph(2, 2))
    ends = Ends(torch.tensor([2.0, 4.0]).double(), torch.zeros(2).double())
    curve = Curve(
        (0.5, 1.0), (16, 46), (9, 46), 46, ends, torch.tensor([[1.0, 3.5], [2.0, 4.0]]).double(), torch.zeros(2, 2)
    )
    checks = Verification((Check("logits", 1.26e-6, 1e-3), Check("Pearson", 0.1, 0.3, False, "too few")))
    browser.open(write_page(tmp_path / "a.html", scores, k=20, curve=curve, verification=checks))
    assert browser.text("#measured").startswith("Nearest measured: at 16 edges 0.750")
    browser.do("document.querySelector('circle[data-k=\"46\"]').dispatchEvent(new MouseEvent('click'))")
    assert browser.text("#measured").startswith("At 46 edges 1.000") and len(browser.edges()) == 46
    assert "1.26e−6 (at most 0.001)" in browser.text("#checks")
    assert "1 of 2 checks failed." in browser.text("#checks") and browser.count("#checks .failed") == 1
    assert browser.count("#grid td button") == 2 * 3
    assert not browser.errors()


def test_an_edge_under_the_pointer_is_told(browser: Browser, tmp_path: Path) -> None:
    graph = Graph(1, 1, mlps=False)
    scores = ScoredGraph(graph, torch.tensor([[0.0, 0.0, 0.0, -0.5], [0.0] * 4]) * graph.edge_mask, {})
    browser.open(write_page(tmp_path / "a.html", Side(scores, exact={"input->logits": -0.75}), k=1))
    script = """const box = document.querySelector('.stage').getBoundingClientRect();
        const [a, b] = ['input', 'logits'].map((n) => document.querySelector(`[data-node=${n}]`).getBoundingClientRect());
        const at = { clientX: a.left + a.width / 2, clientY: a.top - 4, bubbles: true };
        document.querySelector('.stage').dispatchEvent(new PointerEvent('pointermove', at));
        return document.getElementById('tip').innerText"""
    told = browser.do(script)
    assert "input->logits" in told and "score −0.5" in told and "exact effect of cutting it −0.75" in told
    assert "helps: cutting it lowers the metric" in told


def test_five_thousand_edges_of_gpt2s_shape(browser: Browser, tmp_path: Path) -> None:
    graph = Graph(12, 12)
    noise = torch.randn(graph.n_sources, graph.n_destinations, generator=torch.Generator().manual_seed(0))
    scores = ScoredGraph(graph, noise * graph.edge_mask)
    browser.open(write_page(tmp_path / "a.html", scores, k=5000))
    assert (
        browser.count("#table tr[data-edge]") == 200
        and browser.text("#more") == f"Show all {len(prune(scores, 5000)):,}"
    )
    assert browser.text("#count") == f"{len(prune(scores, 5000)):,} live"
    browser.choose(700)
    assert browser.text("#count").strip() == f"{len(prune(scores, 700)):,} live" and not browser.errors()
