"""What someone new gets wrong, and what is said then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import tiny

import edge_circuits as ec
from edge_circuits.benchmarks.planted import verify as planted_verify
from edge_circuits.graphs import Circuit, Graph, PromptPairs
from edge_circuits.graphs.measures.quality import measure, minimality

PAIRS = PromptPairs([[1, 2, 3], [2, 3, 4]], [[1, 5, 3], [2, 6, 4]], [5, 6], [7, 8])


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("gpt2").model


def test_a_metric_may_be_a_name_wherever_one_is_taken(model: Any) -> None:
    from edge_circuits.graphs.metrics import logit_difference

    circuit = Circuit.full(Graph.from_model(model))
    for calls in (measure, minimality):
        by_name, by_function = (
            calls(model, circuit, PAIRS, metric) for metric in ("logit_difference", logit_difference)
        )
        one, other = (found[0] if isinstance(found, list) else found for found in (by_name, by_function))
        assert torch.equal(one.values, other.values)


def test_error_bars_are_where_the_messages_say() -> None:
    from edge_circuits import eap

    assert callable(eap.error_bars) and callable(eap.score_groups) and callable(ec.error_bars)


def test_the_check_of_planted_models_tells_its_criterion(capsys: pytest.CaptureFixture) -> None:
    planted_verify.main(["docstring", "--prompts", "2", "--quiet"])
    told = capsys.readouterr().out
    assert "each of its edges matters, by 0." in told


def test_prompts_that_tell_nothing_of_an_edge_are_no_proof_against_it() -> None:
    cost = planted_verify.EdgeCost("input->m0", False, 0, float("nan"), float("nan"), float("nan"))
    result = planted_verify.Verification(None, 2, 1, 1, 0, 1, 1, 0, 1, 0, (cost,))
    assert "NOT TOLD, no prompt shows the work of input->m0; take more than 2" in planted_verify._edges_verdict(result)
