"""Damaged files: each is refused by a `ValueError` that names it, or holds what it held; nothing else, and nothing silent.

`--damaged 2000` damages each loader's file 2,000 times instead of 150.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_circuits.graphs.files.eap_ig import import_scores
from edge_circuits.graphs.graph import Graph
from robustness.damage import damaged
from robustness.loaders import LOADERS, Loader


def outcome(loader: Loader, path: Path, content: bytes, good: object) -> str | None:
    """What is wrong with how a loader takes a file; None if nothing is."""
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = loader.read(path)
    except ValueError as error:
        lines = str(error)
        if "memory" in lines or len(lines) > 2000:
            return f"costs or says too much: {lines[:200]}"
        return None if path.stem in lines else f"does not name the file: {lines}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "read as if whole" if loader.is_sealed and found != good else None


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_file_is_refused_or_harmless(name: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    loader = LOADERS[name]
    path = tmp_path / loader.name
    loader.write(path)
    content, good = path.read_bytes(), loader.read(path)
    assert outcome(loader, path, content, good) is None
    wrong = {}
    for seed in range(pytestconfig.getoption("--damaged")):
        if (trouble := outcome(loader, path, damaged(content, seed), good)) is not None:
            wrong[seed] = trouble
    assert not wrong, f"{len(wrong)}: {list(wrong.items())[:5]}"


# Found once: what a loader did not refuse, took gigabytes for, or refused with another error

JSON_OF_EAP_IG = {
    "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 8},
    "nodes": {},
    "edges": {},
}
EDGE = {"input->m0": {"score": 10**400, "in_graph": True}}
ONES = torch.ones(3, 5)


def pt_of_eap_ig(scores: torch.Tensor) -> dict[str, Any]:
    """What a .pt file of EAP-IG holds."""
    graph = Graph(1, 1)
    names = {"src_nodes": list(graph.sources), "dst_nodes": list(graph.destinations)}
    return {"cfg": JSON_OF_EAP_IG["cfg"], **names, "edges_scores": scores}


@pytest.mark.parametrize(
    "content",
    [
        JSON_OF_EAP_IG | {"cfg": JSON_OF_EAP_IG["cfg"] | {"n_layers": 10**9}},
        JSON_OF_EAP_IG | {"cfg": JSON_OF_EAP_IG["cfg"] | {"n_layers": 10**400}},
        JSON_OF_EAP_IG | {"edges": EDGE},
        JSON_OF_EAP_IG | {"nodes": 3},
    ],
    ids=["huge", "beyond floats", "a score beyond floats", "nodes"],
)
def test_json_of_eap_ig_that_was_not_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "old.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"old\.json: "):
        import_scores(tmp_path / "old.json")


@pytest.mark.parametrize(
    "scores",
    [
        ONES.to_sparse(),
        torch.quantize_per_tensor(ONES, 0.1, 0, torch.qint8),
        ONES.to(torch.float8_e4m3fn),
        torch.ones(1).expand(3, 5).to("meta"),
    ],
    ids=["sparse", "quantised", "8 bits", "without values"],
)
@pytest.mark.filterwarnings("ignore")
def test_pt_of_eap_ig_that_was_not_refused(tmp_path: Path, scores: torch.Tensor) -> None:
    torch.save(pt_of_eap_ig(scores), tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"old\.pt: "):
        import_scores(tmp_path / "old.pt")


def test_a_large_file_of_scores_that_is_packed_small_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("scores", "done", "seconds", "digest"):
            file.writestr(f"{name}.npy", bytes(10**6))
    with pytest.raises(ValueError, match=r"bomb\.npz: scores: expected at most \d+ bytes, got 1000000; delete it"):
        LOADERS["checkpoint"].read(tmp_path / "bomb.npz")


@pytest.mark.parametrize(
    "line",
    [
        '{"clean": ' + "[" * 100_000,
        '{"clean": [1e999], "corrupted": [1]}',
        f'{{"clean": [{10**30}], "corrupted": [1]}}',
    ],
)
def test_prompts_that_were_not_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "pairs.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"pairs\.jsonl"):
        LOADERS["prompts, jsonl"].read(tmp_path / "pairs.jsonl")
