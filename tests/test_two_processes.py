"""Two processes that share the prompts find what one finds alone: bit for bit with the same batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from counting import IDENTIFIED
from models import relative_error
from two_processes import QUESTIONS

HERE = Path(__file__).parent
EXACT = [name for name in QUESTIONS if name.startswith(("score", "acdc"))]
NEAR = [name for name in QUESTIONS if name.startswith("near")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Where one process writes, and where two do."""
    return tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def one(folders: tuple[Path, Path]) -> dict[str, Any]:
    """What this process finds alone."""
    return two_processes.answers(None, folders[0])


@pytest.fixture(scope="module")
def two(folders: tuple[Path, Path]) -> list[dict[str, Any]]:
    """What each of two processes finds, some of it from where one was stopped."""
    two_processes.begin(folders[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}
    command += [str(HERE / "two_processes.py"), str(folders[1])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folders[1] / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", EXACT)
def test_two_find_what_one_finds(name: str, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for each in two:
        if isinstance(one[name], torch.Tensor):
            assert one[name].abs().max() > 0
            assert torch.equal(each[name], one[name])
        else:
            assert each[name] == one[name]


@pytest.mark.parametrize("name", NEAR)
def test_other_sums_differ_by_rounding(name: str, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    assert torch.equal(two[0][name], two[1][name])
    assert relative_error(two[0][name], one[name]) < 1e-12


def test_two_go_on_from_where_one_was_stopped(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    scores, n_calls = zip(*(each["begun scores"] for each in two))
    assert all(torch.equal(each, one["score eap"]) for each in scores)
    assert n_calls == (
        IDENTIFIED + 2 * 5 + 2,
        IDENTIFIED + 1,
    )  # of five batches two were done, two are for the first process
    decisions, n_calls = zip(*(each["begun sweep"] for each in two))
    whole, n_whole = one["begun sweep"]
    assert decisions == (whole, whole)
    assert sum(n_calls) < n_whole - 50


def test_one_goes_on_from_where_two_were_stopped(folders: tuple[Path, Path], two: list[dict[str, Any]]) -> None:
    scores, n_calls = two_processes.begun_scores(None, folders[1])
    assert n_calls == IDENTIFIED + 2 * 5 and torch.equal(scores, two[0]["begun scores"][0])


def test_what_cannot_be_shared_is_refused_in_every_process(two: list[dict[str, Any]]) -> None:
    for each in two:
        assert "expected the same n_prompts in every process" in each["refused: prompts"]
        assert "expected the same method in every process" in each["refused: rules"]
        assert (
            "got 1 batches of 9 prompts for 2 processes; give a smaller batch_size" in each["refused: too few batches"]
        )
