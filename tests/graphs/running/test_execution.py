"""Circuit runs against the slow reference, which patches every edge one by one, and their identities."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from models import (
    D_VOCAB,
    KINDS,
    RAGGED,
    bridged,
    build,
    hugging_face,
    prompt_pairs,
    prompts_of,
    random_circuit,
    relative_error,
    scatter,
    tiny,
)
from references import edges
from references.hugging_face import literal_of
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edge_circuits.graphs import Circuit, Graph, PromptPairs, run
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.execution import run_batch
from edge_circuits.graphs.running.patching import cut_values
from edge_circuits.graphs.running.plan import make_plan

INTERVENTIONS = ("patching", "zero", "mean", "mean-positional")
DENSITIES = (0.0, 0.03, 0.1, 0.5, 0.9, 0.97, 1.0)
PAIRS = prompt_pairs([7, 4], positions=[-1, 1], seed=1)
GRID = [(density, intervention) for density in DENSITIES for intervention in INTERVENTIONS]
DIAGONAL = [(0.03, "patching"), (0.1, "zero"), (0.5, "patching"), (0.9, "mean"), (0.97, "mean-positional")]
CASES = [("llama", True, case) for case in GRID]
CASES += [(kind, False, case) for kind in KINDS for case in DIAGONAL]
CASES += [("gemma2", False, (0.5, "zero")), *[("rms-norm-pre", True, case) for case in DIAGONAL]]
SLOW_CASES = [(kind, False, case) for kind in ("gpt2", "gemma2") for case in GRID if case not in DIAGONAL]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES]


def destinations(grouped: bool) -> str:
    return "kv-head" if grouped else "query-head"


@cache
def expected(kind: str, grouped: bool, density: float, intervention: str) -> tuple[Circuit, Tensor]:
    """A random circuit and its logits, the slow way."""
    graph = adapt(tiny(kind).model, kv_destinations=destinations(grouped)).graph
    circuit = random_circuit(graph, density, seed=round(100 * density))
    kept = dict.fromkeys(circuit.edges, True)
    return circuit, edges.circuit_logits(tiny(kind).literal, prompts_of(PAIRS), kept, intervention, grouped)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
@pytest.mark.parametrize(("kind", "grouped", "case"), CASES, ids=str)
@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
def test_circuits_are_those_of_the_reference(
    kind: str, grouped: bool, case: tuple[float, str], dtype: torch.dtype, tolerance: float
) -> None:
    circuit, logits = expected(kind, grouped, *case)
    with torch.no_grad():
        ours = run(tiny(kind, dtype).model, circuit, PAIRS, case[1])
    assert ours.dtype == dtype
    assert relative_error(ours, logits) < tolerance


# Identities


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("without_type_checks")
def test_all_edges_kept_is_the_clean_run(kind: str) -> None:
    model = tiny(kind)
    clean = torch.stack([edges.logits(model.literal, prompt.clean)[prompt.position] for prompt in prompts_of(RAGGED)])
    for intervention in INTERVENTIONS:
        ours = run(model.model, Circuit.full(Graph.from_model(model.model)), RAGGED, intervention)
        assert relative_error(ours, clean) < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_no_edges_kept_is_the_corrupted_run(kind: str) -> None:
    model = tiny(kind)
    ours = run(model.model, Circuit.empty(Graph.from_model(model.model)), RAGGED)
    corrupted = torch.stack(
        [edges.logits(model.literal, prompt.corrupted)[prompt.position] for prompt in prompts_of(RAGGED)]
    )
    assert relative_error(ours, corrupted) < 1e-13


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.05), (torch.float16, 0.006)]
)
def test_ends_are_the_model_s_own_logits(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    model, rows = tiny(kind, dtype).model, torch.arange(len(RAGGED))
    graph = Graph.from_model(model)
    with torch.no_grad():
        for circuit, tokens in ((Circuit.full(graph), RAGGED.clean), (Circuit.empty(graph), RAGGED.corrupted)):
            own = model(tokens)[rows, RAGGED.positions]
            assert relative_error(run(model, circuit, RAGGED), own.double()) < tolerance


def test_dead_ends_change_nothing() -> None:
    model = tiny("gpt2").model
    circuit = random_circuit(Graph.from_model(model), 0.15, seed=3)
    assert not circuit.is_live
    assert relative_error(run(model, circuit, RAGGED), run(model, circuit.live(), RAGGED)) < 1e-13


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])  # learned and rotary positions
@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_order_and_logits_do_not_depend_on_the_batches(kind: str, intervention: str) -> None:
    model = tiny(kind).model
    circuit = random_circuit(Graph.from_model(model), 0.5, seed=0)
    whole = run(model, circuit, RAGGED, intervention)
    for batch_size in (1, 2, 3):
        assert relative_error(run(model, circuit, RAGGED, intervention, batch_size=batch_size), whole) < 1e-13


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
def test_left_and_right_padding_give_the_same(kind: str) -> None:
    model = tiny(kind).model
    circuit = random_circuit(Graph.from_model(model), 0.5, seed=0)
    pairs = prompt_pairs([6, 3])
    left = pairs.clean.clone(), pairs.corrupted.clone()
    for tokens in left:
        tokens[1] = tokens[1].roll(3)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
    assert torch.equal(run(model, circuit, PromptPairs(*left, attention_mask=mask)), run(model, circuit, pairs))


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_hidden_layers=1),
        dict(num_attention_heads=1, num_key_value_heads=1),
        dict(num_key_value_heads=4),
        dict(head_dim=4),
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("lengths", [[1], [4]])
def test_small_and_odd_shapes(settings: dict[str, int], lengths: list[int]) -> None:
    module = hugging_face("llama", **settings)
    literal = literal_of("LlamaForCausalLM", module.state_dict(), module.config)
    model, pairs = bridged(module.double()), prompt_pairs(lengths)
    for kv_destinations, grouped in (("query-head", False), ("kv-head", True)):
        circuit = random_circuit(Graph.from_model(model, kv_destinations), 0.5, seed=1)
        slow = edges.circuit_logits(literal, prompts_of(pairs), dict.fromkeys(circuit.edges, True), "patching", grouped)
        assert relative_error(run(model, circuit, pairs), slow) < 1e-12


# Soft masks


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "llama", "gemma2", "attention-only"])
@pytest.mark.parametrize("intervention", ["patching", "mean-positional"])
def test_soft_masks_and_their_gradients_are_those_of_the_reference(kind: str, intervention: str) -> None:
    model, grouped = tiny(kind), kind == "llama"
    transformer = adapt(model.model, kv_destinations=destinations(grouped))
    graph, along = transformer.graph, torch.randn(len(PAIRS), D_VOCAB, dtype=torch.float64)
    weights = 1.2 * torch.rand(graph.edge_mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights[:, graph.destination_index("a1.h1<k>")] = 0  # a destination with every in-edge cut
    weights.requires_grad_()
    cut = cut_values(transformer, [PAIRS], intervention)(PAIRS)
    ours = run_batch(transformer, make_plan(graph, weights, intervention), PAIRS, cut)
    kept = {name: weights[graph.edge_index(name)] for name in graph.edges if not name.endswith("a1.h1<k>")}
    slow = edges.circuit_logits(model.literal, prompts_of(PAIRS), kept, intervention, grouped)
    assert relative_error(ours, slow.detach()) < 1e-12
    gradients = [torch.autograd.grad((logits * along).sum(), weights)[0] for logits in (ours, slow)]
    assert relative_error(*gradients) < 1e-11


# Gradients


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "rms-gated-grouped"])
@pytest.mark.parametrize("intervention", ["patching", "zero"])
def test_gradients_of_the_parameters_are_those_of_the_reference(kind: str, intervention: str) -> None:
    model, literal = build(kind, torch.float64).model, build(kind).literal
    circuit = random_circuit(Graph.from_model(model), 0.6, seed=2)
    along = torch.randn(len(PAIRS), D_VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (run(model, circuit, PAIRS, intervention) * along).sum().backward()

    weights = literal.w = {name: weight.clone().requires_grad_() for name, weight in literal.w.items()}
    logits = edges.circuit_logits(literal, prompts_of(PAIRS), dict.fromkeys(circuit.edges, True), intervention)
    slow = dict(
        zip(weights, torch.autograd.grad((logits * along).sum(), list(weights.values()), materialize_grads=True))
    )
    if kind in ("gpt2", "gemma2"):  # the unembedding is the embedding
        embedding = "transformer.wte.weight" if kind == "gpt2" else "model.embed_tokens.weight"
        slow[embedding] = slow[embedding] + slow.pop("lm_head.weight")

    checked = set()
    for name, parameter in model.named_parameters():
        name = name.replace("_original_component.", "").replace(
            ".attn.o.", ".attn.c_proj." if kind == "gpt2" else ".attn.o."
        )
        if ".qkv." in name:  # TransformerLens reads the same memory as q, k and v, and those get the gradient
            assert parameter.grad is None
            continue
        if kind == "gpt2" and (part := re.search(r"\.attn\.([qkv])\.", name)):
            name = name.replace(part[0], ".attn.c_attn.")
            third = slow[name].chunk(3, dim=-1)["qkv".index(part[1])]
            expected = third.T if third.dim() == 2 else third
        else:
            expected = slow[name]
        checked.add(name)
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10, msg=name)
    assert slow.keys() - checked <= {"head.bias"}  # a buffer of zeros


def test_gradients_follow_the_grad_mode() -> None:
    model, circuit = tiny("gpt2").model, Circuit.full(Graph.from_model(tiny("gpt2").model))
    assert run(model, circuit, PAIRS).requires_grad
    with torch.no_grad():
        assert not run(model, circuit, PAIRS).requires_grad
    with torch.inference_mode():
        assert not run(model, circuit, PAIRS).requires_grad


# Price


def test_price_is_that_of_the_live_nodes() -> None:
    model = tiny("gpt2").model
    transformer, pairs = adapt(model), prompt_pairs([8, 8, 8])
    cut, d_model, d_mlp = cut_values(transformer, [pairs], "patching")(pairs), 32, 128

    def multiplications(*names: str) -> int:
        plan = make_plan(transformer.graph, Circuit.from_edges(transformer.graph, names).mask, "patching")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run_batch(transformer, plan, pairs, cut)
        return counter.get_total_flops() // 2

    unembedding, mlp = 3 * d_model * D_VOCAB, 2 * d_model * d_mlp
    assert multiplications() == multiplications("input->m0", "m1->logits") == unembedding
    assert multiplications("input->m1", "m1->logits") == unembedding + 3 * mlp
    everywhere = multiplications("input->m1", "m1->a2.h0<v>", "a2.h0->logits")
    assert everywhere - multiplications("input->a2.h0<v>", "a2.h0->logits") == 3 * 8 * mlp


# Refusals


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_several_circuits_share_what_cut_edges_read(positions: str) -> None:
    model = tiny("gpt2").model
    graph = Graph.from_model(model)
    circuits = [random_circuit(graph, density, seed=3) for density in (0.1, 0.4)]
    with torch.no_grad(), FlopCounterMode(display=False) as together:
        found = run(model, circuits, RAGGED, positions=positions, batch_size=2)
    flops = []
    for circuit, logits in zip(circuits, found):
        with torch.no_grad(), FlopCounterMode(display=False) as alone:
            expected = run(model, circuit, RAGGED, positions=positions, batch_size=2)
        assert torch.equal(logits.nan_to_num(), expected.nan_to_num())
        flops.append(alone.get_total_flops())
    with torch.no_grad(), FlopCounterMode(display=False) as empty:
        run(model, Circuit.empty(graph), RAGGED, positions=positions, batch_size=2)
    assert sum(flops) - together.get_total_flops() > 0.9 * empty.get_total_flops()


def test_refuses_no_circuits_and_what_is_none(without_type_checks: None) -> None:
    model = tiny("gpt2").model
    with pytest.raises(ValueError, match="circuit: expected a Circuit, got NoneType"):
        run(model, [], PAIRS)
    with pytest.raises(ValueError, match="circuit: expected a Circuit, got str"):
        run(model, [Circuit.full(Graph.from_model(model)), "full"], PAIRS)


def test_refuses_a_circuit_of_another_graph() -> None:
    with pytest.raises(ValueError, match=r"circuit: expected one of Graph\(n_layers=3.*, got one of Graph\(n_layers=1"):
        run(tiny("gpt2").model, Circuit.full(Graph(1, 2)), PAIRS)


def test_refuses_an_unknown_intervention(without_type_checks: None) -> None:
    model = tiny("gpt2").model
    with pytest.raises(ValueError, match="intervention: expected one of 'patching', .*, got 'ablate'"):
        run(model, Circuit.full(Graph.from_model(model)), PAIRS, "ablate")


def test_weights_are_read_anew_at_every_run() -> None:
    model = build("gpt2", torch.float64).model
    circuit = random_circuit(Graph.from_model(model), 0.5, seed=0)
    before = run(model, circuit, PAIRS)
    scatter(model, seed=1)
    assert relative_error(run(model.double(), circuit, PAIRS), before.detach()) > 1e-2
