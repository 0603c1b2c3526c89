"""Docstring: text, positions and prompts as published, and what each corruption changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from edge_circuits.benchmarks.tasks import load
from edge_circuits.benchmarks.tasks.docstring import CORRUPTIONS, TASK, WORD_CORRUPTIONS, Names
from edge_circuits.benchmarks.tasks.task import in_split, word_lists
from edge_circuits.benchmarks.tasks.words import WordTokenizer

GPT2 = Path(__file__).parents[4] / "shared" / "models" / "gpt2_tokenizer"
NAMES = Names("M", "R", ("D1", "D2", "D3"), ("E1", "E2"), ("U1", "U2"), ("A", "B", "C"), ("P1", "P2"), ("S1",))
ACDC_FIRST = '''
def old(self, first, files, page, names, size, read):
    """sector gap population

    :param page: message tree
    :param names: detail mine
    :param'''
ACDC_FIRST_CORRUPTED = '''
def old(self, first, files, project, target, new, read):
    """sector gap population

    :param image: message tree
    :param update: detail mine
    :param'''
ACDC_SECOND = '''
def model(self, fields, page, table, config, count, number):
    """unit bone paper

    :param table: selection sky
    :param config: host action
    :param'''
AUTOCIRCUIT_SECOND = '''
def event(self, format, order, files, code, state, number):
    """focus fall theme

    :param files: currency document
    :param code: range stairs
    :param'''
FIRST_WRONG = "instance project target new image update required run page names first files read"


class MergedIndents:
    """GPT-2's tokenizer with line end and indentation in one token, as that of attn-only-4l has them."""

    bos_token_id = 50256

    def __init__(self, gpt2: object) -> None:
        self.gpt2 = gpt2
        space = gpt2.encode(" ")
        self.merged = {tuple(gpt2.encode(end) + 3 * space): 60000 + at for at, end in enumerate(("\n", "\n\n"))}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids, merged = self.gpt2.encode(text, add_special_tokens=False), [self.bos_token_id] * add_special_tokens
        while ids:
            key = tuple(ids[:4])
            merged.append(self.merged.get(key, ids[0]))
            ids = ids[4:] if key in self.merged else ids[1:]
        return merged

    def decode(self, ids: list[int]) -> str:
        return self.gpt2.decode(ids)


@pytest.fixture(scope="module")
def gpt2() -> object:
    if not GPT2.exists():
        pytest.skip("GPT-2's tokenizer is not there: ../shared/models/gpt2_tokenizer, seen from the repository")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(GPT2)


def test_acdc_published_prompts(gpt2: object) -> None:
    pairs = load("docstring").pairs(gpt2, 2, seed=0, split="all", variant="acdc", prepend_bos=False)
    assert [gpt2.decode(tokens) for tokens in pairs.clean] == [ACDC_FIRST, ACDC_SECOND]
    assert gpt2.decode(pairs.corrupted[0]) == ACDC_FIRST_CORRUPTED
    assert pairs.answers.tolist() == [gpt2.encode(" size"), gpt2.encode(" count")]
    assert gpt2.decode(pairs.wrong_answers[0]) == f" {FIRST_WRONG}"


def test_autocircuit_published_prompts(gpt2: object) -> None:
    pairs = load("docstring").pairs(gpt2, 2, seed=0, split="all", variant="autocircuit", prepend_bos=False)
    assert [gpt2.decode(tokens) for tokens in pairs.clean] == [ACDC_FIRST, AUTOCIRCUIT_SECOND]


def test_published_lengths_and_positions_with_merged_indents(gpt2: object) -> None:
    tokenizer = MergedIndents(gpt2)
    pairs = load("docstring").pairs(tokenizer, 12, split="all")
    positions = load("docstring").positions(tokenizer, 12, split="all")
    without_bos = {role: {int(at) - 1 for at in row} for role, row in positions.items()}
    assert without_bos == {
        "A_def": {10},
        "B_def": {12},
        "comma_B": {13},
        "C_def": {14},
        "A_doc": {26},
        "B_doc": {33},
        "end": {39},
    }
    assert pairs.clean.shape == (12, 41) and pairs.wrong_answers.shape == (12, 13)
    rows = torch.arange(12)
    assert torch.equal(pairs.clean[rows, positions["C_def"]], pairs.answers[:, 0])
    assert torch.equal(pairs.clean[rows, positions["A_doc"]], pairs.clean[rows, positions["A_def"]])
    changed = (pairs.clean != pairs.corrupted).any(dim=0).nonzero()[:, 0].tolist()
    assert changed == [11, 13, 15, 27, 34]


def test_gpt2_keeps_each_indentation_as_three_tokens(gpt2: object) -> None:
    """12 tokens more than with the tokenizer of attn-only-4l: three for each of four indentations."""
    assert load("docstring").pairs(gpt2, 5).clean.shape == (5, 53)


def test_corruptions_by_hand() -> None:
    assert {name: corrupt(NAMES) for name, corrupt in CORRUPTIONS.items()} == {
        "random-random": (("D1", "D2", "D3"), ("E1", "E2")),
        "random-doc": (("A", "B", "C"), ("U1", "U2")),
        "random-def": (("U1", "U2", "C"), ("A", "B")),
        "random-answer": (("A", "B", "R"), ("A", "B")),
    }


@pytest.mark.parametrize(
    ("corruption", "changed"),
    [
        ("random-random", {"A_def", "B_def", "C_def", "A_doc", "B_doc"}),
        ("random-doc", {"A_doc", "B_doc"}),
        ("random-def", {"A_def", "B_def"}),
        ("random-answer", {"C_def"}),
    ],
)
def test_corruptions_change_what_they_say_and_nothing_else(corruption: str, changed: set[str]) -> None:
    variant = next(name for name, used in WORD_CORRUPTIONS.items() if used == corruption)
    pairs, positions = TASK.word_pairs(40, 0, "all", variant), TASK.word_positions(40, 0, "all", variant)
    expected = torch.zeros_like(pairs.clean, dtype=torch.bool)
    for role in changed:
        expected[torch.arange(40), positions[role]] = True
    assert torch.equal(pairs.clean != pairs.corrupted, expected)


def test_clean_prompts_ask_for_the_third_matching_name() -> None:
    pairs, positions = TASK.word_pairs(40, 0, "all"), TASK.word_positions(40, 0, "all")
    rows = torch.arange(40)
    tokens = {role: pairs.clean[rows, at] for role, at in positions.items()}
    assert torch.equal(tokens["A_def"], tokens["A_doc"]) and torch.equal(tokens["B_def"], tokens["B_doc"])
    assert torch.equal(tokens["C_def"], pairs.answers[:, 0])
    assert (tokens["end"] == TASK.vocabulary().index("param")).all()
    assert ((pairs.clean == pairs.answers).sum(dim=1) == 1).all()  # the answer stands only in the signature


def test_wrong_answers_are_all_other_sampled_names_but_the_method() -> None:
    pairs = TASK.word_pairs(40, 0, "all")
    methods = pairs.clean[:, 2]
    for row in range(40):
        wrong = [token for token in pairs.wrong_answers[row].tolist() if token >= 0]
        assert 11 <= len({*wrong}) == len(wrong) <= 15
        assert int(pairs.answers[row, 0]) not in wrong and int(methods[row]) not in wrong


def test_word_level_shapes_vary_so_that_no_position_is_fixed() -> None:
    positions = TASK.word_positions(150, 0, "all")
    assert {*positions["C_def"].tolist()} == {12, 14, 16}
    assert len({*(positions["end"] - positions["C_def"]).tolist()}) > 4


def test_random_other_prompt_has_none_of_the_clean_identifiers() -> None:
    identifiers = {TASK.vocabulary().index(word) for word in TASK.words[8:38]}
    pairs = TASK.word_pairs(60, 0, "all", "random")
    for clean, corrupted in zip(pairs.clean.tolist(), pairs.corrupted.tolist()):
        assert len({*clean} & identifiers) >= 5 and not {*clean} & {*corrupted} & identifiers


def matching_names(text: str) -> list[str]:
    """The documented names and the one after them in the signature, read from the text."""
    signature = re.search(r"\(self, (.*)\):", text)[1].split(", ")
    documented = re.findall(r":param (\w+):", text)
    return [*documented, signature[signature.index(documented[1]) + 1]]


def test_content_is_the_three_matching_names_and_decides_the_split_of_both_prompts() -> None:
    for text in TASK.word_texts("random", 60, 0, "all"):
        assert text.content == " ".join(sorted(matching_names(text.clean)))
        other = " ".join(sorted(matching_names(text.corrupted)))
        assert in_split(other, "test") == in_split(text.content, "test")


def test_acdc_and_autocircuit_agree_on_the_first_prompt_only() -> None:
    """A generator for each prompt and one for all: both begin from the seed."""
    lists = word_lists("docstring")
    tokenizer = WordTokenizer(tuple(dict.fromkeys((*TASK.words, *lists["identifiers"], *lists["nouns"]))))
    acdc, autocircuit = (TASK.texts(tokenizer, TASK.variant(name), 5, 0, "all") for name in ("acdc", "autocircuit"))
    assert [one.clean == other.clean for one, other in zip(acdc, autocircuit)] == [True, False, False, False, False]
