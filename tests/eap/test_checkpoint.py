"""Scoring that was stopped goes on from its checkpoint and ends with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from counting import IDENTIFIED, TRIED, Counting, Stopped
from models import build, logit_difference, native, prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.eap import checkpoint
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.running import fingerprint

PAIRS = prompt_pairs([6, 6, 4], seed=2)
ASKED = IDENTIFIED + 2 * len(PAIRS)  # calls of a metric before scoring begins, with a prompt in a batch
Metric = Callable[[Tensor, PromptPairs], Tensor]


def scored(method: str, metric: Metric, folder: Path | None, pairs: PromptPairs = PAIRS, **settings) -> Tensor:
    settings = dict(batch_size=1, quiet=True) | settings
    return eap.score(tiny("attention-only").model, pairs, metric, method, checkpoint=folder, **settings).scores


@pytest.fixture(autouse=True)
def written_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", -1.0)


@pytest.mark.parametrize(
    ("method", "most"), [("eap", 1), ("eap", 3), ("relp", 2), ("eap-ig", 12), ("exact", 30), ("exact", 60)]
)
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, method: str, most: int) -> None:
    counting = Counting()
    whole = scored(method, counting, None)
    with pytest.raises(Stopped):
        scored(method, Counting(ASKED + most - 1), tmp_path)
    rest = Counting()
    assert torch.equal(scored(method, rest, tmp_path), whole)
    begun_again = (
        Graph.from_model(tiny("attention-only").model).n_sources if method == "exact" else 0
    )  # the edges of a destination
    assert rest.n_calls <= ASKED + counting.n_calls - TRIED + 3 - most + begun_again
    again = Counting()
    assert torch.equal(scored(method, again, tmp_path), whole)
    assert again.n_calls == ASKED


def test_methods_without_a_metric_go_on_too(tmp_path: Path) -> None:
    for method in ("random", "information-flow-routes"):
        whole = scored(method, logit_difference, tmp_path)
        assert torch.equal(scored(method, logit_difference, tmp_path), whole)
    assert len(list(tmp_path.glob("*.npz"))) == 2


@pytest.mark.filterwarnings("ignore:checkpoint. .* scores of another question")
def test_another_question_does_not_read_it(tmp_path: Path) -> None:
    edges = torch.zeros_like(Graph.from_model(tiny("attention-only").model).edge_mask)
    edges[0, -1] = True
    asked = [
        ("exact", logit_difference, {}),
        ("exact", logit_difference, dict(intervention="zero")),
        (eap.Exact(edges), logit_difference, {}),
        ("exact", logit_difference, dict(pairs=prompt_pairs([6, 6, 4], seed=3))),
        ("eap", logit_difference, {}),
        ("relp", logit_difference, {}),
        (eap.RelP(attention="ah"), logit_difference, {}),
        ("eap-ig:steps=2", logit_difference, {}),
        ("eap-ig:steps=2,rule=midpoint", logit_difference, {}),
        ("eap", twice, {}),
    ]
    for number, (method, metric, settings) in enumerate(asked):
        assert torch.equal(scored(method, metric, tmp_path, **settings), scored(method, metric, None, **settings))
        assert len([file for file in tmp_path.glob("*.npz") if "batch" not in file.name]) == number + 1


def twice(logits: Tensor, pairs: PromptPairs) -> Tensor:
    """Another metric that calls itself by the same name."""
    return 2 * logit_difference(logits, pairs)


twice.__name__ = logit_difference.__name__


def test_other_weights_do_not_read_it(tmp_path: Path) -> None:
    first = scored("eap", logit_difference, tmp_path)
    model = build("attention-only", torch.float64).model
    next(model.parameters()).data *= 1.01
    assert not torch.equal(
        eap.score(model, PAIRS, logit_difference, "eap", checkpoint=tmp_path, quiet=True).scores, first
    )


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    scored("eap", logit_difference, tmp_path)
    file = next(tmp_path.glob("*.npz"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"{file.name}: expected a whole file, .*; delete it to measure anew"):
        scored("eap", logit_difference, tmp_path)


def test_a_method_that_takes_all_batches_at_once_has_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint: expected None for method 'learned-mask'"):
        scored("learned-mask", logit_difference, tmp_path)


def test_a_folder_that_cannot_be_made_is_noticed_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def never(logits: torch.Tensor, pairs: object) -> torch.Tensor:
        assert len(pairs) == 1, "scored before the folder was made"  # of the first prompt, to know the metric again
        return logits[:, 0]

    with pytest.raises(
        ValueError, match="checkpoint: expected a folder that is there or can be made, got .*file/below"
    ):
        scored("eap", never, tmp_path / "file" / "below")


def test_a_metric_that_was_edited_is_another_question(tmp_path: Path) -> None:
    factor = [1.0]

    def metric(logits: Tensor, pairs: PromptPairs) -> Tensor:
        return factor[0] * logit_difference(logits, pairs)

    before = scored("eap", metric, tmp_path)
    factor[0] = 100.0
    with pytest.warns(UserWarning, match="scores of another question, which differs in metric's values; they are left"):
        after = scored("eap", metric, tmp_path)
    torch.testing.assert_close(after, 100 * before)


def test_a_weight_that_hardly_matters_is_another_question(tmp_path: Path) -> None:
    model = build("gpt2", torch.float64).model
    settings = dict(batch_size=1, quiet=True, checkpoint=tmp_path)
    eap.score(model, PAIRS, logit_difference, "eap", **settings)
    with torch.no_grad():
        model.blocks[1].mlp.original_component.c_proj.bias[0] += 1e-9
    with pytest.warns(UserWarning, match="which differs in weights"):
        eap.score(model, PAIRS, logit_difference, "eap", **settings)
    assert len(list(tmp_path.glob("eap-*.npz"))) == 2


def test_a_model_of_other_settings_is_another_question(tmp_path: Path) -> None:
    first, other = (native(act_fn=name, n_layers=1) for name in ("gelu", "relu"))
    other.load_state_dict(first.state_dict())
    for model in (first, other):
        found = eap.score(model, PAIRS, logit_difference, "eap", batch_size=1, quiet=True, checkpoint=tmp_path).scores
        assert torch.equal(found, eap.score(model, PAIRS, logit_difference, "eap", batch_size=1, quiet=True).scores)


def test_a_method_of_other_code_is_another_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored("eap", logit_difference, tmp_path)
    monkeypatch.setattr(fingerprint, "code_digest", lambda: "other")
    with pytest.warns(UserWarning, match="which differs in code"):
        scored("eap", logit_difference, tmp_path)
    assert len(list(tmp_path.glob("eap-*.npz"))) == 2


@pytest.mark.parametrize("factor", [1.01, 3.0])
def test_a_metric_that_differs_on_the_logits_of_one_prompt_alone_is_refused(tmp_path: Path, factor: float) -> None:
    pairs, differs = prompt_pairs([6] * 24, seed=2), [1.0]

    def metric(logits: Tensor, pairs: PromptPairs) -> Tensor:
        own = (pairs.indices == 20) & (logits.abs().amax(-1) < 1.4)  # made-up logits are larger
        return torch.where(own, differs[0], 1.0) * logit_difference(logits, pairs)

    scored("eap", metric, tmp_path, pairs, batch_size=5)
    differs[0] = factor
    with pytest.raises(ValueError, match="checkpoint: expected scores of the same metric, got .* for prompt 20 where"):
        scored("eap", metric, tmp_path, pairs, batch_size=5)


def test_a_metric_of_other_gradients_is_another_question(tmp_path: Path) -> None:
    factor = [1.0]

    def metric(logits: Tensor, pairs: PromptPairs) -> Tensor:
        values = logit_difference(logits, pairs)
        return factor[0] * values + (1 - factor[0]) * values.detach()

    before = scored("eap", metric, tmp_path)
    factor[0] = 3.0
    with pytest.warns(UserWarning, match="scores of another question, which differs in metric's values; they are left"):
        torch.testing.assert_close(scored("eap", metric, tmp_path), 3 * before)


def test_answers_without_a_logit_are_refused_before_the_metric_is_asked(tmp_path: Path) -> None:
    pairs = PromptPairs([[1, 2]], [[1, 3]], [10**6], [[2]])
    with pytest.raises(ValueError, match="answers: expected ids below the model's"):
        scored("eap", logit_difference, tmp_path, pairs)
