"""Checks of arguments: what they let through, and the words in which they refuse."""

import re

import numpy as np
import pytest
import torch

from edge_circuits.graphs import checks


@pytest.mark.parametrize(
    ("check", "value", "given"),
    [
        (lambda v: checks.whole_number("k", v), np.int64(3), 3),
        (lambda v: checks.whole_number("k", v, 2, 5), 5, 5),
        (lambda v: checks.number("x", v), -2.5, -2.5),
        (lambda v: checks.number("x", v, least=0, below=0.5), 0, 0.0),
        (lambda v: checks.share("x", v), 1, 1.0),
        (lambda v: checks.between_0_and_1("x", v), np.float32(0.5), 0.5),
        (lambda v: checks.choice("by", v, ("a", "b")), "b", "b"),
        (lambda v: checks.flag("raw", v), False, False),
    ],
)
def test_a_value_that_fits_is_given_back_as_a_plain_one(check, value, given):
    assert check(value) == given and type(check(value)) is type(given)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checks.whole_number("k", -1), "k: expected a whole number from 0, got -1"),
        (lambda: checks.whole_number("k", True, 1), "k: expected a whole number from 1, got True"),
        (lambda: checks.whole_number("k", 3.0, 1, 9, "ask for less"), "from 1 to 9, got 3.0; ask for less"),
        (lambda: checks.whole_number("k", 10, 1, 9), "k: expected a whole number from 1 to 9, got 10"),
        (lambda: checks.number("x", float("nan")), "x: expected a finite number, got nan"),
        (lambda: checks.number("x", "1"), "x: expected a finite number, got '1'"),
        (lambda: checks.number("x", False), "x: expected a finite number, got False"),
        (
            lambda: checks.number("x", 0.5, least=0, below=0.5),
            "x: expected a finite number from 0 and below 0.5, got 0.5",
        ),
        (lambda: checks.number("x", -1, least=0), "x: expected a finite number from 0, got -1"),
        (lambda: checks.share("s", 0), "s: expected a finite number above 0 and up to 1, got 0"),
        (lambda: checks.share("s", 1.5), "s: expected a finite number above 0 and up to 1, got 1.5"),
        (lambda: checks.between_0_and_1("c", 1), "c: expected a finite number above 0 and below 1, got 1"),
        (lambda: checks.choice("by", "c", ("a", "b")), "by: expected one of 'a', 'b', got 'c'"),
        (lambda: checks.choice("by", ["a"], ("a", "b")), "by: expected one of 'a', 'b', got ['a']"),
        (lambda: checks.flag("raw", 1), "raw: expected True or False, got 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_dialect(check, message):
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        check()


def test_a_value_is_described_by_what_its_reader_needs():
    assert checks.described(torch.zeros(2, 3)) == "torch.float32 of shape (2, 3)"
    assert checks.described(None) == "NoneType"
