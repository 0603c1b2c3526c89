"""Prompts of subject-verb agreement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from real_directory import word_level_tokenizer

from edge_circuits.benchmarks.features.prompts import ENGLISH, STRUCTURES, agreement
from edge_circuits.benchmarks.tasks.words import WordTokenizer
from edge_circuits.graphs.prompts.tokenization import encode_answer

GPT2 = Path(__file__).parents[4] / "shared" / "models" / "gpt2_tokenizer"
FORMS = (*ENGLISH.nouns, *ENGLISH.verbs, *ENGLISH.with_object)
WORDS = tuple(
    dict.fromkeys([form for forms in FORMS for form in forms] + ["The", "the", "that", *ENGLISH.prepositions])
)
TOKENIZER = WordTokenizer(WORDS)
PLURAL = {forms[0]: forms[1] for forms in FORMS} | {"is": "are"}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_pairs_differ_in_the_number_of_the_noun_that_counts(structure: str) -> None:
    found = agreement(structure, 40, TOKENIZER, ENGLISH, seed=1)
    pairs, place = found.pairs, {"within a clause": -1}.get(structure, 2)
    assert len(set(pairs.lengths.tolist())) == 1
    for row in range(40):
        clean, corrupted = (
            TOKENIZER.convert_ids_to_tokens(ids.tolist()) for ids in (pairs.clean[row], pairs.corrupted[row])
        )
        differing = [at for at in range(len(clean)) if clean[at] != corrupted[at]]
        assert differing == [place % len(clean)]
        forms = [clean[place], corrupted[place]] if found.numbers[row] == 0 else [corrupted[place], clean[place]]
        assert PLURAL[forms[0]] == forms[1]
        answer, wrong = (
            TOKENIZER.convert_ids_to_tokens(ids.tolist())[0] for ids in (pairs.answers[row], pairs.wrong_answers[row])
        )
        assert (PLURAL[answer] == wrong) if found.numbers[row] == 0 else (PLURAL[wrong] == answer)
        if structure == "across a clause":  # the clause's verb agrees with the noun before it
            assert (clean[-1] in PLURAL) == (clean[-2] in PLURAL)
    assert 5 < found.numbers.sum() < 35


def test_splits_have_no_prompt_in_common_and_draws_repeat() -> None:
    for structure in STRUCTURES:
        train, test = (
            agreement(structure, 60, TOKENIZER, ENGLISH, seed=s, split=split).pairs
            for s, split in ((0, "train"), (1, "test"))
        )
        assert not {tuple(row) for row in train.clean.tolist()} & {tuple(row) for row in test.clean.tolist()}
        assert torch.equal(train.clean, agreement(structure, 60, TOKENIZER, ENGLISH).pairs.clean)


def test_a_tokenizer_decides_which_words_are_used() -> None:
    few = [word for word in WORDS if word not in ("doctors", "hates", "was")]
    left = ENGLISH.for_tokenizer(word_level_tokenizer(few))
    assert left.nouns == ENGLISH.nouns[1:] and ("hates", "hate") not in left.with_object
    split = ENGLISH.for_tokenizer(_Letters())
    assert split.nouns == ENGLISH.nouns[2:]
    with pytest.raises(ValueError, match="one that has at least 3 nouns as one token, got one with 0"):
        ENGLISH.for_tokenizer(_Letters(longest=3))
    with pytest.raises(ValueError, match="structure: expected one of 'simple'"):
        agreement("nested", 3, TOKENIZER, ENGLISH)


class _Letters:
    """Words are tokens, but for those of the first two nouns, or all longer than some length, which are letters."""

    bos_token_id = None

    def __init__(self, longest: int = 99) -> None:
        self.longest = longest

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        def pieces(word: str) -> list[str]:
            return list(word) if word.rstrip("s") in ("doctor", "lawyer") or len(word) > self.longest else [word]

        return [sum(map(ord, piece)) for word in text.split() for piece in pieces(word)]


@pytest.mark.skipif(not GPT2.exists(), reason="GPT-2's tokenizer is not there: ../shared/models/gpt2_tokenizer")
def test_gpt2s_tokenizer_has_the_words() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(GPT2)
    left = ENGLISH.for_tokenizer(tokenizer)
    assert len(left.nouns) >= 15 and len(left.prepositions) >= 5 and len(left.verbs) == 7
    pairs = agreement("across a clause", 20, tokenizer, ENGLISH).pairs
    assert set(pairs.lengths.tolist()) == {6}
    assert encode_answer(tokenizer, " are") in {
        int(x) for x in agreement("simple", 50, tokenizer, ENGLISH).pairs.answers
    }
