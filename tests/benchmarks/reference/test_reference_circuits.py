"""The reference circuits against the counts that their authors state, and against their rules written out again."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from edge_circuits.benchmarks.reference.circuits import TASKS, load_reference, reference_circuit, variants
from edge_circuits.benchmarks.reference.universes import candidate_labels
from edge_circuits.graphs.nodes import Edge, Node, parse_edge

SIZES = {
    ("ioi", "acdc"): (963, 32491),
    ("ioi", "autocircuit"): (739, 32491),
    ("ioi", "autocircuit-end14"): (771, 32491),
    ("docstring", "acdc"): (24, 1281),
    ("docstring", "autocircuit"): (24, 1281),
    ("docstring", "autocircuit-heads"): (588, 1281),
    ("greater_than", "acdc"): (235, 32491),
    ("greater_than", "autocircuit"): (235, 32491),
    ("greater_than", "manual"): (240, 32491),
}

# Numbers of edges of ACDC's sets by the kinds of their ends, as its repository has them.
KINDS = {
    "ioi": {
        "mlp->q": 189, "mlp->k": 189, "mlp->v": 189, "head->mlp": 123, "mlp->mlp": 66, "mlp->logits": 12, "input->mlp": 12,
        "input->logits": 1, "head->q": 52, "head->k": 36, "head->v": 36, "head->logits": 13, "input->q": 9, "input->k": 18,
        "input->v": 18,
    },
    "docstring": {
        "input->q": 2, "input->k": 2, "input->v": 4, "head->q": 4, "head->k": 6, "head->v": 4, "head->logits": 2,
    },
    "greater_than": {
        "mlp->mlp": 42, "mlp->q": 41, "mlp->k": 24, "mlp->v": 24, "head->mlp": 27, "head->q": 18, "head->k": 18, "head->v": 18,
        "head->logits": 6, "mlp->logits": 4, "input->mlp": 4, "input->q": 3, "input->k": 3, "input->v": 3,
    },
}  # fmt: skip

# With the direct links that ACDC counts, and with the placeholder links that its function returns.
LINKS = {"ioi": (1041, 1131), "docstring": (37, 37), "greater_than": (262, 289)}
WITH_LINKS = {"ioi": (32923, 33367), "docstring": (1377, 1473), "greater_than": (32923, 33367)}


@pytest.mark.parametrize(("task", "variant"), SIZES)
def test_sizes(task: str, variant: str) -> None:
    circuit = reference_circuit(task, variant)
    assert (circuit.n_edges, circuit.graph.n_edges) == SIZES[task, variant]


def test_every_variant_is_tested_and_acdc_is_the_default() -> None:
    assert {(task, variant) for task in TASKS for variant in variants(task)} == set(SIZES)
    assert all(variants(task)[0] == "acdc" for task in TASKS)
    assert all(reference_circuit(task) == reference_circuit(task, "acdc") for task in TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_kinds_of_edges(task: str) -> None:
    assert Counter(map(kind, reference_circuit(task).edges)) == KINDS[task]


@pytest.mark.parametrize(
    ("task", "n_input", "n_mlp"), [("ioi", 58, 780), ("docstring", 8, 0), ("greater_than", 13, 166)]
)
def test_edges_from_input_and_at_mlps(task: str, n_input: int, n_mlp: int) -> None:
    edges = [parse_edge(name) for name in reference_circuit(task).edges]
    assert sum(edge.source.kind == "input" for edge in edges) == n_input
    assert sum("mlp" in (edge.source.kind, edge.destination.kind) for edge in edges) == n_mlp


@pytest.mark.parametrize("task", TASKS)
def test_counts_with_direct_and_placeholder_links(task: str) -> None:
    reference = load_reference(task)
    labels = [candidate_labels(reference, universe) for universe in ("acdc", "eap-repository")]
    assert tuple(int(each.sum()) for each in labels) == LINKS[task]
    assert tuple(map(len, labels)) == WITH_LINKS[task]


def test_direct_links_of_docstring_are_the_thirteen_that_acdc_lists() -> None:
    circuit = reference_circuit("docstring")
    inputs = [name for name, is_kept in zip(circuit.graph.destinations, circuit.mask.any(0).tolist()) if is_kept]
    listed = "a0.h5<v> a1.h2<q> a1.h2<k> a1.h4<v> a2.h0<q> a2.h0<k> a2.h0<v> a3.h0<q> a3.h6<q> a3.h0<k> a3.h6<k> a3.h0<v> a3.h6<v>"
    assert inputs == [*listed.split(), "logits"]


@pytest.mark.parametrize(("task", "variant"), [pair for pair in SIZES if pair[1] != "autocircuit-heads"])
def test_every_edge_is_on_a_path_from_input_to_logits(task: str, variant: str) -> None:
    assert reference_circuit(task, variant).is_live


def test_autocircuit_is_inside_acdc_for_ioi() -> None:
    compared = reference_circuit("ioi", "acdc").compare(reference_circuit("ioi", "autocircuit"))
    assert (compared.shared.n_edges, compared.only_there.n_edges) == (739, 0)
    dropped = {"head->mlp": 71, "mlp->q": 112, "mlp->k": 8, "mlp->v": 8, "mlp->logits": 12, "mlp->mlp": 11}
    assert Counter(map(kind, compared.only_here.edges)) == dropped | {"input->mlp": 1, "input->logits": 1}


def test_autocircuit_equals_acdc_for_the_other_tasks() -> None:
    assert reference_circuit("docstring", "autocircuit") == reference_circuit("docstring", "acdc")
    assert reference_circuit("greater_than", "autocircuit") == reference_circuit("greater_than", "acdc")


def test_manual_greater_than_differs_in_mlps_and_two_heads() -> None:
    compared = reference_circuit("greater_than", "acdc").compare(reference_circuit("greater_than", "manual"))
    assert (compared.shared.n_edges, compared.only_here.n_edges, compared.only_there.n_edges) == (188, 47, 52)
    assert Counter(map(kind, compared.only_here.edges)) == {"mlp->mlp": 30, "mlp->q": 17}
    assert all("a5.h1" in name or "a8.h8" in name for name in compared.only_there.edges)


def test_roles() -> None:
    roles = {task: {role: len(nodes) for role, nodes in load_reference(task).roles.items()} for task in TASKS}
    assert sum(roles["ioi"].values()) == 26 and roles["ioi"]["backup_name_mover"] == 8
    assert load_reference("ioi").roles["name_mover"] == ("a9.h9", "a10.h0", "a9.h6")
    assert load_reference("ioi").role_of("a2.h2") == "previous_token"
    assert load_reference("ioi").role_of("a0.h0") is None
    assert load_reference("docstring").roles["argument_mover"] == ("a3.h0", "a3.h6")
    assert sum(roles["greater_than"].values()) == 17


@pytest.mark.parametrize("task", TASKS)
def test_nodes_with_a_role_are_those_of_the_circuit(task: str) -> None:
    reference = load_reference(task)
    with_role = {node for nodes in reference.roles.values() for node in nodes}
    heads = {node for node in reference.circuit.nodes if node.startswith("a")}
    assert {node for node in with_role if node.startswith("a")} == heads
    assert with_role <= set(reference.circuit.nodes)


@pytest.mark.parametrize(("task", "variant"), SIZES)
def test_origin_is_told(task: str, variant: str) -> None:
    reference = load_reference(task, variant)
    assert reference.source and reference.licence and reference.conventions
    metadata = reference.circuit.metadata
    assert (metadata["task"], metadata["variant"], metadata["model"]) == (task, variant, reference.model)
    assert metadata["source"] == reference.source and metadata["licence"] == reference.licence
    assert metadata["roles"].keys() == reference.roles.keys()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="task: expected one of 'ioi', 'docstring', 'greater_than', got 'induction'"):
        reference_circuit("induction")
    with pytest.raises(
        ValueError, match="variant of greater_than: expected one of 'acdc', 'autocircuit', 'manual', got 'eap'"
    ):
        reference_circuit("greater_than", "eap")


# The rules, written out again.

IOI_CONNECTIONS = [
    ("input", "previous_token", "qkv"),
    ("input", "duplicate_token", "qkv"),
    ("input", "s_inhibition", "q"),
    *(("input", role, "kv") for role in ("name_mover", "backup_name_mover", "negative_name_mover")),
    ("previous_token", "induction", "kv"),
    ("induction", "s_inhibition", "kv"),
    ("duplicate_token", "s_inhibition", "kv"),
    *(("s_inhibition", role, "q") for role in ("name_mover", "backup_name_mover", "negative_name_mover")),
    *((role, "logits", "") for role in ("name_mover", "backup_name_mover", "negative_name_mover")),
]


def test_ioi_follows_the_rules_of_acdc() -> None:
    roles = load_reference("ioi").roles
    heads = [head for members in roles.values() for head in members]
    mlps = [f"m{index}" for index in range(12)]
    expected = {
        (source, destination)
        for start, end, parts in IOI_CONNECTIONS
        for source, destination in itertools.product(ends(roles, start, ""), ends(roles, end, parts))
    }
    inputs_of_heads = [f"{head}<{part}>" for head in heads for part in "qkv"]
    expected |= set(itertools.product(mlps, [*inputs_of_heads, *mlps, "logits"]))
    expected |= set(itertools.product([*heads, "input"], mlps)) | {("input", "logits")}
    assert set(reference_circuit("ioi").edges) == possible(expected)


@pytest.mark.parametrize(("variant", "bound"), [("autocircuit", 0), ("autocircuit-end14", 14)])
def test_ioi_follows_the_rules_of_autocircuit(variant: str, bound: int) -> None:
    roles = load_reference("ioi").roles
    expected = set()
    for start, end, parts in IOI_CONNECTIONS:
        first = 0 if start == "input" else min(layer(head) for head in roles[start])
        last = bound if end == "logits" else max(layer(head) for head in roles[end])
        mlps = [f"m{index}" for index in range(first, min(last, 12))]
        expected |= set(itertools.product(ends(roles, start, "") + mlps, ends(roles, end, parts) + mlps))
    assert set(reference_circuit("ioi", variant).edges) == possible(expected)


def test_greater_than_follows_its_rules() -> None:
    roles = load_reference("greater_than").roles
    early_a, early_b, early_mlps, mid, late_mlps = (list(nodes) for nodes in roles.values())
    mid_inputs = [f"{head}<{part}>" for head in mid for part in "qkv"]
    early_inputs = [f"{head}<{part}>" for head in early_a + early_b for part in "qkv"]
    first_mlps = [f"m{index}" for index in range(9)]
    expected = set(itertools.product(["input"], early_inputs + early_mlps))
    expected |= set(itertools.product(early_b, early_mlps + mid_inputs))
    expected |= set(itertools.product(early_a + early_mlps, mid_inputs))
    expected |= set(itertools.product(mid, [*late_mlps, "logits"])) | set(itertools.product(late_mlps, ["logits"]))
    for group in (early_mlps, late_mlps, first_mlps):
        expected |= set(itertools.product(group, group))
    expected |= {(f"m{index}", f"{head}<q>") for head in mid for index in range(layer(head))}
    assert set(reference_circuit("greater_than").edges) == possible(expected)


def test_docstring_follows_its_rules() -> None:
    early = ["input", "a0.h5"]
    expected = {("input", "a0.h5<v>"), ("a1.h4", "a2.h0<v>")}
    expected |= set(itertools.product(early, ["a1.h4<v>", "a1.h2<q>", "a1.h2<k>", "a2.h0<q>", "a2.h0<k>"]))
    for mover in ("a3.h0", "a3.h6"):
        expected |= {("a1.h4", f"{mover}<q>"), ("a2.h0", f"{mover}<k>"), ("a1.h2", f"{mover}<k>"), (mover, "logits")}
        expected |= set(itertools.product(early, [f"{mover}<v>"]))
    assert set(reference_circuit("docstring").edges) == possible(expected)


def ends(roles: dict[str, tuple[str, ...]], role: str, parts: str) -> list[str]:
    """The nodes of a role: as sources if there are no parts, else as destinations."""
    if role in ("input", "logits"):
        return [role]
    return [f"{head}<{part}>" for head in roles[role] for part in parts] if parts else list(roles[role])


def possible(pairs: set[tuple[str, str]]) -> set[str]:
    """Those pairs of a source and a destination that computation in order allows, as edge names."""
    edges = [parse_edge(f"{source}->{destination}") for source, destination in pairs]
    return {str(edge) for edge in edges if time(edge.source) < time(edge.destination)}


def time(node: Node) -> tuple[int, int]:
    """When a node reads or writes: heads of a layer before its MLP."""
    return {"input": (-1, 0), "logits": (99, 0)}.get(node.kind) or (node.layer, int(node.kind == "mlp"))


def layer(head: str) -> int:
    return int(head[1:].split(".")[0])


def kind(edge: str) -> str:
    """Kinds of an edge's ends, e.g. "mlp->q"."""
    parsed: Edge = parse_edge(edge)
    return f"{parsed.source.kind}->{parsed.destination.part or parsed.destination.kind}"
