"""A model on another device, or spread over several by accelerate, gives what it gives on the CPU.

No GPU is needed: `pretend_devices` refuses what CUDA would refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import accelerate
import pytest
import torch
from accelerate.hooks import remove_hook_from_module
from models import (
    NATIVE,
    bridged,
    build,
    curved,
    hugging_face,
    logit_difference,
    prompt_pairs,
    random_circuit,
    relative_error,
)
from pretend_devices import DEVICES, PretendedDevices
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from edge_circuits import acdc, eap
from edge_circuits.eap.methods.lookup import find, known
from edge_circuits.graphs import Circuit, Graph, PromptPairs, as_model, run
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.means import Mean
from edge_circuits.graphs.running.patching import Word

pytestmark = pytest.mark.usefixtures("without_type_checks")  # they take more time than all else here
RULES = (
    *(dict(attention=rule) for rule in ("ah", "attnlrp", "secant")),
    *(dict(reader=rule) for rule in ("norm", "softmax")),
    dict(norm="exact", activation="exact", gate="exact"),
)
PLACES = {"one device": (0, 0, 0), "spread": (0, 0, 1), "embedding apart": (0, 1, 1), "back and forth": (0, 1, 0)}
"""Where the embedding, the lower half of the layers and the upper half are; the head is with these, or with its embedding."""
CASES = [
    ("gpt2", "one device"),
    ("gpt2", "spread"),
    ("neox-parallel", "spread"),
    ("llama", "back and forth"),
    ("gemma2", "spread"),
    ("attention-only", "one device"),
    ("rms-gated-grouped", "one device"),
]
ONE, SPREAD, BACK_AND_FORTH = (
    [case for case in CASES if case[1] == place] for place in ("one device", "spread", "back and forth")
)


def pairwise(values: Sequence[Any], everywhere: Sequence[Any] = ()) -> list[Any]:
    """Each value with a model on one device, one spread, and one back and forth, in turn; those of `everywhere` with all."""
    chosen = [(case, value) for value in everywhere for case in CASES]
    for turn, value in enumerate(value for value in values if value not in everywhere):
        chosen += [(cases[turn % len(cases)], value) for cases in (ONE, SPREAD, BACK_AND_FORTH)]
    return [pytest.param(*case, value, id=f"{'-'.join(case)}-{value}") for case, value in chosen]


SIZES = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24)
GROUPED = SIZES | dict(num_key_value_heads=1, head_dim=4)
SETTINGS = {"gpt2": dict(n_embd=16, n_layer=3, n_head=2), "neox-parallel": SIZES, "llama": GROUPED, "gemma2": GROUPED}
PAIRS = prompt_pairs([6, 3, 1], positions=[-2, -1, -1])


def put(module: nn.Module, place: str) -> None:
    """Move a Hugging Face model's modules as `device_map` does, with hooks that take inputs along."""
    embedding, lower, upper = (DEVICES[number] for number in PLACES[place])
    prefix, inner = module.base_model_prefix, module.base_model
    layers = next(name for name, part in inner.named_children() if isinstance(part, nn.ModuleList))
    n_layers = len(getattr(inner, layers))
    places = {f"{prefix}.{name}": embedding for name, _ in inner.named_children() if name != layers}
    places |= {f"{prefix}.{layers}.{layer}": lower if 2 * layer < n_layers - 1 else upper for layer in range(n_layers)}
    places |= {name: upper for name in places if name.endswith(("norm", "ln_f", "rotary_emb", "wpe"))}
    head = next(name for name, part in module.named_children() if part is module.get_output_embeddings())
    places[head] = embedding if module.get_output_embeddings().weight is module.get_input_embeddings().weight else upper
    accelerate.dispatch_model(module, device_map=places, force_hooks=True)
    remove_hook_from_module(module)  # the outermost, which brings logits back to where tokens came from


@cache
def model_of(kind: str, place: str | None) -> TransformerBridge:
    """A small model of a kind in float64, on the CPU (None) or on pretended devices."""
    with PretendedDevices():
        if kind in NATIVE:
            return build(kind, torch.float64).model.to("cpu" if place is None else DEVICES[0])
        module = hugging_face(kind, **SETTINGS[kind]).double()
        if place is not None:
            put(module, place)
        return bridged(module)


Call = Callable[[TransformerBridge], Tensor]


@cache
def expected_of(kind: str, call: Call) -> Tensor:
    return call(model_of(kind, None))


def assert_as_on_the_cpu(kind: str, place: str, call: Call) -> None:
    """What a call gives on the devices is what it gives on the CPU."""
    with PretendedDevices():
        found = call(model_of(kind, place))
    assert relative_error(found.cpu(), expected_of(kind, call)) < 1e-9


@cache
def scores(method: str, intervention: str = "patching", kv_destinations: str = "query-head", **rules: str) -> Call:
    asked = find(
        f"{method}:steps=1" if method in ("eap-ig", "eap-ig-activations", "learned-mask", "top-k-mask") else method
    )
    asked = replace(asked, **rules)
    settings = dict(intervention=intervention, kv_destinations=kv_destinations, quiet=True, token_chunk=7)

    def call(model: TransformerBridge) -> Tensor:
        return eap.score(model, PAIRS, curved, asked, **settings).scores

    return call


def test_a_forward_pass_leaves_each_layer_where_it_is() -> None:
    with PretendedDevices():
        transformer = adapt(model_of("llama", "embedding apart"))
        kept = transformer.forward(transformer.embed(PAIRS.clean.to(transformer.device)))
        logits = transformer.unembed(kept.final)
    layers = [x for values in vars(kept).values() if isinstance(values, list) for x in values]
    assert {x.device for x in (kept.embed, logits)} == {transformer.device} == {DEVICES[0]}
    assert {x.device for x in (*layers, kept.final)} == {block.device for block in transformer.blocks} == {DEVICES[1]}


@pytest.mark.parametrize(("kind", "place", "method"), pairwise(known(), everywhere=("eap", "relp")))
def test_scores(kind: str, place: str, method: str) -> None:
    for intervention in ("patching", "mean-positional"):
        assert_as_on_the_cpu(kind, place, scores(method, intervention))


@pytest.mark.parametrize(("kind", "place", "rules"), pairwise(RULES))
def test_relevance_rules(kind: str, place: str, rules: dict[str, str]) -> None:
    for intervention in ("patching", "zero"):
        assert_as_on_the_cpu(kind, place, scores("relp", intervention, **rules))


@pytest.mark.parametrize("place", PLACES)
def test_scores_of_key_value_heads(place: str) -> None:
    for method in ("eap", "exact"):
        assert_as_on_the_cpu("llama", place, scores(method, kv_destinations="kv-head"))


def runs(model: TransformerBridge) -> Tensor:
    graph = Graph.from_model(model)
    circuits = [Circuit.full(graph), Circuit.empty(graph)]
    circuits += [random_circuit(graph, density, 0) for density in (0.1, 0.5, 0.9)]
    found = [run(model, circuit, PAIRS, how).detach() for circuit in circuits for how in (*get_args(Word), Mean(PAIRS))]
    anywhere = as_model(model, circuits[2], PAIRS, "mean-tokens")(PAIRS.clean[:1, :3]).detach()
    named = PromptPairs([[1, 2, 3]], [[1, 4, 3]], positions={"end": -1, "start": 0})
    return torch.cat([*found, anywhere[0], run(model, circuits[2], named)[0].detach()])


def weight_gradients(model: TransformerBridge) -> Tensor:
    graph = Graph.from_model(model)
    weights = list(model.original_model.requires_grad_(True).parameters())
    loss = curved(run(model, random_circuit(graph, 0.5, 0), PAIRS).cpu(), PAIRS).sum()
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    nothing = torch.zeros((), dtype=loss.dtype)
    return torch.stack([nothing if each is None else each.square().sum().cpu() for each in gradients])


def nodes(model: TransformerBridge) -> Tensor:
    found = [
        eap.score_nodes(model, PAIRS, curved, method, direction, batch_size=2, quiet=True).per_prompt
        for method in ("eap", eap.RelP(attention="secant"))
        for direction in ("noising", "denoising")
    ]
    return torch.cat([values.nan_to_num().flatten() for each in found for values in each.values()])


def found_circuits(model: TransformerBridge) -> Tensor:
    circuits = [acdc.discover(model, PAIRS, "kl", 0.05, batch_size=2, quiet=True)]
    circuits.append(acdc.discover(model, PAIRS, logit_difference, 0.02, intervention="mean", quiet=True))
    decisions = [decision for found in circuits for decision in zip(found.trace.values, found.trace.kept)]
    return torch.tensor([[value or 0.0, kept] for value, kept in decisions])


QUESTIONS = {each.__name__: each for each in (runs, weight_gradients, nodes, found_circuits)}


@pytest.mark.parametrize(("kind", "place", "question"), pairwise(list(QUESTIONS), everywhere=("runs",)))
def test_circuits_and_nodes(kind: str, place: str, question: str) -> None:
    assert_as_on_the_cpu(kind, place, QUESTIONS[question])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_refuses_offloaded_weights(kind: str, tmp_path: Path) -> None:
    module = hugging_face(kind)
    accelerate.disk_offload(module, tmp_path)
    weight = {"gpt2": "transformer.wte.weight", "llama": "model.embed_tokens.weight"}[kind]
    with pytest.raises(ValueError, match=f"got {weight} on 'meta': it is offloaded, .* a device_map of GPUs alone"):
        adapt(bridged(module))
