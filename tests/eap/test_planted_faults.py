"""A table of faults, planted one at a time: which check of `verify` finds each, and which none can find.

Faults in the code are planted before scores are made, as they would be there; `verify` runs with them too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from models import bridged, hugging_face, logit_difference, prompt_pairs
from torch import Tensor

from edge_circuits import eap
from edge_circuits.eap.methods import exact, relp
from edge_circuits.eap.methods.edge_attribution_patching import EAP
from edge_circuits.eap.verification import verify
from edge_circuits.graphs import PromptPairs, ScoredGraph
from edge_circuits.graphs.model import adapter, operations, transformer_bridge
from edge_circuits.graphs.model.norm import apply_norm
from edge_circuits.graphs.model.operations import Operations, exact_attention
from edge_circuits.graphs.running import patching

PAIRS = prompt_pairs([7, 5, 6, 5], positions=[-1, -2, -1, -1], seed=5)
Patch = pytest.MonkeyPatch

AGAIN, GATES, OWN, ALL_CUT = (
    "scores against",
    "EAP against soft gates",
    "logits against the model's own",
    "all edges cut",
)
CUT, HEADS, EXACT, MEASURED = "cut values", "heads by their names", "exact patching against run", "measured scores"


@dataclass(frozen=True)
class Fault:
    """A fault, and who finds it.

    Attributes:
        found_by: How the names of checks begin of which one has to fail; empty: none can.
        spoil: What happened to the scores.
        plant: What is wrong in the code.
        asked, given: From the prompts, those of the scores, and those that `verify` is given.
        kind, method, settings: Model and call.
    """

    found_by: tuple[str, ...]
    spoil: Callable[[ScoredGraph], ScoredGraph] = lambda scored: scored
    plant: Callable[[Patch], None] = lambda patch: None
    asked: Callable[[PromptPairs], PromptPairs] = lambda pairs: pairs
    given: Callable[[PromptPairs], PromptPairs] = lambda pairs: pairs
    kind: str = "gpt2"
    method: str = "relp"
    settings: tuple[tuple[str, Any], ...] = ()


def of_two_layers(kind: str) -> torch.nn.Module:
    return bridged(hugging_face(kind, **{"n_layer" if kind == "gpt2" else "num_hidden_layers": 2}).double())


def values(change: Callable[[ScoredGraph], Tensor]) -> Callable[[ScoredGraph], ScoredGraph]:
    """Other scores of the same edges."""
    return lambda scored: replace(scored, scores=change(scored) * scored.graph.edge_mask)


def columns(scored: ScoredGraph, ending: str) -> list[int]:
    return [at for at, name in enumerate(scored.graph.destinations) if ending in name]


def exchanged(one: str, other: str) -> Callable[[ScoredGraph], ScoredGraph]:
    """Columns of two kinds of destination in each other's place."""

    def change(scored: ScoredGraph) -> Tensor:
        scores, (mine, its) = scored.scores.clone(), (columns(scored, each) for each in (one, other))
        scores[:, mine], scores[:, its] = scored.scores[:, its], scored.scores[:, mine]
        return scores

    return values(change)


def turned(scored: ScoredGraph) -> Tensor:
    """The rows of one head with the other sign."""
    sign = torch.tensor([-1.0 if name == "a0.h1" else 1.0 for name in scored.graph.sources])
    return scored.scores * sign[:, None]


def reversed_heads(scored: ScoredGraph) -> Tensor:
    """The rows of a layer's heads from the last to the first."""
    rows = list(range(scored.graph.n_sources))
    heads = [at for at, name in enumerate(scored.graph.sources) if name.startswith("a0.")]
    for at, other in zip(heads, reversed(heads)):
        rows[at] = other
    return scored.scores[rows]


def twice(source: str) -> Callable[[ScoredGraph], ScoredGraph]:
    """A source that was counted twice."""
    return values(
        lambda scored: scored.scores * torch.tensor([1.0 + (s == source) for s in scored.graph.sources])[:, None]
    )


def of_half(scored: ScoredGraph) -> ScoredGraph:
    """Scores that say they are of all prompts and are of the first half."""
    made = eap.score(of_two_layers("gpt2"), PAIRS[:2], logit_difference, "relp", quiet=True)
    return replace(scored, scores=made.scores)


def other_answers(pairs: PromptPairs) -> PromptPairs:
    return pairs._replaced(answers=pairs.wrong_answers, wrong_answers=pairs.answers[:, :1])


def rolled(pairs: PromptPairs) -> PromptPairs:
    """Corrupted prompts of the next pair of equal length, the second and the fourth."""
    return pairs._replaced(corrupted=pairs.corrupted[[0, 3, 2, 1]])


def setting(target: object, name: str, value: object) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(target, name, value)


def corrupted_are(change: Callable[[PromptPairs], Tensor]) -> Callable[[Patch], None]:
    """Patching takes other tokens for the corrupted ones."""
    right = patching._corrupted
    return lambda patch: patch.setattr(
        patching,
        "_corrupted",
        lambda model, batch, *rest: right(model, batch._replaced(corrupted=change(batch)), *rest),
    )


def constants_are(change: Callable[[Any, PromptPairs], Any]) -> Callable[[Patch], None]:
    """Cut edges read other constants than zero or the means."""
    name = "constant_cut"
    right = getattr(patching, name)
    return lambda patch: patch.setattr(
        patching, name, lambda model, batch, values, *rest: right(model, batch, change(values), *rest)
    )


def each_value(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    def changed(held: Any) -> Any:
        return replace(
            held, embed=change(held.embed), z=[change(z) for z in held.z], mlp_out=[change(m) for m in held.mlp_out]
        )

    return changed


def unmasked(patch: Patch) -> None:
    """Means over padding too."""
    patch.setattr(PromptPairs, "mask", property(lambda pairs: torch.ones_like(pairs.clean, dtype=torch.bool)))


def one_early(patch: Patch) -> None:
    """Answers are read one position early."""
    for module in ("graphs.running.execution", "graphs.running.patching", "eap.gradients"):
        patch.setattr(f"edge_circuits.{module}.answer_rows", lambda pairs: (pairs.positions - 1).clamp(min=0)[:, None])


def reads(name: str, **changed: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """The reader takes other weights from the model, and its own comparison is off."""

    def plant(patch: Patch) -> None:
        right = getattr(transformer_bridge, name)
        patch.setattr(adapter, "_check_logits", lambda *_: None)

        def made(*args: Any, **kwargs: Any) -> Any:
            value = right(*args, **kwargs)
            return replace(value, **{field: change(value) for field, change in changed.items()})

        patch.setattr(transformer_bridge, name, made)

    return plant


def renamed(field: str) -> Callable[[Any], Tensor]:
    return lambda attention: getattr(attention, field).flip(0)


HEADS_RENAMED = {field: renamed(field) for field in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")}


def never(patch: Patch) -> None:
    """The LN-rule is asked for and does not apply."""
    patch.setattr(operations, "apply_norm", lambda norm, x, constant_scale=False: apply_norm(norm, x))


def doubled_exact(patch: Patch) -> None:
    right = exact.Exact._patched
    patch.setattr(exact.Exact, "_patched", lambda self, *args: 2 * right(self, *args))


def dropped_last_layer(patch: Patch) -> None:
    """EAP has no in-edges of the last layer's MLP."""
    right = EAP.scores

    def scores(self: EAP, job: Any, batch: PromptPairs) -> Tensor:
        found, graph = right(self, job, batch), job.transformer.graph
        found[:, graph.mlp_destination(graph.n_layers - 1)] = 0
        return found

    patch.setattr(EAP, "scores", scores)


FAULTS: dict[str, Fault] = {
    # in the scores
    "<q> and <v> exchanged": Fault((AGAIN,), exchanged("<q>", "<v>")),
    "destinations one off": Fault((AGAIN,), values(lambda s: s.scores[:, [*range(s.graph.n_destinations)]].roll(1, 1))),
    "one head's sign": Fault((AGAIN,), values(turned)),
    "heads of a layer in reverse": Fault((AGAIN,), values(reversed_heads)),
    "a sum in the place of a mean": Fault((AGAIN,), values(lambda s: s.scores * len(PAIRS))),
    "a source counted twice": Fault((AGAIN,), twice("input")),
    "half of the prompts": Fault((AGAIN,), of_half),
    "means over other prompts": Fault((AGAIN,), asked=rolled),
    "an MLP counted twice, along a path": Fault((AGAIN,), twice("m1"), method="eap-ig:steps=2"),
    "exact scores, heads in reverse": Fault((MEASURED,), values(reversed_heads), method="exact"),
    "exact scores, a sum": Fault((MEASURED,), values(lambda s: s.scores * len(PAIRS)), method="exact"),
    "cheap scores of a budget, one head's sign": Fault((AGAIN,), values(turned), settings=(("budget", 20),)),
    "scores by learned masks, exchanged": Fault((), exchanged("<q>", "<v>"), method="learned-mask:steps=2"),
    # in the code: what cut edges read, and where
    "patching reads the clean prompt": Fault((CUT, ALL_CUT), plant=corrupted_are(lambda batch: batch.clean)),
    "patching reads another pair": Fault((CUT, ALL_CUT), plant=corrupted_are(lambda batch: batch.corrupted.flip(0))),
    "zero is a small number": Fault(
        (CUT,), plant=constants_are(each_value(lambda x: x + 0.01)), settings=(("intervention", "zero"),)
    ),
    "means over padding": Fault((CUT,), plant=unmasked, settings=(("intervention", "mean"),)),
    "positions of means off by one": Fault(
        (CUT,), plant=constants_are(each_value(lambda x: x.roll(1, 1))), settings=(("intervention", "mean-positional"),)
    ),
    "answers read one early": Fault((OWN,), plant=one_early),
    # in the code: gradients and rules
    "EAP with frozen norms": Fault(
        (GATES,), plant=setting(EAP, "operations", lambda *_: Operations(constant_scale=True)), method="eap"
    ),
    "EAP without the last MLP": Fault((GATES,), plant=dropped_last_layer, method="eap"),
    "an LN-rule that never applies": Fault(("relevance lost or made in the norm",), plant=never),
    "an AH-rule that never applies": Fault(
        ("share of the gradient",),
        method="relp:attention=ah",
        plant=lambda patch: patch.setitem(relp.ATTENTIONS, "ah", exact_attention),
    ),
    "AttnLRP without its halves": Fault(
        ("share of the gradient",),
        method="relp:attention=attnlrp",
        plant=lambda patch: patch.setitem(relp.ATTENTIONS, "attnlrp", exact_attention),
    ),
    "exact patching counts twice": Fault((EXACT,), plant=doubled_exact, method="eap"),
    # in how the model is read
    "an unembedding tied that is not": Fault((OWN,), plant=reads("Transformer", W_U=lambda t: t.W_U.roll(1, 0))),
    "output weights rounded": Fault((OWN,), plant=reads("Attention", W_O=lambda a: a.W_O.bfloat16().to(a.W_O))),
    "a bias dropped": Fault((OWN,), plant=reads("Attention", b_O=lambda a: None)),
    "another epsilon": Fault((OWN,), plant=reads("Norm", eps=lambda norm: norm.eps * 100)),
    "key heads exchanged in their groups": Fault((OWN,), plant=reads("Attention", W_K=renamed("W_K")), kind="llama"),
    "heads under each other's names": Fault((HEADS,), plant=reads("Attention", **HEADS_RENAMED)),
    # in the prompts
    "answers exchanged when scoring": Fault((AGAIN,), asked=other_answers),
    "clean and corrupted exchanged when scoring": Fault((AGAIN,), asked=PromptPairs.swapped),
    "answers exchanged always": Fault((), asked=other_answers, given=other_answers),
    "clean and corrupted exchanged always": Fault((), asked=PromptPairs.swapped, given=PromptPairs.swapped),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_or_cannot_be(name: str, monkeypatch: Patch) -> None:
    fault = FAULTS[name]
    fault.plant(monkeypatch)
    model = of_two_layers(fault.kind)
    scored = eap.score(model, fault.asked(PAIRS), logit_difference, fault.method, quiet=True, **dict(fault.settings))
    spoilt = fault.spoil(scored)
    result = verify(model, spoilt, fault.given(PAIRS), logit_difference, n_edges=8, bf16=False)
    failed = [check for check in result.checks if check.at_most and not check.passed]
    if fault.found_by:
        found = [check for check in failed if check.name.startswith(fault.found_by)]
        assert found, result.text
        assert all(check.reason.startswith("suspected: ") for check in found if check.name.startswith(NAMED)), (
            result.text
        )
    else:
        assert not failed, result.text


NAMED = (AGAIN, GATES, CUT, HEADS, EXACT, MEASURED, "relevance", "share")
