"""How prompts are divided among processes; what two real ones find is in tests/test_two_processes.py."""

from __future__ import annotations

import pytest
import torch
from models import prompt_pairs

from edge_circuits.graphs.running.distributed import ALONE, Processes


def process(rank: int, size: int) -> Processes:
    """One of several processes, without a group to send by."""
    one = Processes()
    one.rank, one.size = rank, size
    one.check_same = lambda given: None
    return one


@pytest.mark.parametrize(
    ("n_pairs", "size", "n_batches"), [(100, 1, 1), (100, 8, 8), (9, 8, 9), (16, 8, 8), (17, 8, 9), (5, 5, 5)]
)
def test_every_process_has_a_batch_and_few_rounds_are_needed(n_pairs: int, size: int, n_batches: int) -> None:
    batches = process(0, size).batches(prompt_pairs([6] * n_pairs), None, 2048)
    assert len(batches) == n_batches
    assert sorted(row for batch in batches for row in batch.indices.tolist()) == list(range(n_pairs))
    assert max(map(len, batches)) <= max(-(-n_pairs // size), 1)


def test_batches_keep_the_token_limit() -> None:
    batches = process(1, 2).batches(prompt_pairs([6] * 10 + [3] * 10), None, 20)
    assert max(batch.clean.numel() for batch in batches) <= 20


def test_a_batch_size_gives_what_one_process_takes() -> None:
    pairs = prompt_pairs([4, 6, 6, 5, 2, 7, 7])
    assert process(2, 3).batches(pairs, 2, 2048) == ALONE.batches(pairs, 2, 2048)


def test_the_items_are_divided() -> None:
    assert [process(rank, 3).mine(range(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]


def test_alone_is_as_without_processes() -> None:
    rows = torch.arange(6.0).view(3, 2)
    assert ALONE.is_first and ALONE.mine("abc") == ["a", "b", "c"]
    assert torch.equal(ALONE.in_order(rows, 3), rows)
    assert torch.equal(ALONE.total(rows), rows)
    assert torch.equal(torch.stack(list(ALONE.in_turn(range(3), lambda row: rows[row], like=rows[0]))), rows)
    assert ALONE.from_first("this") == "this"
    ALONE.check_same({"anything": 1})


@pytest.mark.parametrize("batch_size", [None, 1])
def test_more_processes_than_prompts_are_refused(batch_size: int | None) -> None:
    with pytest.raises(ValueError, match="got 3 batches of 3 prompts for 4 processes; start at most 3"):
        process(0, 4).batches(prompt_pairs([3, 3, 3]), batch_size, 2048)


def test_batches_too_large_for_the_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 batches of 8 prompts for 4 processes; give a smaller batch_size"):
        process(0, 4).batches(prompt_pairs([3] * 8), 4, 2048)
