"""Methods as values: what they say of themselves, names, and one that is defined here, outside of the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch
from models import logit_difference, prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.lookup import find, known
from edge_circuits.graphs import PromptPairs

PAIRS = prompt_pairs([5, 4, 5, 3], seed=2)


@dataclass(frozen=True)
class Scaled(eap.Method):
    """Edge attribution patching times a number."""

    short_names: ClassVar = {"scaled": {}}

    factor: float = 2.0
    sign: Literal["kept", "turned"] = "kept"

    def scores(self, job: Job, batch: PromptPairs) -> Tensor:
        """EAP's scores, scaled."""
        return eap.EAP().scores(job, batch) * (self.factor if self.sign == "kept" else -self.factor)


def test_a_method_from_outside_is_scored_resumed_and_has_error_bars(tmp_path) -> None:
    model = tiny("attention-only").model
    usual = eap.score(model, PAIRS, logit_difference, "eap", quiet=True)
    settings = dict(checkpoint=tmp_path, batch_size=2, quiet=True)
    for _ in range(2):
        found = eap.score(model, PAIRS, logit_difference, Scaled(sign="turned"), **settings)
        assert torch.allclose(found.scores, -2 * usual.scores, rtol=0, atol=1e-12)
    assert len(list(tmp_path.glob("scaled-*.npz"))) == 1
    assert found.metadata["method"] == "scaled"
    assert found.metadata["settings"] == {"intervention": "patching", "n_prompts": 4, "factor": 2.0, "sign": "turned"}
    groups = eap.score_groups(model, PAIRS, logit_difference, Scaled(factor=3.0), n_groups=2, quiet=True)
    assert torch.allclose(groups.scores, 3 * usual.scores, rtol=0, atol=1e-12)
    assert "scaled" not in known()


def test_a_method_that_defines_nothing_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Method has to define `scores`"):
        eap.score(tiny("attention-only").model, PAIRS, logit_difference, eap.Method(), quiet=True)


def test_every_method_has_a_name_that_finds_it() -> None:
    assert set(known()) == {
        "blend",
        "clean-corrupted",
        "eap",
        "eap-ig",
        "eap-ig-activations",
        "eap-ig-all-activations",
        "exact",
        "gim",
        "hisp",
        "information-flow-routes",
        "learned-mask",
        "random",
        "relp",
        "top-k-mask",
    }
    for name, method in known().items():
        assert method.name == method.label == name and find(name) is method and find(method) is method
        assert method.__doc__
    assert {name for name, method in known().items() if not method.signed} == {
        "hisp",
        "information-flow-routes",
        "learned-mask",
        "top-k-mask",
    }
    assert {name for name, method in known().items() if not method.additive} == {
        "hisp",
        "learned-mask",
        "random",
        "top-k-mask",
    }
    assert {name for name, method in known().items() if not method.needs_metric} == {
        "information-flow-routes",
        "random",
    }


@pytest.mark.parametrize("name", ["eap-ig", "EAP-IG", "eap_ig", " Eap IG ", "EAP-IG-inputs"])
def test_spelling_does_not_matter(name: str) -> None:
    assert find(name) == eap.IntegratedGradients()


def test_labels_are_read_back() -> None:
    for method in (
        eap.RelP(reader="softmax", norm="exact"),
        eap.IntegratedGradients(steps=7, rule="midpoint", at="activations"),
        eap.LearnedMask(penalty=0.5, seed=3),
        eap.TopKMask(start="eap", steps=5),
        eap.Random(seed=9),
    ):
        assert find(method.label) == method
    assert eap.IntegratedGradients(steps=7, at="activations").label == "eap-ig-activations:steps=7"


def test_a_seed_goes_to_methods_that_have_one() -> None:
    assert eap.Random().with_seed(4) == eap.Random(seed=4) and eap.EAP().with_seed(4) == eap.EAP()


@pytest.mark.usefixtures("without_type_checks")
def test_refusals() -> None:
    with pytest.raises(ValueError, match="method: expected a name, or a method such as RelP\\(\\), got 3"):
        find(3)
    with pytest.raises(ValueError, match="method 'random' has no setting 'steps'; it has seed"):
        find("random:steps=3")
    with pytest.raises(ValueError, match="method 'hisp' has no setting 'steps'; it has none"):
        find("hisp:steps=3")
    with pytest.raises(ValueError, match="Scaled: sign: expected one of 'kept', 'turned', got 'lost'"):
        Scaled(sign="lost")
    with pytest.raises(TypeError, match="unexpected keyword argument 'steps'"):
        eap.score(tiny("attention-only").model, PAIRS, logit_difference, "eap", steps=3)
