"""docs/architectures.md: its example adds a family, and its table names every one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import curved, one_by_one, prompts_of, relative_error
from references import edges
from references.modules import Modules, Names
from torch import nn

from edge_circuits import eap
from edge_circuits.graphs.model.families import FAMILIES

PAGE = (Path(__file__).parents[3] / "docs" / "architectures.md").read_text()
EXAMPLE = re.search(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[1]


def test_the_table_names_every_family() -> None:
    table = PAGE[: PAGE.index("## Not read")]
    assert set(re.findall(r"`(\w+(?:Model|ForCausalLM|Native))`", table)) == set(FAMILIES)


def copied(bridged: nn.Module, config: Any) -> nn.Module:
    """The Hugging Face model as it was before it was bridged."""
    module = transformers.Starcoder2ForCausalLM(config).double().eval()
    weights = {name.replace("_original_component.", ""): x for name, x in bridged.state_dict().items()}
    module.load_state_dict({name: weights[name] for name in module.state_dict()})
    return module


def test_the_example_adds_a_family_whose_scores_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(EXAMPLE.splitlines()) < 30 and "Starcoder2ForCausalLM" not in FAMILIES
    monkeypatch.setitem(FAMILIES, "Starcoder2ForCausalLM", None)  # so that what the example adds is taken away again
    torch.manual_seed(0)
    made: dict[str, Any] = {}
    exec(EXAMPLE, made)
    scored = eap.score(made["model"], made["pairs"], curved, "eap", quiet=True)
    module = copied(made["module"], made["config"])
    expected = edges.edge_attribution(
        Modules(module, Names(), False), prompts_of(made["pairs"]), one_by_one(curved, made["pairs"])
    )
    values = torch.tensor([expected[edge] for edge in scored.graph.edges], dtype=torch.float64)
    assert relative_error(scored.scores.T[scored.graph.edge_mask.T], values) < 2e-5
