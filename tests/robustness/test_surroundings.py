"""What is set for all of PyTorch changes no number: default device and type, autocast, inference mode, compiled models.

The default device is "meta", whose tensors have no values, so that a tensor made without a device is noticed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import pytest
import torch
from models import build, logit_difference, prompt_pairs
from torch import Tensor

import edge_circuits as ec

PAIRS = prompt_pairs([7, 5, 6, 5], positions=[-1, -2, -1, -1], seed=5)
METHODS = ("eap", "relp", "relp:reader=softmax", "eap-ig", "hisp", "information-flow-routes", "exact", "random")
MODEL = build("llama").model


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager]] = {
    "default type float64": lambda: default_type(torch.float64),
    "default type bfloat16": lambda: default_type(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
}


@cache
def circuit() -> ec.Circuit:
    return ec.prune(ec.score(MODEL, PAIRS, logit_difference, "relp", quiet=True), k=40)


def scores(method: str, **settings: object) -> Tensor:
    return ec.score(MODEL, PAIRS, logit_difference, method, quiet=True, **settings).scores


def as_float64(values: list[float | bool]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")


CALLS: dict[str, Callable[[], Tensor]] = {
    **{method: lambda method=method: scores(method) for method in (*METHODS, "learned-mask:steps=2")},
    "means": lambda: scores("relp", intervention="mean-positional"),
    "groups": lambda: ec.score_groups(MODEL, PAIRS, logit_difference, "eap", n_groups=2, quiet=True).scores,
    "nodes": lambda: ec.score_nodes(MODEL, PAIRS, logit_difference, quiet=True).per_prompt["heads"].nan_to_num(),
    "run": lambda: ec.run(MODEL, circuit(), PAIRS).detach(),
    "discover": lambda: as_float64(ec.discover(MODEL, PAIRS, "kl", 0.1, quiet=True).trace.kept),
    "measure": lambda: as_float64([ec.measure(MODEL, circuit(), PAIRS, logit_difference)[0].faithfulness]),
    "prune": lambda: ec.prune(ec.ScoredGraph(circuit().graph, circuit().scores), k=30).live().mask,
}


@cache
def expected(call: str) -> Tensor:
    return CALLS[call]()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_numbers_are_those_of_plain_surroundings(surroundings: str, call: str) -> None:
    wanted = expected(call)
    with SURROUNDINGS[surroundings]():
        found = CALLS[call]()
    assert found.dtype is wanted.dtype and found.device == wanted.device
    assert torch.equal(found.detach().clone(), wanted)


def test_what_was_set_is_set_again_after_an_error() -> None:
    with default_type(torch.float64), torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(ValueError, match="method"):
            scores("no such method")
        assert torch.get_default_dtype() is torch.float64 and torch.get_default_device().type == "meta"
        assert torch.is_autocast_enabled("cpu")
    assert torch.get_default_dtype() is torch.float32 and not torch.is_autocast_enabled("cpu")


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = build("gpt2").model
    with pytest.raises(ValueError, match="model: expected weights made outside torch.inference_mode"):
        ec.score(model, PAIRS, logit_difference, "eap", quiet=True)


def test_a_compiled_model_is_read_as_the_model_that_it_compiles() -> None:
    compiled = torch.compile(MODEL)
    found = ec.score(compiled, PAIRS, logit_difference, "eap", quiet=True).scores
    assert torch.equal(found, expected("eap"))
