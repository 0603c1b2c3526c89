"""What holds for every task and variant, with tokenizers made here, so that nothing is needed beside the repository."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_circuits.benchmarks import tasks as known_tasks
from edge_circuits.benchmarks.reference import circuits
from edge_circuits.benchmarks.tasks import greater_than, load, names
from edge_circuits.benchmarks.tasks.task import (
    answer_token,
    in_split,
    role_positions,
    single_token_words,
    take,
    word_token,
)
from edge_circuits.benchmarks.tasks.words import PIECE
from edge_circuits.graphs import metrics

TASKS = ("docstring", "greater_than", "ioi")
VARIANTS = [(task, variant.name) for task in TASKS for variant in load(task).variants]
WORD_VARIANTS = [(task, variant) for task in TASKS for variant in load(task).word_variants]


class AnyWord:
    """Every word, pair of digits or mark is a token, with and without a space before it; BOS is 0."""

    bos_token_id = 0

    def __init__(self) -> None:
        self.ids = {"<bos>": self.bos_token_id}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [self.ids.setdefault(match[0], len(self.ids)) for match in PIECE.finditer(text)]
        return [self.bos_token_id] * add_special_tokens + ids

    def decode(self, ids: list[int]) -> str:
        texts = list(self.ids)
        return "".join(texts[token] for token in ids)


class Letters:
    """Every character is a token."""

    bos_token_id = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[AnyWord]:
    """One for all tests here; its years are looked up once, which is most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greater_than, "years_of", functools.cache(greater_than.years_of))
        yield AnyWord()


def prompts(tokens: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in tokens.tolist()}


def test_every_file_with_a_task_is_found_by_its_name() -> None:
    assert names() == TASKS
    assert [load(name).name for name in TASKS] == list(TASKS)


def test_one_new_file_is_a_new_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echo.py").write_text("TASK = 'a task'\n")
    monkeypatch.setattr(known_tasks, "__path__", [*known_tasks.__path__, str(tmp_path)])
    assert names() == ("docstring", "echo", "greater_than", "ioi")
    assert load("echo") == "a task"


def test_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected one of 'docstring', 'greater_than', 'ioi', got 'IOI'"):
        load("IOI")


@pytest.mark.parametrize("name", TASKS)
def test_task_names_metrics_and_reference_circuit_that_exist(name: str) -> None:
    task = load(name)
    assert all(variant.metric in metrics.METRICS for variant in task.variants)
    assert task.metric == task.variants[0].metric
    assert task.name in circuits.TASKS


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_same_seed_same_pairs(name: str, variant: str, tokenizer: AnyWord) -> None:
    draws = [load(name).pairs(tokenizer, 7, seed=seed, variant=variant) for seed in (5, 5, 6)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert len(draws[0]) == 7


@pytest.mark.parametrize(("name", "variant"), WORD_VARIANTS)
def test_same_seed_same_word_pairs(name: str, variant: str) -> None:
    for split in ("train", "test", "all"):
        draws = [load(name).word_pairs(7, seed, split, variant) for seed in (5, 5, 6)]
        assert draws[0] == draws[1]
        assert draws[0] != draws[2]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_train_and_test_share_no_prompt_over_seeds(name: str, variant: str, tokenizer: AnyWord) -> None:
    task = load(name)
    train, test = (
        {text.clean for seed in (0, 1) for text in task.texts(tokenizer, task.variant(variant), 40, seed, split)}
        for split in ("train", "test")
    )
    assert train and test and not train & test


@pytest.mark.parametrize(("name", "variant"), WORD_VARIANTS)
def test_word_level_train_and_test_share_no_prompt(name: str, variant: str) -> None:
    train, test = (load(name).word_pairs(40, 3, split, variant) for split in ("train", "test"))
    assert not prompts(train.clean) & prompts(test.clean)


@pytest.mark.parametrize("name", TASKS)
def test_random_other_prompts_stay_in_their_split(name: str) -> None:
    """The corrupted prompts used in training are never prompts of the test."""
    task = load(name)
    train = {text.corrupted for text in task.word_texts("random", 400, 1, "train")}
    test = {text.clean for text in task.word_texts("random", 400, 2, "test")}
    unsplit = {text.corrupted for text in task.word_texts("random", 800, 2, "all")}
    assert len(train) > 300 and not train & test
    assert unsplit & test or name == "docstring"  # docstrings hardly ever come twice


@pytest.mark.parametrize("name", TASKS)
def test_random_other_prompts_have_the_same_shape_and_other_answers(name: str) -> None:
    """As many tokens, and another name, noun or year at every named position."""
    task = load(name)
    pairs, positions = (draw(60, 0, "all", "random") for draw in (task.word_pairs, task.word_positions))
    rows = torch.arange(60)
    for role in positions.keys() - {"end", "comma_B"}:
        assert (pairs.clean[rows, positions[role]] != pairs.corrupted[rows, positions[role]]).all()


@pytest.mark.parametrize("name", TASKS)
def test_a_quarter_of_all_contents_is_test(name: str) -> None:
    texts = load(name).word_texts("random", 2000, 0, "all")
    contents = sorted({text.content for text in texts})
    share = sum(in_split(content, "test") for content in contents) / len(contents)
    # Contents are hashed: a share of 1/4 with a standard deviation below sqrt(3/16/300) = 0.025 (276 or more contents).
    assert len(contents) > 275 and abs(share - 0.25) < 0.1
    assert all(in_split(content, "train") != in_split(content, "test") for content in contents)
    assert all(in_split(content, "all") for content in contents)


def test_take_gives_the_first_of_the_split_in_order() -> None:
    texts = load("ioi").word_texts("mib", 40, 0, "all")
    test = [text for text in texts if in_split(text.content, "test")]
    assert take(texts, 3, "test") == test[:3]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
@pytest.mark.usefixtures("without_type_checks")  # they draw from Python's global generator
def test_global_random_state_is_neither_read_nor_changed(name: str, variant: str, tokenizer: AnyWord) -> None:
    results = []
    for seed in (0, 1):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        results.append(load(name).pairs(tokenizer, 5, variant=variant))
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_pairs_are_sound(name: str, variant: str, tokenizer: AnyWord) -> None:
    """Clean and corrupted differ, but not at the answer position; right and wrong answers share no token."""
    pairs = load(name).pairs(tokenizer, 20, variant=variant)
    rows = torch.arange(20)
    assert (pairs.clean != pairs.corrupted).any(dim=1).all()
    assert torch.equal(pairs.positions, pairs.lengths - 1)
    assert torch.equal(pairs.clean[rows, pairs.positions], pairs.corrupted[rows, pairs.positions])
    for right, wrong in zip(pairs.answers.tolist(), pairs.wrong_answers.tolist()):
        assert not {*right} & {*wrong} - {-1}


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_bos_adds_one_token_in_front_and_nothing_else(name: str, variant: str, tokenizer: AnyWord) -> None:
    task = load(name)
    default = task.pairs(tokenizer, 4, variant=variant)
    bare, headed = (task.pairs(tokenizer, 4, variant=variant, prepend_bos=bos) for bos in (False, True))
    assert default == (headed if task.variant(variant).prepend_bos else bare)
    assert torch.equal(headed.clean[:, 1:], bare.clean) and (headed.clean[:, 0] == tokenizer.bos_token_id).all()
    assert torch.equal(headed.corrupted[:, 1:], bare.corrupted)
    roles = [task.positions(tokenizer, 4, variant=variant, prepend_bos=bos) for bos in (False, True)]
    assert all(torch.equal(roles[0][role] + 1, roles[1][role]) for role in roles[0])


@pytest.mark.parametrize("name", TASKS)
def test_named_positions_hold_the_named_words(name: str) -> None:
    task = load(name)
    draw = (25, 2, "train", "random")
    pairs, positions, texts = task.word_pairs(*draw), task.word_positions(*draw), task.word_texts("random", *draw[:3])
    for row, text in enumerate(texts):
        for role, start in text.starts.items():
            token = int(pairs.clean[row, positions[role][row]])
            assert task.vocabulary()[token].strip() == PIECE.match(text.clean, start)[2]
    assert torch.equal(positions["end"], pairs.positions)


@pytest.mark.parametrize("name", TASKS)
def test_word_vocabulary_is_small_and_all_of_it_is_used(name: str) -> None:
    task = load(name)
    texts = task.word_texts("random", 1200, 0, "all")
    shown = " ".join(" ".join((text.clean, text.corrupted, *text.answers, *text.wrong_answers)) for text in texts)
    assert len(task.vocabulary()) <= 150
    assert {*task.word_tokenizer().encode(shown)} == set(range(1, len(task.vocabulary())))
    pairs = task.word_pairs(20)
    assert len({*pairs.lengths.tolist()}) > 1
    assert (pairs.clean[:, 0] == task.word_tokenizer().bos_token_id).all()


@pytest.mark.parametrize("name", TASKS)
def test_tokenizer_without_whole_words_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=rf"task '{name}': expected a tokenizer .*got one .*; use a model"):
        load(name).pairs(Letters(), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n: expected a whole number from 1, got 0"),
        ({"n": True}, "n: expected a whole number from 1, got True"),
        ({"n": 3, "seed": -1}, "seed: expected a whole number from 0, got -1"),
        ({"n": 3, "variant": "acdx"}, "variant: expected one of 'acdc', 'eap', .*'acdx'"),
    ],
)
def test_bad_draws_are_refused(arguments: dict, message: str, tokenizer: AnyWord) -> None:
    for name in TASKS:
        with pytest.raises(ValueError, match=message):
            load(name).pairs(tokenizer, **arguments)
        with pytest.raises(ValueError, match=message.replace(", .*", ".*random.*")):
            load(name).word_pairs(**arguments)


def test_bos_that_the_tokenizer_does_not_have_is_refused() -> None:
    tokenizer = AnyWord()
    tokenizer.bos_token_id = None
    with pytest.raises(ValueError, match="has no BOS token"):
        load("ioi").pairs(tokenizer, 2, prepend_bos=True)


def test_word_token_is_the_token_inside_a_sentence() -> None:
    tokenizer = AnyWord()
    token = word_token(tokenizer, "Mary", "to")
    assert tokenizer.decode([token]) == " Mary"
    assert word_token(tokenizer, "Mary-Ann", "to") is None
    assert answer_token(tokenizer, " Mary", "to") == token
    assert tokenizer.decode([answer_token(tokenizer, "32", "to")]) == "32"


def test_words_of_several_tokens_are_left_out_until_too_few_remain() -> None:
    words = ("Mary-Ann", "Mary", "Ann")
    assert single_token_words(AnyWord(), words, "to", 2, "ioi") == ("Mary", "Ann")
    with pytest.raises(ValueError, match=r"at least 3 of 3 words such as ' Mary-Ann' as one token, got one with 2"):
        single_token_words(AnyWord(), words, "to", 3, "ioi")


def test_position_inside_a_joined_token_is_refused() -> None:
    class Joined(AnyWord):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return super().encode(re.sub(" and (?=[A-Z])", " and_", text), add_special_tokens)

    texts = load("ioi").word_texts("mib", 3, 0, "train")
    with pytest.raises(ValueError, match="this tokenizer joins it with the text before"):
        role_positions(Joined(), texts, False)
