"""Plans: only live nodes, on the rows that are read, each from the shorter of two sums."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.running.plan import Mixture, Plan, make_plan

SEQUENTIAL = Graph(2, 2)
DEEP = Graph(3, 2)
GROUPED = Graph(2, 4, n_kv_heads=2)


def plan_of(graph: Graph, *edges: str, intervention: str = "patching") -> Plan:
    return make_plan(graph, Circuit.from_edges(graph, edges).mask, intervention)


def nodes(plan: Plan) -> dict[str, str]:
    """The nodes that a plan computes, and where."""
    computed = {}
    for layer, each in enumerate(plan.layers):
        computed |= {f"a{layer}.h{head}": "everywhere" for head in each.everywhere.heads}
        computed |= {f"a{layer}.h{head}": "answer" for head in each.at_answer.heads}
        if each.mlp is not None:
            computed[f"m{layer}"] = "everywhere" if each.mlp_everywhere else "answer"
    return computed


def reads(plan: Plan, mixture: Mixture) -> tuple[str, set[str]]:
    """A mixture in words: where it starts, and the sources that it adds or takes away."""
    return "cut" if mixture.from_cut else "current", {plan.graph.sources[source] for source in mixture.sources}


def test_no_edges_need_no_node() -> None:
    plan = plan_of(SEQUENTIAL)
    assert nodes(plan) == {}
    assert plan.logits.is_cut
    assert not plan.individual and not plan.keeps_current


def test_all_edges_need_every_node_and_no_single_source() -> None:
    plan = make_plan(DEEP, DEEP.edge_mask, "patching")
    assert nodes(plan) == {name: "answer" if "2" in name[:2] else "everywhere" for name in DEEP.sources[1:]}
    assert plan.keeps_current and not plan.individual
    assert reads(plan, plan.logits) == ("current", set())


def test_the_input_alone_is_a_mixture_of_logits() -> None:
    plan = plan_of(SEQUENTIAL, "input->logits")
    assert nodes(plan) == {}
    assert reads(plan, plan.logits) == ("current", set())  # `input` is all that can differ from the cut stream


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        (["input->a0.h1<v>", "a0.h1->logits"], {"a0.h1": "answer"}),
        (["input->a0.h1<v>", "a0.h1->a1.h0<q>", "a1.h0->logits"], {"a0.h1": "answer", "a1.h0": "answer"}),
        (["input->a0.h1<v>", "a0.h1->a1.h0<k>", "a1.h0->logits"], {"a0.h1": "everywhere", "a1.h0": "answer"}),
        (["input->a0.h1<v>", "a0.h1->a1.h0<v>", "a1.h0->logits"], {"a0.h1": "everywhere", "a1.h0": "answer"}),
        (["input->m0", "m0->m1", "m1->logits"], {"m0": "answer", "m1": "answer"}),
        (
            ["input->m0", "m0->a1.h1<k>", "a1.h1->m1", "m1->logits"],
            {"m0": "everywhere", "a1.h1": "answer", "m1": "answer"},
        ),
        # a head that is read by a node everywhere is needed everywhere, whatever the letter
        (
            ["input->a0.h0<q>", "a0.h0->m0", "m0->a1.h0<v>", "a1.h0->logits"],
            {"a0.h0": "everywhere", "m0": "everywhere", "a1.h0": "answer"},
        ),
    ],
)
def test_rows_are_those_that_are_read(edges: list[str], expected: dict[str, str]) -> None:
    assert nodes(plan_of(SEQUENTIAL, *edges)) == expected


def test_the_rows_of_a_chain_of_queries_and_of_keys() -> None:
    chain = ["input->a0.h0<v>", "a0.h0->a1.h0<{}>", "a1.h0->a2.h0<{}>", "a2.h0->logits"]
    queries = nodes(plan_of(DEEP, *(edge.format("q") for edge in chain)))
    assert queries == {"a0.h0": "answer", "a1.h0": "answer", "a2.h0": "answer"}
    keys = nodes(plan_of(DEEP, *(edge.format("k") for edge in chain)))
    assert keys == {"a0.h0": "everywhere", "a1.h0": "everywhere", "a2.h0": "answer"}


def test_dead_ends_are_not_computed() -> None:
    edges = ["input->a0.h0<v>", "a0.h0->logits"]
    nowhere = ["input->m0", "input->a1.h0<q>"]  # nothing reads m0 or a1.h0
    assert nodes(plan_of(SEQUENTIAL, *edges, *nowhere)) == {"a0.h0": "answer"}


def test_nodes_without_a_live_input_are_computed_only_where_cut_values_are_no_run() -> None:
    edges = ["a0.h0->a1.h1<v>", "a1.h1->logits", "m0->logits"]  # nothing comes from `input`
    assert nodes(plan_of(SEQUENTIAL, *edges)) == {}
    without_a_run = plan_of(SEQUENTIAL, *edges, intervention="mean")
    assert nodes(without_a_run) == {"a0.h0": "everywhere", "a1.h1": "answer", "m0": "answer"}
    assert all(mixture.is_cut for mixture in without_a_run.layers[0].everywhere.reads["v"])


@pytest.mark.parametrize("intervention", ["patching", "zero", None])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("graph", [DEEP, GROUPED, Graph(3, 2, parallel=True), Graph(3, 3, mlps=False)])
def test_computed_nodes_are_the_live_ones(
    graph: Graph, density: float, intervention: str, random_mask: Callable
) -> None:
    for seed in range(5):
        circuit = Circuit(graph, random_mask(graph, density, seed))
        live = circuit.nodes_to_logits
        live = live & circuit.nodes_from_input if intervention == "patching" else live
        expected = {name for name, is_live in zip(graph.sources, live.tolist()) if is_live}
        plan = make_plan(graph, circuit.mask, intervention)
        assert set(nodes(plan)) == expected - {"input"}
        assert torch.equal(plan.computed[1:], live[1:]) and plan.computed[0]


def test_a_key_value_head_makes_all_heads_of_its_group() -> None:
    plan = plan_of(GROUPED, "input->a0.h1<k>", "a0.h1->logits", "a0.h2->logits", "a0.h3->logits")
    assert nodes(plan) == {"a0.h2": "answer", "a0.h3": "answer"}  # key-value head 1 serves query heads 2 and 3
    heads = plan.layers[0].at_answer
    assert heads.reads["k"][0] is heads.reads["k"][1] and not heads.reads["k"][0].is_cut
    assert all(mixture.is_cut for mixture in heads.reads["q"] + heads.reads["v"])


def test_the_shorter_sum_is_taken() -> None:
    few = ["input->a0.h0<v>", "input->a0.h1<v>", "input->m0", "a0.h0->logits", "a0.h1->m0", "m0->logits", "input->m1"]
    plan = plan_of(SEQUENTIAL, *few)
    assert nodes(plan) == {"a0.h0": "answer", "a0.h1": "answer", "m0": "answer"}
    assert reads(plan, plan.logits) == ("cut", {"a0.h0", "m0"})  # two kept and two cut of the four that can differ
    plan = plan_of(SEQUENTIAL, *few, "input->logits")
    assert reads(plan, plan.logits) == ("current", {"a0.h1"})
    assert reads(plan, plan.layers[0].mlp) == ("current", {"a0.h0"})
    assert plan.keeps_current
    assert {plan.graph.sources[source] for source in plan.individual} == {"a0.h0", "a0.h1"}


def test_destinations_that_read_the_same_share_a_mixture() -> None:
    mask = DEEP.edge_mask.clone()
    mask[DEEP.edge_index("input->a2.h1<k>")] = False
    heads = make_plan(DEEP, mask, "patching").layers[2].at_answer
    alike = {mixture for part in "qkv" for mixture in heads.reads[part]}
    assert len(alike) == 2
    assert heads.reads["k"][0] is heads.reads["q"][1] is not heads.reads["k"][1]


def test_a_soft_mask_names_every_source_it_keeps_and_how_much() -> None:
    weights = torch.zeros(SEQUENTIAL.edge_mask.shape)
    weights[SEQUENTIAL.edge_index("input->a0.h0<v>")] = 0.25
    weights[SEQUENTIAL.edge_index("a0.h0->logits")] = 1.0
    weights[SEQUENTIAL.edge_index("input->logits")] = -0.5
    plan = make_plan(SEQUENTIAL, weights.requires_grad_(), "patching")
    assert nodes(plan) == {"a0.h0": "answer"}
    assert reads(plan, plan.logits) == ("cut", {"input", "a0.h0"})
    assert plan.logits.weights.tolist() == [-0.5, 1.0]
    assert plan.logits.weights.requires_grad
    assert not plan.keeps_current


def test_entries_that_are_no_edges_are_ignored() -> None:
    everything = torch.ones_like(SEQUENTIAL.edge_mask)
    assert nodes(make_plan(SEQUENTIAL, everything, "patching")) == nodes(
        make_plan(SEQUENTIAL, SEQUENTIAL.edge_mask, "patching")
    )
