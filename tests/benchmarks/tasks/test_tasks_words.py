"""The word-level tokenizer: round trips, years, and what it refuses."""

from __future__ import annotations

import random

import pytest

from edge_circuits.benchmarks.tasks import load
from edge_circuits.benchmarks.tasks.words import WordTokenizer

YEARS = WordTokenizer(("The", "war", "to", ".", '"""', " 17", "17", "32"))


def test_ids_are_padding_then_bos_then_the_words() -> None:
    assert YEARS.vocabulary == ("<pad>", "<bos>", "The", "war", "to", ".", '"""', " 17", "17", "32")
    assert (YEARS.pad_token_id, YEARS.bos_token_id, len(YEARS)) == (0, 1, 10)


def test_encoding_by_hand() -> None:
    assert YEARS.encode("The war 1732 to 17.") == [1, 2, 3, 7, 9, 4, 7, 5]
    assert YEARS.encode("The war 1732 to 17.", add_special_tokens=False) == [2, 3, 7, 9, 4, 7, 5]
    assert YEARS.encode('\n    """The', add_special_tokens=False) == [6, 2]


def test_century_and_year_are_told_apart_by_the_space() -> None:
    assert YEARS.convert_ids_to_tokens(YEARS.encode("war 1717", add_special_tokens=False)) == ["war", " 17", "17"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["ioi", "docstring", "greater_than", "years"])
def test_decoding_and_encoding_again_gives_the_same_words(name: str, seed: int) -> None:
    tokenizer = YEARS if name == "years" else load(name).word_tokenizer()
    ids = random.Random(seed).choices(range(2, len(tokenizer)), k=40)
    assert tokenizer.encode(tokenizer.decode([1, *ids, 0]), add_special_tokens=False) == ids


def test_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'peace' in 'The peace' is not in this vocabulary of 10 words"):
        YEARS.encode("The peace")


def test_word_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected distinct words, got \['to'\] more than once"):
        WordTokenizer(("to", "the", "to"))


@pytest.mark.parametrize("word", ["two words", "", "1732", "a1"])
def test_word_of_several_pieces_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="expected single words, pairs of digits or punctuation marks"):
        WordTokenizer(("to", word))
