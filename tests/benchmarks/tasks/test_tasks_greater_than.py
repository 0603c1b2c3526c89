"""Greater-Than: years, positions and prompts as published, and what each corruption changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_circuits.benchmarks.tasks import load
from edge_circuits.benchmarks.tasks.greater_than import TASK, WORD_YEARS, years_of
from edge_circuits.benchmarks.tasks.task import word_lists
from edge_circuits.benchmarks.tasks.words import WordTokenizer

GPT2 = Path(__file__).parents[4] / "shared" / "models" / "gpt2_tokenizer"
LISTS = word_lists("greater_than")
ALL_NOUNS = WordTokenizer(tuple(dict.fromkeys((*TASK.words, *LISTS["nouns"], *LISTS["nouns_autocircuit"]))))
AUTOCIRCUIT_PROMPTS = (
    "The demonstrations lasted from the year 1363 to 13",
    "The assaults lasted from the year 1473 to 14",
    "The affair lasted from the year 1547 to 15",
    "The statute lasted from the year 1395 to 13",
    "The effort lasted from the year 1643 to 16",
)


@pytest.fixture(scope="module")
def gpt2() -> object:
    if not GPT2.exists():
        pytest.skip("GPT-2's tokenizer is not there: ../shared/models/gpt2_tokenizer, seen from the repository")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(GPT2)


def digits(gpt2: object, tokens: torch.Tensor) -> list[int]:
    return [int(gpt2.decode([token])) for token in tokens.tolist() if token >= 0]


@pytest.mark.parametrize(("variant", "n"), [("acdc", 30), ("eap", 1)])
def test_ten_tokens_with_the_year_in_the_eighth(variant: str, n: int, gpt2: object) -> None:
    pairs = load("greater_than").pairs(gpt2, n, seed=54, split="all", variant=variant)
    positions = load("greater_than").positions(gpt2, n, seed=54, split="all", variant=variant)
    assert pairs.clean.shape == (n, 10)
    assert {role: {*at.tolist()} for role, at in positions.items()} == {
        "noun": {1},
        "century": {6},
        "year": {7},
        "end": {9},
    }
    assert (pairs.corrupted[:, 7] == 486).all()  # "01"
    assert (pairs.clean != pairs.corrupted).any(dim=0).nonzero()[:, 0].tolist() == [7]
    assert torch.equal(pairs.clean[:, 6], pairs.clean[:, 9])
    words = gpt2.decode(pairs.clean[0]).split()
    assert words[:1] + words[2:6] == ["The", "lasted", "from", "the", "year"] and words[7] == "to"


def test_answers_are_the_later_years_and_wrong_ones_all_others(gpt2: object) -> None:
    pairs = load("greater_than").pairs(gpt2, 10, seed=54, split="all")
    for row in range(10):
        start = digits(gpt2, pairs.clean[row, 7:8])[0]
        assert digits(gpt2, pairs.answers[row]) == [*range(start + 1, 100)]
        assert digits(gpt2, pairs.wrong_answers[row]) == [*range(start + 1)]


def test_autocircuit_published_prompts(gpt2: object) -> None:
    """The first five, and 348 distinct years, YY 42 to 97, in all thousand."""
    texts = TASK.texts(gpt2, TASK.variant("autocircuit"), 1000, 54, "all")
    assert tuple(text.clean for text in texts[:5]) == AUTOCIRCUIT_PROMPTS
    years = [int(text.clean.split()[6]) for text in texts]
    assert len({*years}) == 348
    assert (min(year % 100 for year in years), max(year % 100 for year in years)) == (42, 97)


@pytest.mark.parametrize("variant", ["eap-ig", "mib"])
def test_eap_ig_prompts(variant: str, gpt2: object) -> None:
    pairs = load("greater_than").pairs(gpt2, 60, split="all", variant=variant)
    assert pairs.clean.shape == (60, 13) and (pairs.clean[:, 0] == gpt2.bos_token_id).all()
    words = gpt2.decode(pairs.clean[0, 1:]).split()
    assert words[:1] + words[2:6] + words[7:10] == ["The", "lasted", "from", "the", "year", "to", "the", "year"]
    assert (pairs.corrupted[:, 8] == 486).all() and {*words[1:2]} <= {*LISTS["nouns_eap_ig"]}
    assert {*digits(gpt2, pairs.clean[:, 8])} <= {*range(2, 99)}


def test_balanced_years_come_equally_often() -> None:
    years = [int(text.clean.split()[6][2:]) for text in TASK.word_texts("mib", 2000, 0, "all")]
    assert {*years} == {*range(2, 99)}
    # 97 values equally often: a mean of 50 with a standard deviation of 28 / sqrt(2000) = 0.6.
    assert abs(sum(years) / 2000 - 50) < 3


def test_years_that_gpt2_writes_as_two_tokens(gpt2: object) -> None:
    acdc, autocircuit, eap_ig = (years_of(gpt2, allowed) for allowed in (range(2, 99), range(41, 99), range(100)))
    assert (len(acdc), len(autocircuit), len(eap_ig)) == (604, 373, 617)
    assert (acdc[0], acdc[-1], eap_ig[0], eap_ig[-1]) == ((11, 12), (17, 97), (11, 10), (17, 98))
    assert {*autocircuit} < {*acdc} < {*eap_ig}
    assert all(gpt2.encode(f" {c}{y:02d}") == gpt2.encode(f" {c}") + gpt2.encode(f"{y:02d}") for c, y in eap_ig)


def test_noun_lists() -> None:
    assert (len(LISTS["nouns"]), len(LISTS["nouns_eap_ig"])) == (120, 34)
    assert {*LISTS["nouns_eap_ig"]} < {*LISTS["nouns"]}
    assert {*LISTS["nouns"]} ^ {*LISTS["nouns_autocircuit"]} == {"stature", "statute"}


def test_years_by_hand() -> None:
    """Where every year can be written, the first and last of the allowed ones are left out in each century."""
    years = years_of(ALL_NOUNS, range(2, 99))
    assert years == [(century, year) for century in range(11, 18) for year in range(3, 98)]
    assert years_of(ALL_NOUNS, range(41, 99)) == [(c, year) for c in range(11, 18) for year in range(42, 98)]


class WithoutFirstYears(WordTokenizer):
    """Writes 1101 as one token, so that the corrupted prompt cannot be written in that century."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return super().encode(text.replace(" 1101", " 11"), add_special_tokens)


class WholeYears(WordTokenizer):
    """Writes every year as one token."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = super().encode(text, add_special_tokens)
        return ids[:2] if len(ids) == 3 else ids


def test_century_without_its_year_01_is_left_out() -> None:
    years = years_of(WithoutFirstYears(TASK.words), range(2, 99))
    assert {century for century, _ in years} == {*range(12, 18)}


def test_tokenizer_with_whole_years_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a tokenizer that writes years such as ' 1732' as ' 17' and '32'"):
        years_of(WholeYears(TASK.words), range(2, 99))


def test_tokenizer_without_two_digit_tokens_is_refused() -> None:
    class Digits(WordTokenizer):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [ord(letter) for letter in text]

    message = r"task 'greater_than': expected a tokenizer that writes each of '00' to '99' as one token, got one that"
    with pytest.raises(ValueError, match=message):
        years_of(Digits(TASK.words), range(2, 99))


@pytest.mark.parametrize("variant", ["acdc", "autocircuit"])
def test_further_rounds_are_drawn_when_a_split_needs_more(variant: str) -> None:
    """One round of n gives about n / 4 prompts of the test."""
    texts = TASK.texts(ALL_NOUNS, TASK.variant(variant), 40, 54, "test")
    assert len(texts) == 40 and len({text.clean for text in texts}) > 35


def test_first_round_draws_nouns_then_years() -> None:
    generator = torch.Generator().manual_seed(54)
    years, nouns = years_of(ALL_NOUNS, range(2, 99)), LISTS["nouns"]
    drawn = [torch.randint(0, size, (30,), generator=generator).tolist() for size in (len(nouns), len(years))]
    said = [(nouns[noun], *years[year]) for noun, year in zip(*drawn)]
    expected = [f"The {noun} lasted from the year {century}{year:02d} to {century}" for noun, century, year in said]
    assert [text.clean for text in TASK.texts(ALL_NOUNS, TASK.variant("acdc"), 30, 54, "all")] == expected


def test_corrupted_year_is_01_and_nothing_else_changes_at_word_level() -> None:
    for variant in ("acdc", "eap-ig"):
        pairs, positions = (draw(50, 0, "all", variant) for draw in (TASK.word_pairs, TASK.word_positions))
        rows = torch.arange(50)
        assert (pairs.corrupted[rows, positions["year"]] == TASK.vocabulary().index("01")).all()
        assert ((pairs.clean != pairs.corrupted).sum(dim=1) == 1).all()


def test_word_level_years_leave_answers_on_both_sides() -> None:
    texts = TASK.word_texts("random", 500, 0, "all")
    assert WORD_YEARS[0] == (11, 2) and WORD_YEARS[-1] == (17, 98)
    assert min(len(text.answers) for text in texts) == 1 and min(len(text.wrong_answers) for text in texts) == 3
    assert {*TASK.word_pairs(20, 0, "all").lengths.tolist()} == {11, 13}
