"""Sets of pairs: selecting, splitting, grouping, moving, and batching as a property."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from itertools import pairwise, permutations

import pytest
import torch
from random_pairs import random_rows

from edge_circuits.graphs.prompts.batching import equal_bounds
from edge_circuits.graphs.prompts.pairs import PromptPairs, in_order


def n_padded(batches: list[PromptPairs]) -> int:
    return sum(int((~batch.mask).sum()) for batch in batches)


def test_selection_is_trimmed_to_its_own_longest() -> None:
    pairs = PromptPairs([[1, 2, 3], [4], [5, 6]], [[1, 2, 9], [8], [5, 7]], [[1], [2, 3], [4]], positions=[0, 0, 1])
    expected = PromptPairs([[5, 6], [4]], [[5, 7], [8]], [[4], [2, 3]])
    for index in ([2, 1], (2, 1), torch.tensor([2, 1]), [-1, -2], slice(None, 0, -1)):
        assert pairs[index] == expected and pairs[index].clean.shape == (2, 2)
        assert pairs[index].indices.tolist() == [2, 1]
    assert pairs[2].answers.tolist() == [[4]]
    assert pairs[torch.tensor([False, True, True])] == pairs[[False, True, True]] == pairs[1:]
    assert [single.lengths.tolist() for single in pairs] == [[3], [1], [2]]
    with pytest.raises(IndexError, match="expected -3 to 2, got 3"):
        pairs[3]


@pytest.mark.parametrize("seed", range(3))
def test_concat_undoes_slicing(seed: int) -> None:
    pairs = PromptPairs(**random_rows(seed))
    parts = [pairs[:3], pairs[3:4], pairs[4:]]
    joined = PromptPairs.concat(parts)
    assert joined == pairs
    assert PromptPairs.concat(parts[::-1]).indices.tolist() == joined.indices.tolist() == list(range(7))


def test_split_is_seeded_and_covers_every_pair_once() -> None:
    pairs = PromptPairs(**random_rows(0, n_pairs=20))
    train, test = pairs.split(14, seed=3)
    assert (len(train), len(test)) == (14, 6)
    assert sorted(train.indices.tolist() + test.indices.tolist()) == list(range(20))
    assert train.indices.tolist() == sorted(train.indices.tolist())
    again, other = pairs.split(14, seed=3)[0], pairs.split(14, seed=4)[0]
    assert train.indices.tolist() == again.indices.tolist() != other.indices.tolist()


def test_groups_are_mixtures_of_nearly_equal_size() -> None:
    pairs = PromptPairs(**random_rows(1))
    assert [group.indices.tolist() for group in pairs.groups(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(group) for group in pairs.groups(20)] == [1] * 7
    with pytest.raises(ValueError, match="n_groups: expected a whole number from 1, got 0"):
        pairs.groups(0)


def test_swapped_exchanges_the_prompts_alone() -> None:
    rows = random_rows(2)
    swapped = PromptPairs(**rows).swapped()
    assert swapped == PromptPairs(**rows | dict(clean=rows["corrupted"], corrupted=rows["clean"]))
    assert swapped.swapped() == PromptPairs(**rows)


def test_to_moves_every_tensor() -> None:
    pairs = PromptPairs(**random_rows(0))
    pairs = PromptPairs(**random_rows(0), spans={"first": [0] * len(pairs)})
    moved = pairs.to("meta")
    columns = [getattr(moved, field.name) for field in dataclasses.fields(moved) if field.name not in ("rows", "spans")]
    assert {column.device.type for column in (*columns, moved.spans.of_token)} == {"meta"}
    assert pairs.device.type == "cpu"
    assert PromptPairs([[1]], [[2]]).to("meta").answers is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda() -> None:
    pairs = PromptPairs(**random_rows(0)).to("cuda")
    batches = pairs.batches(2)
    assert {batch.device.type for batch in batches} == {"cuda"}
    assert in_order(batches, [batch.clean[:, 0] for batch in batches]).tolist() == pairs.clean[:, 0].tolist()
    assert pairs == pairs.to("cpu") and pairs[1:3].mask.device.type == "cuda"
    assert PromptPairs(pairs.clean, pairs.corrupted).device.type == "cuda"


# Batches


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 13, 40])
def test_batches_cover_every_pair_once_with_no_more_padding(seed: int, batch_size: int) -> None:
    pairs = PromptPairs(**random_rows(seed, n_pairs=13))
    batches = pairs.batches(batch_size)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(13))
    assert all(batch == pairs[batch.indices] for batch in batches)
    assert len(batches) == -(-13 // batch_size) and max(map(len, batches)) <= batch_size
    assert n_padded(batches) <= n_padded([pairs[start : start + batch_size] for start in range(0, 13, batch_size)])


def test_the_smaller_batch_goes_where_it_costs_least() -> None:
    assert equal_bounds([1, 5, 5], 2) == [0, 1, 3]
    assert equal_bounds([1, 1, 5], 2) == [0, 2, 3]
    assert equal_bounds([1, 1, 2, 2], 2) == [0, 2, 4]
    assert equal_bounds([1, 2], 9) == [0, 2]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch_size", [3, 4, 5])
def test_no_division_into_these_sizes_has_less_padding(seed: int, batch_size: int) -> None:
    lengths = sorted(random.Random(seed).choices(range(1, 12), k=7))

    def n_tokens(order: Sequence[int], bounds: list[int]) -> int:
        return sum((stop - start) * max(order[start:stop]) for start, stop in pairwise(bounds))

    plain = [*range(0, 7, batch_size), 7]
    fewest = min(n_tokens(order, plain) for order in permutations(lengths))
    assert n_tokens(lengths, equal_bounds(lengths, batch_size)) == fewest


def test_batches_are_stable_by_length() -> None:
    pairs = PromptPairs([[1, 1], [2], [3, 3], [4]], [[1, 1], [2], [3, 3], [4]])
    assert [batch.indices.tolist() for batch in pairs.batches(2)] == [[1, 3], [0, 2]]
    assert [batch.indices.tolist() for batch in pairs.batches()] == [[1, 3, 0, 2]]
    assert [batch.clean.shape[1] for batch in pairs.batches(2)] == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_max_tokens_bounds_batches_padding_included(seed: int) -> None:
    pairs = PromptPairs(**random_rows(seed, n_pairs=13))
    batches = pairs.batches(batch_size=3, max_tokens=8)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(13))
    assert all(len(batch) <= 3 and (batch.clean.numel() <= 8 or len(batch) == 1) for batch in batches)
    assert len(PromptPairs([[1] * 9], [[1] * 9]).batches(max_tokens=8)) == 1
    full = pairs.batches(max_tokens=8)
    assert all((len(one) + 1) * int(two.lengths[0]) > 8 for one, two in pairwise(full)), (
        "a batch could have taken the next prompt"
    )


def test_in_order_puts_values_back_and_lets_gradients_through() -> None:
    pairs = PromptPairs(**random_rows(4, n_pairs=9))
    batches = pairs.batches(2)
    values = [torch.stack([batch.lengths, batch.positions], 1).double().requires_grad_() for batch in batches]
    ordered = in_order(batches, values)
    assert ordered.tolist() == torch.stack([pairs.lengths, pairs.positions], 1).tolist()
    ordered[0].sum().backward()
    place = next(i for i, batch in enumerate(batches) if 0 in batch.indices.tolist())
    assert int(values[place].grad.sum()) == 2


def test_in_order_refuses_what_does_not_cover_the_set() -> None:
    pairs = PromptPairs(**random_rows(4))
    batches = pairs.batches(3)
    with pytest.raises(ValueError, match="every pair of a set exactly once"):
        in_order(batches[1:], [batch.lengths for batch in batches[1:]])
    with pytest.raises(ValueError, match=r"batches of \[1, 3, 3\], got|batches of \[3, .*got"):
        in_order(batches, [batch.lengths[:1] for batch in batches])


def test_identical_pairs_have_the_clean_prompt_twice() -> None:
    pairs = PromptPairs([[1, 2, 3], [4, 5]], [[6, 2, 3], [7, 5]], [8, 9], positions=[-1, 0])
    same = pairs.identical()
    assert torch.equal(same.corrupted, pairs.clean) and torch.equal(same.clean, pairs.clean)
    assert torch.equal(same.positions, pairs.positions) and torch.equal(same.answers, pairs.answers)


def test_digest_tells_other_sets_apart() -> None:
    rows = random_rows(2)
    pairs = PromptPairs(**rows)
    others = [
        pairs.swapped(),
        pairs[::-1],
        pairs[:-1],
        *(PromptPairs(**rows | {name: None}) for name in ("positions", "answers")),
    ]
    assert PromptPairs(**rows).digest == pairs.digest
    assert len({pairs.digest, *(other.digest for other in others)}) == 1 + len(others)
    shorter, longer = (PromptPairs([first, [1, 2]], [first, [3, 4]], positions=[0, 0]) for first in ([5], [5, 0]))
    assert torch.equal(shorter.clean, longer.clean) and shorter.digest != longer.digest


@pytest.mark.parametrize("max_padding", [0.0, 0.2, 1.0, 100.0])
def test_batches_by_length_have_little_padding_and_as_few_as_go(max_padding: float) -> None:
    lengths = [5, 6, 7, 30, 8, 9, 9, 12, 6, 20]
    pairs = PromptPairs([[1] * n for n in lengths], [[2] * n for n in lengths])
    batches = pairs.by_size(pairs.lengths, max_padding)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(len(lengths)))
    fits = [batch.clean.numel() <= (1 + max_padding) * int(batch.lengths.sum()) for batch in batches]
    assert all(fits)
    for batch, after in pairwise(batches):  # the next prompt would have been too long
        n, real = len(batch) + 1, int(batch.lengths.sum() + after.lengths[0])
        assert n * int(after.lengths[0]) > (1 + max_padding) * real
