"""How many edges are tried at a time."""

from __future__ import annotations

from edge_circuits.acdc.speculation import MOST, stack_size


def test_the_more_are_cut_the_more_are_tried():
    sizes = [stack_size([True] * n_stay + [False] * (64 - n_stay), n_moved=10) for n_stay in (0, 4, 16, 32, 64)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 12 and sizes[-1] == 1


def test_the_more_moves_the_fewer_are_tried():
    sizes = [stack_size([False] * 60 + [True] * 4, n_moved) for n_moved in (0, 3, 10, 40, 150)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] > 1


def test_only_recent_decisions_count():
    assert stack_size([True] * 1000 + [False] * 64, 5) == stack_size([False] * 64, 5)


def test_limits():
    assert stack_size([], 5) > 1
    assert stack_size([False] * 64, 5, most=3) == 3
    assert stack_size([False] * 64, 0, most=10**6) <= MOST
