"""PromptPairs: equal sets however they are given, every refusal with its row; sets of them are in test_pairs_sets.py."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_pairs import random_rows

from edge_circuits.graphs.prompts.pairs import PromptPairs

GPT2 = Path(__file__).parents[3].parent / "shared" / "models" / "gpt2_tokenizer"
WORDS = ["<s>", "<unk>", "When", " John", " Mary", " Anna", " and", " gave", " to", " Bob", "</s>"]


class WordTokenizer:
    """Words with their leading space; "Mary" without it falls into letters, " Zoe" is unknown."""

    bos_token_id, eos_token_id, unk_token_id, unk_token = 0, 10, 1, "<unk>"

    def __init__(self, bos: bool = False, eos: bool = False) -> None:
        self.words, self.bos, self.eos = [*WORDS, *"Mary"], bos, eos

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        for word in re.findall(r"<s>|<unk>| ?\w+", text):
            pieces = [word] if word in self.words or word[0] == " " else list(word)
            ids += [self.words.index(piece) if piece in self.words else 1 for piece in pieces]
        if not add_special_tokens:
            return ids
        return [0] * self.bos + ids + [10] * self.eos

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.words[token] for token in ids]


class PlainTokenizer:
    """Only `encode(text)`, one id a letter, with a BOS that cannot be switched off."""

    bos_token_id = 300

    def encode(self, text: str) -> list[int]:
        return [300, *text.encode()]


def filled(rows: list[list[int]], side: str, fill: int = -100) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as a tensor padded left or right with a value that is no token id, two columns too wide, and its mask."""
    width = max(map(len, rows)) + 2
    ids, mask = torch.full((len(rows), width), fill), torch.zeros(len(rows), width, dtype=torch.int64)
    for row, values in enumerate(rows):
        place = slice(0, len(values)) if side == "right" else slice(width - len(values), width)
        ids[row, place], mask[row, place] = torch.tensor(values), 1
    return ids, mask


# What a set holds


def test_worked_by_hand() -> None:
    pairs = PromptPairs([[5, 6, 7], [8]], [[5, 6, 9], [2]], [3, [4, 1]], [[2, 9], 6], positions=[-2, None])
    assert pairs.clean.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert pairs.corrupted.tolist() == [[5, 6, 9], [2, 0, 0]]
    assert pairs.lengths.tolist() == [3, 1]
    assert pairs.positions.tolist() == [1, 0]
    assert pairs.answers.tolist() == [[3, -1], [4, 1]]
    assert pairs.wrong_answers.tolist() == [[2, 9], [6, -1]]
    assert pairs.mask.tolist() == [[True, True, True], [True, False, False]]
    assert pairs.indices.tolist() == [0, 1]
    tensors = [getattr(pairs, field.name) for field in dataclasses.fields(pairs) if field.name not in ("rows", "spans")]
    assert {tensor.dtype for tensor in tensors} == {torch.int64}
    assert pairs.device == torch.device("cpu")
    assert len(pairs) == 2


def test_answers_are_optional_and_the_last_token_is_the_default_position() -> None:
    pairs = PromptPairs([[5, 6, 7], [8]], [[5, 6, 9], [2]])
    assert pairs.answers is None and pairs.wrong_answers is None
    assert pairs.positions.tolist() == [2, 0]
    assert PromptPairs([[5, 6], [7, 8, 9]], [[5, 6], [7, 8, 9]], positions=-2).positions.tolist() == [0, 1]


def test_repr_tells_size_and_lengths() -> None:
    assert repr(PromptPairs([[1, 2], [1, 2, 3]], [[3, 4], [1, 2, 4]])) == "PromptPairs(2 pairs, 2-3 tokens)"
    assert repr(PromptPairs([[1]], [[3]])) == "PromptPairs(1 pair, 1 token)"
    assert repr(PromptPairs([[1, 2]], [[3, 4]])) == "PromptPairs(1 pair, 2 tokens)"


def test_is_immutable() -> None:
    pairs = PromptPairs([[1]], [[2]])
    with pytest.raises(dataclasses.FrozenInstanceError, match="clean"):
        pairs.clean = pairs.corrupted  # type: ignore[misc]


@pytest.mark.parametrize("changed", ["clean", "corrupted", "answers", "wrong_answers", "positions"])
def test_equality_sees_every_column(changed: str) -> None:
    rows = random_rows(0)
    other = copy.deepcopy(rows)
    if changed == "positions":
        other[changed][0] = (rows[changed][0] + 1) % len(rows["clean"][0])
    else:
        other[changed][0][0] += 1
    assert PromptPairs(**rows) == PromptPairs(**rows)
    assert PromptPairs(**rows) != PromptPairs(**other)
    assert PromptPairs(**rows) != "pairs"


def test_equality_tells_absent_answers() -> None:
    assert PromptPairs([[1]], [[2]], [3]) != PromptPairs([[1]], [[2]])
    assert PromptPairs([[1, 0]], [[2, 0]], positions=0) != PromptPairs([[1]], [[2]])


# The same set however it is given


@pytest.mark.parametrize("seed", range(5))
def test_left_padded_right_padded_and_ragged_are_equal(seed: int) -> None:
    rows = random_rows(seed)
    ragged = PromptPairs(**rows)
    for side in ("left", "right"):
        clean, mask = filled(rows["clean"], side)
        corrupted, _ = filled(rows["corrupted"], side)
        given = rows | dict(clean=clean, corrupted=corrupted)
        assert PromptPairs(**given, attention_mask=mask) == ragged
        assert PromptPairs(**given, attention_mask=mask.bool()) == ragged
        assert PromptPairs(**given, attention_mask=(mask, mask)) == ragged
        as_lists = rows | dict(clean=clean.tolist(), corrupted=corrupted.tolist())
        assert PromptPairs(**as_lists, attention_mask=mask.tolist()) == ragged


def test_own_tensors_give_the_same_set_again() -> None:
    pairs = PromptPairs(**random_rows(1))
    again = PromptPairs(
        pairs.clean,
        pairs.corrupted,
        pairs.answers,
        pairs.wrong_answers,
        positions=pairs.positions,
        attention_mask=pairs.mask,
    )
    assert again == pairs


def test_masks_of_both_sides_may_differ() -> None:
    left, right = torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 0]])
    pairs = PromptPairs(torch.tensor([[9, 1, 2]]), torch.tensor([[1, 3, 9]]), attention_mask=(left, right))
    assert pairs == PromptPairs([[1, 2]], [[1, 3]])
    with pytest.raises(ValueError, match="expected one mask or a tuple"):
        PromptPairs([[1]], [[2]], attention_mask=(left, right, left))


# Strings


def test_strings_are_encoded() -> None:
    pairs = PromptPairs(
        ["When John gave", "When"], ["When Mary gave", " Bob"], [" Mary", [" John", 6]], tokenizer=WordTokenizer()
    )
    assert pairs == PromptPairs([[2, 3, 7], [2]], [[2, 4, 7], [9]], [4, [3, 6]])


@pytest.mark.parametrize(
    "adds_bos, prepend_bos, text, expected",
    [
        (False, None, "When John", [2, 3]),
        (False, True, "When John", [0, 2, 3]),
        (False, True, "<s>When John", [0, 2, 3]),
        (False, False, "When John", [2, 3]),
        (True, None, "When John", [0, 2, 3]),
        (True, True, "When John", [0, 2, 3]),
        (True, True, "<s>When John", [0, 2, 3]),
        (True, False, "When John", [2, 3]),
    ],
)
def test_prepend_bos(adds_bos: bool, prepend_bos: bool | None, text: str, expected: list[int]) -> None:
    tokenizer = WordTokenizer(bos=adds_bos)
    pairs = PromptPairs([text], [text], [" Mary"], tokenizer=tokenizer, prepend_bos=prepend_bos)
    assert pairs == PromptPairs([expected], [expected], [4])


def test_a_bos_written_and_added_is_refused() -> None:
    with pytest.raises(ValueError, match=r"row 1: clean: '<s>When' is encoded with two BOS .* pass prepend_bos=True"):
        PromptPairs(["When", "<s>When"], ["When", "When"], tokenizer=WordTokenizer(bos=True))


def test_a_tokenizer_without_bos_cannot_prepend_one() -> None:
    tokenizer = WordTokenizer()
    tokenizer.bos_token_id = None
    with pytest.raises(ValueError, match="row 0: clean: prepend_bos=True, but the tokenizer has no BOS"):
        PromptPairs(["When"], ["When"], tokenizer=tokenizer, prepend_bos=True)


def test_unknown_words_that_are_meant() -> None:
    tokenizer = WordTokenizer(bos=True)
    assert PromptPairs(["<unk>"], ["When"], tokenizer=tokenizer) == PromptPairs([[0, 1]], [[0, 2]])
    tokenizer.unk_token_id, tokenizer.unk_token = 0, "<s>"  # as GPT-2, which has one token for both
    assert PromptPairs(["When"], ["When"], tokenizer=tokenizer) == PromptPairs([[0, 2]], [[0, 2]])


def test_a_tokenizer_that_ends_prompts_by_itself_is_refused() -> None:
    tokenizer = WordTokenizer(bos=True, eos=True)
    with pytest.raises(ValueError, match=r"special tokens after the text: \['<s>', 'When', '</s>'\]"):
        PromptPairs(["When"], ["When"], tokenizer=tokenizer)
    assert PromptPairs(["When"], ["When"], tokenizer=tokenizer, prepend_bos=True) == PromptPairs([[0, 2]], [[0, 2]])


def test_a_tokenizer_with_encode_alone_is_enough() -> None:
    made = [PromptPairs(["ab"], ["cd"], ["e"], tokenizer=PlainTokenizer(), prepend_bos=bos) for bos in (None, True)]
    assert made[0] == made[1] == PromptPairs([[300, 97, 98]], [[300, 99, 100]], [101])
    bare = PromptPairs(["ab"], ["cd"], ["e"], tokenizer=PlainTokenizer(), prepend_bos=False)
    assert bare == PromptPairs([[97, 98]], [[99, 100]], [101])


def test_tokenizers_and_transformers_objects() -> None:
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "<unk>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    raw.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="<unk>")
    for tokenizer in (raw, wrapped):
        pairs = PromptPairs(["a b"], ["b b"], ["a"], tokenizer=tokenizer)
        assert pairs == PromptPairs([[0, 2, 3]], [[0, 3, 3]], [2])
    with pytest.raises(ValueError, match=r"'a z' holds words that the tokenizer does not know: \['a', '<unk>'\]"):
        PromptPairs(["a z"], ["a b"], tokenizer=wrapped, prepend_bos=False)


@pytest.mark.skipif(not GPT2.is_dir(), reason=f"GPT-2's tokenizer is not at {GPT2}")
def test_gpt2_tokenizer() -> None:
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(GPT2)
    clean = "Then, Mary and John went to the store. John gave a ring to"
    corrupted = "Then, Anna and Paul went to the store. Kate gave a ring to"
    pairs = PromptPairs([clean], [corrupted], [" Mary"], [" John"], tokenizer=tokenizer)
    assert pairs.lengths.tolist() == [15] and pairs.positions.tolist() == [14]
    assert pairs.answers.tolist() == [[5335]]
    with_bos = PromptPairs([clean], [corrupted], tokenizer=tokenizer, prepend_bos=True)
    assert with_bos.clean[0, :2].tolist() == [50256, 6423] and with_bos.lengths.tolist() == [16]
    with pytest.raises(ValueError, match=r"'Gregory' is 2 tokens, \['Greg', 'ory'\].*' Gregory' is one token"):
        PromptPairs([clean], [corrupted], ["Gregory"], tokenizer=tokenizer)


def test_the_space_that_a_tokenizer_puts_before_every_text_is_no_part_of_an_answer() -> None:
    class Spaced:
        def encode(self, text: str) -> list[int]:
            return [0, *map(ord, text)]

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["▁" if token == 0 else chr(token) for token in ids]

    assert PromptPairs(["a"], ["b"], ["g"], tokenizer=Spaced()).answers.tolist() == [[ord("g")]]
    with pytest.raises(ValueError, match="' g' is 3 tokens"):
        PromptPairs(["a"], ["b"], [" g"], tokenizer=Spaced())


# Refusals: what is given, and what the message says

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no prompts": (lambda: PromptPairs([], []), "clean: expected at least one prompt, got none"),
    "no corrupted prompts": (lambda: PromptPairs([[1]], []), "corrupted: expected at least one prompt"),
    "unequal sets": (lambda: PromptPairs([[1], [2]], [[1]]), "got 2 clean and 1 corrupted"),
    "one string": (lambda: PromptPairs("When", ["When"]), r"got one string 'When'; write \['When'\]"),
    "one prompt of ids": (lambda: PromptPairs([1, 2], [1, 2]), r"row 0: clean: .* got 1; one prompt is written \[\["),
    "float ids": (lambda: PromptPairs(torch.ones(1, 2), [[1, 2]]), "got a tensor of torch.float32"),
    "an id that is no integer": (lambda: PromptPairs([[1], [1.5]], [[1], [1]]), r"row 1: clean: .* 1.5 in \[1.5\]"),
    "a boolean id": (lambda: PromptPairs([[True]], [[1]]), "row 0: clean: .* got True"),
    "a negative id": (lambda: PromptPairs([[1], [2]], [[1], [-1]]), r"row 1: corrupted: .* -1 in \[-1\]; take pad"),
    "an empty prompt": (lambda: PromptPairs([[1], []], [[1], []]), "row 1: clean: expected at least one token"),
    "an empty string": (lambda: text([""], [""], bos=True), "row 0: clean: expected at least one token"),
    "strings without tokenizer": (
        lambda: PromptPairs(["When"], ["When"]),
        "clean: expected token ids where there is no tokenizer, got strings",
    ),
    "a tokenizer that cannot encode": (lambda: PromptPairs(["a"], ["b"], tokenizer=len), "an object with encode"),
    "strings and ids mixed": (lambda: text(["When", [1]], ["When", "When"]), r"row 1: clean: expected a string.*\[1\]"),
    "ids and strings mixed": (lambda: text([[1], "When"], [[1], [1]]), "row 1: clean: expected a list of token ids"),
    "prepend_bos with ids": (
        lambda: PromptPairs([[1]], [[1]], prepend_bos=True),
        "prepend_bos: expected None where clean holds token ids",
    ),
    "an unknown word": (lambda: text(["When Zoe"], ["When Bob"]), r"'When Zoe' holds words .* \['When', '<unk>'\]"),
    "lengths of ids": (
        lambda: PromptPairs([[1], [1, 2], [3, 4]], [[1], [1], [3]]),
        r"row 1: corrupted: expected 2 tokens as clean has, got 1; .*\(1 more rows differ, from row 2 on\)"
        r"\n  clean: ids \[1, 2\]\n  corrupted: ids \[1\]",
    ),
    "lengths of strings": (
        lambda: text(["When John"], ["When"]),
        r"row 0: corrupted: expected 2 .*\n  clean: 'When John' = \['When', ' John'\]\n  corrupted: 'When' = \['When'\]",
    ),
    "a mask with gaps": (lambda: masked([[1, 0, 1]]), r"row 0: .* expected one run .* \[1, 0, 1\].*\[1, 2, 3\]"),
    "a mask of zeros": (
        lambda: masked([[0, 0, 0]]),
        r"row 0: attention_mask: expected a real token, got all 0 for clean \[1, 2, 3\]",
    ),
    "a mask of other values": (lambda: masked([[0, 1, 2]]), r"row 0: attention_mask: expected 3 values 0 or 1"),
    "a mask too narrow": (lambda: masked([[1, 1]]), r"row 0: attention_mask: expected 3 values"),
    "a mask with other rows": (lambda: masked([[1, 1, 1]] * 2), "attention_mask: expected 1 rows"),
    "a mask with strings": (lambda: PromptPairs(["a"], ["b"], attention_mask=[[1]]), "goes with padded token ids"),
    "a position too large": (lambda: at([2]), r"row 0: position: .* from -2 to 1 .* got 2.*\n  clean: ids"),
    "a position too small": (lambda: at([-3]), "row 0: position: .* got -3"),
    "a position of another kind": (lambda: at([0.5]), "row 0: position: .* got 0.5"),
    "a boolean position": (lambda: at([True]), "row 0: position: .* got True"),
    "positions of another number": (lambda: at([0, 1]), "positions: expected one for each of the 1 pairs, got 2"),
    "answers of another number": (lambda: answer(3, 4), "answers: expected one entry for each of the 2 pairs, got 1"),
    "answers as one string": (lambda: PromptPairs([[1]], [[1]], " Mary"), "answers: .* got one string ' Mary'"),
    "an answer missing": (
        lambda: answer([3, None]),
        r"row 1: answers: expected at least one for every pair, got None.*\n  clean: ids \[2\]",
    ),
    "an answer list empty": (
        lambda: answer([[3], []]),
        r"row 1: answers: expected at least one for every pair, got \[\]",
    ),
    "a negative answer": (lambda: answer([[3], [4, -1]]), "row 1: answers: .* got -1 .* list of lists"),
    "an answer without tokenizer": (
        lambda: answer([3, " Bob"]),
        "row 1: answers: expected an id where there is no tokenizer, got ' Bob'",
    ),
    "a wrong answer missing": (
        lambda: PromptPairs([[1]], [[1]], [2], [[]]),
        "row 0: wrong_answers: expected at least one for every pair",
    ),
    "leading space forgotten": (
        lambda: text(["When John"], ["When Bob"], ["Mary"]),
        r"row 0: answers: 'Mary' is 4 tokens, \['M', 'a', 'r', 'y'\], expected exactly one; "
        r"' Mary' is one token: did you forget the leading space\?\n  clean: 'When John' = \['When', ' John'\]",
    ),
    "space too many": (
        lambda: PromptPairs([[1]], [[1]], [" e"], tokenizer=PlainTokenizer()),
        r"' e' is 2 tokens, \[32, 101\], .*'e' is one token: leave the space out",
    ),
    "two words": (lambda: text(["When"], ["When"], [" Bob When"]), r"2 tokens.*choose an answer of one token"),
    "a boolean tensor": (lambda: PromptPairs(torch.tensor([[True]]), [[1]]), "row 0: clean: .* got True"),
    "an unknown answer": (lambda: text(["When"], ["When"], [" Zoe"]), "row 0: answers: ' Zoe' holds words"),
    "an empty answer": (lambda: text(["When"], ["When"], [""]), "row 0: answers: '' is 0 tokens"),
    "batch size 0": (lambda: PromptPairs([[1]], [[1]]).batches(0), "batch_size: expected a whole number from 1, got 0"),
    "max_tokens 0": (
        lambda: PromptPairs([[1]], [[1]]).batches(max_tokens=0),
        "max_tokens: expected a whole number from 1",
    ),
    "nothing selected": (lambda: PromptPairs([[1]], [[1]])[1:], "selects none of the 1 pairs"),
    "empty selection": (lambda: PromptPairs([[1]], [[1]])[[]], "selects none of the 1 pairs"),
    "a float selection": (lambda: PromptPairs([[1]], [[1]])[[0.5]], "expected integers, a slice or 1 booleans"),
    "booleans of another number": (lambda: PromptPairs([[1]], [[1]])[[True, True]], "1 booleans, got 2 of torch.bool"),
    "no training pairs": (
        lambda: PromptPairs([[1], [2]], [[1], [2]]).split(0),
        "n_train: expected a whole number from 1 to 1, got 0",
    ),
    "no test pairs": (
        lambda: PromptPairs([[1], [2]], [[1], [2]]).split(2),
        "n_train: expected a whole number from 1 to 1, got 2",
    ),
    "nothing to join": (lambda: PromptPairs.concat([]), "sets: expected at least one, got none"),
    "answers in one set": (
        lambda: PromptPairs.concat([PromptPairs([[1]], [[1]], [2]), PromptPairs([[1]], [[1]])]),
        "set 1 has no answers and others have",
    ),
}


def text(clean: list, corrupted: list, answers: list | None = None, bos: bool = False) -> PromptPairs:
    return PromptPairs(clean, corrupted, answers, tokenizer=WordTokenizer(bos=bos))


def masked(mask: list[list[int]]) -> PromptPairs:
    return PromptPairs([[1, 2, 3]], [[1, 2, 3]], attention_mask=mask)


def at(positions: list) -> PromptPairs:
    return PromptPairs([[1, 2]], [[1, 2]], positions=positions)


def answer(answers: Any, n_pairs: int | None = None) -> PromptPairs:
    return PromptPairs([[1], [2]], [[1], [2]], [answers] if n_pairs else answers)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()
