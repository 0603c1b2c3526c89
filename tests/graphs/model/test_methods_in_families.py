"""What each method gives in the hub's families, against the Hugging Face model itself; and what is done with it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from hub_models import HUB, hub_model, hub_reference
from models import HUGGING_FACE, curved, one_by_one, prompt_pairs, prompts_of, relative_error, tiny
from references import edges, module_rules
from torch import Tensor, nn

from edge_circuits import eap
from edge_circuits.eap import IntegratedGradients
from edge_circuits.graphs import Circuit, Graph, ScoredGraph, prune, run

PAIRS = prompt_pairs([5, 3], positions=[-1, -2])
FLOAT32 = 2e-5
"""Hugging Face takes RMS norms, softmax and rotary angles in float32."""


@cache
def relp(kind: str) -> tuple[nn.Module, ScoredGraph]:
    """A model in float32 and its scores."""
    model = tiny(kind, torch.float32).model if kind in HUGGING_FACE else hub_model(kind, torch.float32)
    return model, eap.score(model, PAIRS, curved, "relp", quiet=True)


@pytest.mark.parametrize("kind", HUB)
def test_relevance_is_that_of_hugging_face_s_modules_under_the_rules(kind: str) -> None:
    pair = PAIRS[[0]]
    reference = hub_reference(kind)
    with module_rules.ruled(reference):
        expected = edges.edge_attribution(reference, prompts_of(pair), one_by_one(curved, pair))
    scored = eap.score(hub_model(kind), pair, curved, "relp", quiet=True)
    values = torch.tensor([expected[edge] for edge in scored.graph.edges], dtype=torch.float64)
    assert relative_error(scored.scores.T[scored.graph.edge_mask.T], values) < FLOAT32


def streams(kind: str, embedded: Tensor | None, row: int, cut: bool = False) -> tuple[list[Tensor], Tensor]:
    """The stream before each layer and before `logits` in Hugging Face's model, and the metric.

    Args:
        embedded: what the first layer reads instead of the prompt's embedding.
    """
    reference, prompt = hub_reference(kind), prompts_of(PAIRS)[row]
    seen: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> object:
        x = args[0] if args else kwargs["hidden_states"]
        x = embedded if embedded is not None and not seen else x
        seen.append(x)
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in reference.layers]
    handles.append(
        reference.layers[-1].register_forward_hook(
            lambda _, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
    )
    try:
        tokens = torch.tensor([prompt.corrupted if cut else prompt.clean])
        logits = reference.model(tokens, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return seen, curved(logits[:, prompt.position], PAIRS[[row]]).sum()


def layer_of(node: str, n_layers: int) -> int:
    """The layer of a node's name; -1 of `input`."""
    return {"input": -1, "logits": n_layers}.get(node, int(re.sub(r"\D.*", "", node[1:]) or 0))


@pytest.mark.parametrize("kind", HUB)
def test_integrated_gradients_that_cross_into_a_layer_are_hugging_face_s(kind: str) -> None:
    """Edges from all that is before a layer to all that reads from there on sum to the stream's change times its gradient.

    Behind a norm after attention heads' changes are taken by its slope, which do not sum to the stream's: `input` alone.
    """
    found = eap.score(hub_model(kind), PAIRS, curved, IntegratedGradients(steps=5), quiet=True)
    n, of_input = found.graph.n_layers, any("post" in name for name, _ in hub_model(kind).blocks[0].named_children())
    expected = torch.zeros(n + 1, dtype=torch.float64)
    for row in range(len(PAIRS)):
        clean, cut = streams(kind, None, row)[0], streams(kind, None, row, cut=True)[0]
        changes = [b - a for a, b in zip(clean, cut)]
        for step in range(5):
            seen, metric = streams(kind, torch.lerp(cut[0], clean[0], step / 5).detach().requires_grad_(), row)
            gradients = torch.autograd.grad(metric, seen)
            for layer, gradient in enumerate(gradients):
                change = changes[0 if of_input else layer].detach()
                expected[layer] += (change * gradient).sum() / 5 / len(PAIRS)
    before, at = (
        torch.tensor([layer_of(name, n) for name in names]) for names in (found.graph.sources, found.graph.destinations)
    )
    before = before[:1] if of_input else before
    crossing = [(before[:, None] < layer) & (at >= layer) for layer in range(n + 1)]
    ours = torch.stack([found.scores[: len(before)][cross].sum() for cross in crossing])
    assert relative_error(ours, expected) < FLOAT32


@pytest.mark.parametrize("kind", [*HUB, *HUGGING_FACE])
def test_verify_finds_nothing_wrong_and_ranks_hold_in_bfloat16(kind: str) -> None:
    model, scored = relp(kind)
    checks = eap.verify(model, scored, PAIRS, curved, n_edges=4).checks
    assert any("bfloat16" in check.name for check in checks)
    assert not [check for check in checks if not check.passed and "exact patching" not in check.name]  # far from linear


@pytest.mark.parametrize("kind", [*HUB, *HUGGING_FACE])
def test_scores_and_circuits_come_back_from_their_files(kind: str, tmp_path: Path) -> None:
    model, scored = relp(kind)
    scored.save(tmp_path / "scores.npz")
    loaded = ScoredGraph.load(tmp_path / "scores.npz")
    assert loaded.graph == scored.graph == Graph.from_model(model) and torch.equal(loaded.scores, scored.scores)
    circuit = prune(loaded, k=30)
    circuit.save(tmp_path / "circuit.json")
    kept = Circuit.load(tmp_path / "circuit.json")
    assert torch.equal(run(model, kept, PAIRS), run(model, prune(scored, k=30), PAIRS))
