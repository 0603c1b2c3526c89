"""Processes that were not asked the same are refused in every process, by rank and argument; one that is lost is reported."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from differing_processes import LOST

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes wrote what they were told; the second of them was lost in the end."""
    written = tmp_path_factory.mktemp("told")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(2):
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
        command = [sys.executable, str(HERE / "differing_processes.py"), str(written)]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    errors = [process.communicate(timeout=300)[1].decode() for process in started]
    assert (written / "rank-0.json").exists() and (written / "rank-1.json").exists(), "\n".join(errors)[-4000:]
    assert started[1].returncode == LOST
    return written


@pytest.mark.slow
def test_what_differs_is_named_in_every_process(folder: Path) -> None:
    answers = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert len(answers[0]) == len(answers[1]) > 15
    for name in answers[0]:
        argument, _, told = name.partition(", ")
        for rank, answer in enumerate(answers):
            if argument == "refused":
                assert told in answer[name], (name, rank, answer[name])
                assert rank == 1 or answer[name].startswith("process_group: process 1 was refused: "), answer[name]
            else:
                expected = f"process_group: expected the same {argument} in every process, got "
                assert answer[name].startswith(expected), (name, rank, answer[name])
                assert "in process 1" in answer[name]


@pytest.mark.slow
def test_a_lost_process_is_reported_with_its_rank_and_batches(folder: Path) -> None:
    report = (folder / "lost-0.txt").read_text()
    assert report.startswith(
        "process_group: process 0 got no answer from process 1 while sharing batches 3 to 4 of 5, one for each process from 0"
    ), report
