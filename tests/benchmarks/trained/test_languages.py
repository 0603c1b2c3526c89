"""What trained models learn and are asked: sequences that fit, prompts of which only the right answers fit, and training again."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edge_circuits.benchmarks.trained import NAMES, addition, grammar, language_of, load
from edge_circuits.benchmarks.trained.train import STUDY, next_token_loss, train
from edge_circuits.graphs import Circuit, Graph, metrics, run

TASKS = [(name, task) for name in NAMES for task in language_of(name).tasks]


@pytest.mark.parametrize("name", NAMES)
def test_sequences_fit_the_vocabulary_and_the_context(name: str) -> None:
    of, rng = language_of(name), random.Random(0)
    longest = of.settings.get("n_positions") or of.settings["max_position_embeddings"]
    for _ in range(200):
        tokens, first = of.sequence(rng)
        assert 1 < len(tokens) <= longest and 0 < first < len(tokens)
        assert min(tokens) >= 1 and max(tokens) < len(of.tokenizer)


@pytest.mark.parametrize(("name", "task"), TASKS, ids=[task.name for _, task in TASKS])
def test_prompts_differ_where_they_should_and_are_of_their_split(name: str, task: object) -> None:
    pairs, again, train_pairs = task.pairs(40, 3, "test"), task.pairs(40, 3, "test"), task.pairs(40, 3, "train")
    assert pairs == again and pairs != task.pairs(40, 4, "test")
    assert (pairs.clean != pairs.corrupted).any(1).all()
    assert not set(map(str, pairs.clean.tolist())) & set(map(str, train_pairs.clean.tolist()))
    for right, wrong in zip(pairs.answers.tolist(), pairs.wrong_answers.tolist()):
        assert not set(right) & set(wrong) - {-1}


def test_only_verbs_of_the_subjects_number_are_answers() -> None:
    pairs = grammar.LANGUAGE.tasks[0].pairs(30, seed=1)
    words = grammar.LANGUAGE.tokenizer.vocabulary
    forms = {form: number for noun in grammar.NOUNS for number, form in enumerate(noun.forms)}
    for sides, right in ((pairs.clean, True), (pairs.corrupted, False)):
        for row, tokens in enumerate(sides.tolist()):
            number = forms[next(words[token] for token in tokens if words[token] in forms)]
            fitting = {words[token] for token in (pairs.answers if right else pairs.wrong_answers)[row].tolist()}
            assert fitting == {verb[number] for verb in grammar.VERBS}


def test_brackets_and_words_that_come_again_have_one_answer() -> None:
    from edge_circuits.benchmarks.trained import brackets, induction

    asked = brackets.LANGUAGE.tasks[0].pairs(30)
    for tokens, answer in zip(asked.clean.tolist(), asked.answers.tolist()):
        stack = []
        for token in tokens[1:]:
            if token in brackets.OPEN:
                stack.append(token + 4)
            else:
                assert token == stack.pop()
        assert answer == [stack[-1]]
    found = induction.LANGUAGE.tasks[0].pairs(30)
    for row, length in enumerate(found.lengths.tolist()):
        tokens = found.clean[row, :length].tolist()
        assert found.answers[row].tolist() == [tokens[tokens.index(tokens[-1]) + 1]]


def test_sums_are_right_and_those_of_the_test_are_never_learned() -> None:
    number = {word: int(word) for word in addition.WORDS[:-1]}
    words, asked = addition.LANGUAGE.tokenizer.vocabulary, addition.LANGUAGE.tasks[0].pairs(300)
    for prompts, answers in ((asked.clean, asked.answers), (asked.corrupted, asked.wrong_answers)):
        for (bos, first, second, equals), (answer,) in zip(prompts.tolist(), answers.tolist()):
            assert (bos, words[equals]) == (1, "=")
            assert number[words[answer]] == (number[words[first]] + number[words[second]]) % 31
    assert torch.equal(asked.clean[:, 1], asked.corrupted[:, 1])
    rng = random.Random(0)
    learned = {tuple(addition.sequence(rng).tokens[:4]) for _ in range(6000)}
    tested = set(map(tuple, asked.clean.tolist()))
    assert len(learned) > 680 and not learned & tested  # of 961, three quarters


@pytest.mark.parametrize("name", ["induction", "brackets", "addition"])
def test_a_shipped_model_answers_prompts_it_has_not_seen(name: str) -> None:
    model, of = load(name)
    pairs = of.tasks[0].pairs(64, 7, "test")
    assert metrics.accuracy(run(model, Circuit.full(Graph.from_model(model)), pairs), pairs).mean() > 0.95


def test_training_lowers_the_loss_and_can_be_repeated(tmp_path: Path) -> None:
    of = language_of("brackets")
    training = replace(of.training, steps=12, batch_size=8)
    modules = [train(of, training, quiet=True) for _ in range(2)]
    assert all(torch.equal(*both) for both in zip(modules[0].parameters(), modules[1].parameters()))
    before, after = (
        next_token_loss(module, of, random.Random(9), 32).item() for module in (of.new_module(0), modules[0])
    )
    assert after < before - 0.1
    of.weights(0, tmp_path).save(modules[0], training)
    with pytest.raises(ValueError, match="brackets-3.safetensors.*trained.train brackets --seed 3"):
        load("brackets", 3, tmp_path)


def test_the_command_writes_weights_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert STUDY.main(["brackets", "--steps", "2", "--seed", "5", "--out", str(tmp_path), "--quiet"]) == 0
    torch.set_num_threads(threads)
    assert "right answers: {'brackets': " in capsys.readouterr().out
    trained = load("brackets", 5, tmp_path)
    assert all(torch.equal(each, each.half().float()) for each in trained.model.parameters())
