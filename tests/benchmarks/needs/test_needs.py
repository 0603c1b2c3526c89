"""What a size needs: counted weights and edges against real models, and the table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hub_models import HUB, hub_model, hub_module
from models import hugging_face, tiny

from edge_circuits.benchmarks.needs.measured import random_llama
from edge_circuits.benchmarks.needs.sizes import SIZES, Size, size_of
from edge_circuits.benchmarks.needs.study import main
from edge_circuits.graphs import Graph


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gemma", "neox-parallel"])
def test_weights_and_edges_are_those_of_the_model(tmp_path: Path, kind: str) -> None:
    model = hugging_face(kind)
    model.config.save_pretrained(tmp_path)
    size = size_of(str(tmp_path))
    matrices = {parameter for name, parameter in model.named_parameters() if parameter.dim() == 2 and "wpe" not in name}
    assert size.weights == sum(parameter.numel() for parameter in matrices)
    assert size.graph == Graph.from_model(tiny(kind).model)


@pytest.mark.parametrize("kind", HUB)
def test_weights_and_edges_are_those_of_the_hub_s_families(tmp_path: Path, kind: str) -> None:
    model = hub_module(kind)
    model.config.save_pretrained(tmp_path)
    size = size_of(str(tmp_path))
    others = ("wpe.weight", "embed_positions.weight", "_norm.weight", "_bias")
    matrices = {x for name, x in model.named_parameters() if x.dim() > 1 and not name.endswith(others)}
    assert size.weights == sum(parameter.numel() for parameter in matrices)
    assert size.graph == Graph.from_model(hub_model(kind))


def test_experts_by_hand() -> None:
    size = Size(2, 2, 1, d_model=8, d_mlp=20, d_vocab=50, d_head=4, n_experts=5, n_chosen=2)
    dense = Size(2, 2, 1, d_model=8, d_mlp=20, d_vocab=50, d_head=4)
    assert size.weights == dense.weights + 2 * (4 * 3 * 8 * 20 + 8 * 5)
    assert size.plain_operations == dense.plain_operations + 6 * 2 * (3 * 8 * 20 + 8 * 5)
    assert size.scoring_bytes(100, 10, 2) - dense.scoring_bytes(100, 10, 2) == pytest.approx(2 * 100 * 2 * 3.2 * 20)
    mixed = Size(2, 2, 1, 8, 20, 50, 4, n_experts=5, n_chosen=2, n_dense=1, d_dense=60)
    assert mixed.weights == dense.weights + (4 * 3 * 8 * 20 + 8 * 5) + 3 * 8 * (60 - 20)
    assert mixed.token_weights == size.token_weights - 2 * 3 * 8 * 20 - 8 * 5 + 3 * 8 * 60
    assert mixed.scoring_bytes(100, 10, 2) - dense.scoring_bytes(100, 10, 2) == pytest.approx(2 * 100 * 2 * 3.2 * 40)
    assert Size(2, 2, 1, 8, 20, 50, 4, parallel=True).graph.n_edges == dense.graph.n_edges - 2 * 2


def test_estimates_grow_as_their_formulas_say() -> None:
    size = Size(n_layers=3, n_heads=2, n_kv_heads=1, d_model=8, d_mlp=20, d_vocab=50, d_head=4)
    assert size.graph.n_sources == 10
    assert size.attention_weights == 3 * 8 * 4 * (2 + 1 + 1 + 2)
    assert size.token_weights == size.attention_weights + 3 * 3 * 8 * 20
    assert size.scoring_bytes(100, 10, 2) == pytest.approx(
        2 * 100 * 3 * (24 * 8 + 3.2 * 20) + 4 * 10 * 8 * (10 + 7) + 4 * 8 * 4 * 6
    )
    assert size.scoring_bytes(5, 10, 2) == pytest.approx(
        2 * 5 * 3 * (24 * 8 + 3.2 * 20) + 4 * 5 * 8 * (10 + 7) + 4 * 8 * 4 * 6
    )
    assert size.circuit_bytes(100, 4) == 4 * 100 * 8 * (10 + 2 + 24)
    assert size.plain_operations == 6 * size.token_weights
    assert size.scoring_operations == size.plain_operations + 2 * size.graph.n_edges * 8 + 8 * size.attention_weights


def test_the_known_7b_has_seven_billion_weights() -> None:
    assert SIZES["llama-2-7b"].weights == pytest.approx(6.74e9, rel=0.001)
    assert SIZES["llama-3.1-8b"].weights == pytest.approx(8.03e9, rel=0.001)
    assert SIZES["llama-3.1-70b"].weights == pytest.approx(70.6e9, rel=0.002)
    assert SIZES["gpt-j-6b"].weights == pytest.approx(6.05e9, rel=0.001)
    assert SIZES["mixtral-8x7b"].weights == pytest.approx(46.7e9, rel=0.001)
    assert SIZES["gpt-oss-20b"].weights == pytest.approx(20.9e9, rel=0.001)


@pytest.mark.parametrize("tied", [False, True])
def test_a_random_llama_has_the_size_asked_for(tied: bool) -> None:
    size = Size(n_layers=2, n_heads=4, n_kv_heads=2, d_model=16, d_mlp=24, d_vocab=30, d_head=4, tied=tied)
    model = random_llama(size, torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2) == size.weights
    assert all(parameter.dtype == torch.bfloat16 and parameter.isfinite().all() for parameter in model.parameters())
    assert torch.get_default_dtype() == torch.float32


def test_the_table_names_every_size(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--sizes", "gpt2", "llama-2-7b", "--tokens", "512"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("gpt2") and "32,491" in lines[-2]
    assert lines[-1].startswith("llama-2-7b") and "13.48" in lines[-1]


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size: expected one of gpt2, .* or a directory with config.json, got 'gpt5'"):
        size_of("gpt5")
