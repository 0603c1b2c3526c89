"""IOI: positions and prompts as published, and what each corruption changes."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_circuits.benchmarks.tasks import load
from edge_circuits.benchmarks.tasks.ioi import TASK, VARIANTS, WORD_LISTS, Sentence, both_orders, three_steps
from edge_circuits.benchmarks.tasks.task import word_lists
from edge_circuits.benchmarks.tasks.words import WordTokenizer

GPT2 = Path(__file__).parents[4] / "shared" / "models" / "gpt2_tokenizer"
# ACDC's first prompts (clean names, corrupted names, place, object), and one with a coincidence.
ACDC_PROMPTS = {
    0: ("Mary Jeffrey Jeffrey", "Melissa Nicole Anthony", "restaurant", "bone"),
    1: ("Brittany Jamie Jamie", "Lauren Alicia Daniel", "garden", "necklace"),
    2: ("Christine Amy Amy", "Thomas Elizabeth Jesse", "station", "drink"),
    16: ("Katherine Kimberly Kimberly", "Alexander Samantha Samantha", "school", "drink"),
    19: ("Lauren Robert Robert", "Katherine Jason Richard", "hospital", "kiss"),
}


@pytest.fixture(scope="module")
def gpt2() -> object:
    if not GPT2.exists():
        pytest.skip("GPT-2's tokenizer is not there: ../shared/models/gpt2_tokenizer, seen from the repository")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(GPT2)


def sentence(order: str) -> Sentence:
    """Mary is IO and John is S, in template 0."""
    template = both_orders(word_lists("ioi")["templates"][:1], (order,))[0]
    names = ("Mary", "John", "John") if order == "ABBA" else ("John", "Mary", "John")
    return Sentence(template, names, "store", "ring")


def drawn(names: list[str]) -> Sentence:
    return Sentence(sentence("ABBA").template, tuple(names), "store", "ring")


def test_sentence_by_hand() -> None:
    assert sentence("ABBA").text == "Then, Mary and John went to the store. John gave a ring to"
    assert sentence("BABA").text == "Then, John and Mary went to the store. John gave a ring to"
    assert sentence("ABBA").starts == {"IO": 5, "S1": 14, "S2": 38}
    assert sentence("BABA").starts == {"S1": 5, "IO": 14, "S2": 38}
    assert sentence("ABBA").content == sentence("BABA").content == "John Mary store ring"


def test_content_leaves_out_what_the_template_does_not_show() -> None:
    template = both_orders(word_lists("ioi")["templates"][4:5], ("ABBA",))[0]
    one, other = (Sentence(template, ("Mary", "John", "John"), place, "ring") for place in ("store", "garden"))
    assert one.text == "Then, Mary and John had a long argument, and afterwards John said to"
    assert one.content == other.content == "John Mary"


def test_fifteen_templates_in_both_orders_lose_only_their_answer() -> None:
    templates = word_lists("ioi")["templates"]
    stored = [template.replace("[B]", "John").replace(" [A]", " Mary") for template in templates]
    names = ("John", "Mary", "John")
    filled = [Sentence(template, names, "[PLACE]", "[OBJECT]") for template in both_orders(templates, ("BABA",))]
    assert [f"{one.text} Mary" for one in filled] == stored
    assert len(both_orders(templates, ("BABA", "ABBA"))) == 30


@pytest.mark.parametrize("n", [1, 40])
def test_acdc_prompts_with_gpt2(n: int, gpt2: object) -> None:
    pairs = load("ioi").pairs(gpt2, n, seed=0, split="all")
    positions = load("ioi").positions(gpt2, n, seed=0, split="all")
    assert pairs.clean.shape == (n, 15) and (pairs.positions == 14).all()
    assert {role: set(at.tolist()) for role, at in positions.items()} == {"IO": {2}, "S1": {4}, "S2": {10}, "end": {14}}
    rows = torch.arange(n)
    assert torch.equal(pairs.clean[rows, positions["IO"]], pairs.answers[:, 0])
    assert torch.equal(pairs.clean[rows, positions["S1"]], pairs.wrong_answers[:, 0])
    assert torch.equal(pairs.clean[rows, positions["S2"]], pairs.wrong_answers[:, 0])
    changed = (pairs.clean != pairs.corrupted).any(dim=0).nonzero()[:, 0].tolist()
    assert changed == [2, 4, 10]


def test_acdc_published_prompts(gpt2: object) -> None:
    pairs = load("ioi").pairs(gpt2, 200, seed=0, split="all", variant="acdc")
    for row, (clean, corrupted, place, thing) in ACDC_PROMPTS.items():
        for tokens, names in ((pairs.clean, clean.split()), (pairs.corrupted, corrupted.split())):
            text = "Then, {} and {} went to the {}. {} gave a {} to".format(*names[:2], place, names[2], thing)
            assert gpt2.decode(tokens[row]) == text
    assert pairs.answers[0].tolist() == [5335]  # " Mary"


def test_every_name_is_one_gpt2_token(gpt2: object) -> None:
    for names in ("names", "names_109"):
        ids = [gpt2.encode(f" {name}") for name in word_lists("ioi")[names]]
        assert {len(row) for row in ids} == {1}
    assert (len(word_lists("ioi")["names"]), len(word_lists("ioi")["names_109"])) == (99, 109)


@pytest.mark.parametrize("variant", [variant.name for variant in VARIANTS])
def test_variants_with_gpt2(variant: str, gpt2: object) -> None:
    """Lengths follow the template; the named positions hold the names; the answer is IO and the wrong one S."""
    pairs = load("ioi").pairs(gpt2, 40, variant=variant)
    positions = load("ioi").positions(gpt2, 40, variant=variant)
    rows = torch.arange(40)
    assert torch.equal(pairs.clean[rows, positions["IO"]], pairs.answers[:, 0])
    for role in ("S1", "S2"):
        assert torch.equal(pairs.clean[rows, positions[role]], pairs.wrong_answers[:, 0])
    order = positions["IO"] < positions["S1"]
    assert (order.all() if variant == "acdc" else 8 < order.sum() < 32) and (positions["S2"] > positions["S1"]).all()
    assert torch.equal(positions["end"], pairs.positions)
    assert (pairs.clean[:, 0] == gpt2.bos_token_id).all() == (variant not in ("acdc", "eap"))


def words_changed(variant: str, n: int = 150) -> list[tuple[Sentence, list[str], list[str]]]:
    """For word-level prompts of a variant: which of the three name positions changed, and to what."""
    vocabulary, found = TASK.vocabulary(), []
    pairs, positions = TASK.word_pairs(n, 0, "all", variant), TASK.word_positions(n, 0, "all", variant)
    for row in range(n):
        at = {role: int(positions[role][row]) for role in ("IO", "S1", "S2")}
        clean, corrupted = pairs.clean[row], pairs.corrupted[row]
        assert set((clean != corrupted).nonzero()[:, 0].tolist()) <= {*at.values()}
        found.append(tuple({role: vocabulary[tokens[at[role]]] for role in at} for tokens in (clean, corrupted)))
    return found


@pytest.mark.parametrize("variant", ["eap", "autocircuit"])
def test_three_new_names_all_differ(variant: str) -> None:
    for clean, corrupted in words_changed(variant):
        assert len({*clean.values(), *corrupted.values()}) == 5


def test_unrelated_second_subject() -> None:
    for clean, corrupted in words_changed("eap-ig"):
        assert (corrupted["IO"], corrupted["S1"]) == (clean["IO"], clean["S1"])
        assert corrupted["S2"] not in clean.values()


@pytest.mark.parametrize("variant", ["eap-ig-hard", "mib"])
def test_flipped_second_subject(variant: str) -> None:
    for clean, corrupted in words_changed(variant):
        assert corrupted == {**clean, "S2": clean["IO"]}


def test_three_steps_change_all_three_names_but_for_coincidences() -> None:
    """Two unchecked draws from 24 names: about 1/24 each that a name stays or comes twice."""
    changed = words_changed("acdc")
    distinct = [len({*corrupted.values()}) == 3 for _, corrupted in changed]
    assert not all(distinct) and sum(distinct) > 115
    for role in ("IO", "S1", "S2"):
        assert sum(corrupted[role] != clean[role] for clean, corrupted in changed) > 130


@pytest.mark.parametrize("seed", [0, 3])
def test_three_steps_agree_with_edits_of_the_text(seed: int) -> None:
    """A slow reference: the text is edited word by word, all prompts in one step before the next step begins."""
    rng, names = random.Random(seed), list(WORD_LISTS.names[:6])  # few names, so that coincidences are frequent
    clean = [drawn([io, s, s]) for io, s in (rng.sample(names, 2) for _ in range(200))]
    lists = WORD_LISTS._replace(names=names)
    corrupt = three_steps(lists, seed)
    assert [corrupt(one).text for one in clean] == edited_in_three_steps(clean, names, seed)


def edited_in_three_steps(clean: list[Sentence], names: list[str], seed: int) -> list[str]:
    rows = [([*one.text.split(" "), one.names[0]], one.names[0], one.names[1]) for one in clean]
    steps = [np.random.RandomState((step + 345467 + 3 * seed) % 5432) for step in (1, 2, 3)]
    result = []
    for words, io, subject in rows:  # IO, at both its occurrences
        new = names[steps[0].randint(len(names))]
        while new in (io, subject):
            new = names[steps[0].randint(len(names))]
        for _ in range(2):
            words[words.index(io)] = new
        result.append((words, new, subject))
    for row, (words, io, subject) in enumerate(result):  # S, at its first and last occurrence
        new = names[steps[1].randint(len(names))]
        words[words.index(subject)] = new
        if subject in words:
            words[len(words) - 1 - words[::-1].index(subject)] = new
        result[row] = (words, io, new)
    for words, _, subject in result:  # S, at its first occurrence
        words[words.index(subject)] = names[steps[2].randint(len(names))]
    return [" ".join(words[:-1]) for words, _, _ in result]


def test_variants_with_the_same_lists_share_their_clean_prompts() -> None:
    one, other = (TASK.word_pairs(20, 4, "train", variant) for variant in ("mib", "eap"))
    assert torch.equal(one.clean, other.clean) and not torch.equal(one.corrupted, other.corrupted)


def test_names_of_several_tokens_never_occur() -> None:
    class Split(WordTokenizer):
        """Writes the first twenty names of the list as two tokens."""

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            several = "|".join(word_lists("ioi")["names"][:20])
            return super().encode(re.sub(rf"\b({several})\b", r"\1 \1", text), add_special_tokens)

    lists = word_lists("ioi")
    extra = [word for word in (*lists["names"], *lists["places"], *lists["objects"]) if word not in TASK.words]
    tokenizer = Split((*TASK.words, *extra))
    shown = {tokenizer.vocabulary[token] for token in TASK.pairs(tokenizer, 500).clean.flatten().tolist()}
    assert not shown & {*lists["names"][:20]}
    assert len(shown & {*lists["names"][20:]}) == 79


def test_all_templates_and_both_orders_occur_at_word_level() -> None:
    """The seven templates differ in their first word and the word after the second name."""
    texts = TASK.word_texts("mib", 400, 0, "all")
    found = set()
    for text in texts:
        second = max(text.starts["IO"], text.starts["S1"])
        words = text.clean.split()
        found.add((words[0], text.clean[second:].split()[1], text.starts["IO"] < text.starts["S1"], len(words)))
    assert len(found) == 14 == len(WORD_LISTS.templates)
