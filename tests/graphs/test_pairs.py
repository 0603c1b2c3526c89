"""PromptPairs: equal sets however they are given, every refusal with its row, batching as a property."""

from __future__ import annotations

import copy
import dataclasses
import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from graphs.pairs import PromptPairs, in_order
from graphs.pairs_batches import equal_bounds

GPT2 = Path(__file__).parents[2].parent / "shared" / "models" / "gpt2_tokenizer"
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


def random_rows(seed: int, n_pairs: int = 7) -> dict[str, list]:
    """Ragged pairs with 1 to 9 tokens and 1 to 3 answers each."""
    rng = random.Random(seed)
    lengths = [rng.randint(1, 9) for _ in range(n_pairs)]
    clean, corrupted = ([[rng.randrange(50) for _ in range(n)] for n in lengths] for _ in range(2))
    answers, wrong = ([[rng.randrange(50) for _ in range(rng.randint(1, 3))] for _ in lengths] for _ in range(2))
    positions = [rng.randrange(n) for n in lengths]
    return dict(clean=clean, corrupted=corrupted, answers=answers, wrong_answers=wrong, positions=positions)


def filled(rows: list[list[int]], side: str, fill: int = -100) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as a tensor padded left or right with a value that is no token id, two columns too wide, and its mask."""
    width = max(map(len, rows)) + 2
    ids, mask = torch.full((len(rows), width), fill), torch.zeros(len(rows), width, dtype=torch.int64)
    for row, values in enumerate(rows):
        place = slice(0, len(values)) if side == "right" else slice(width - len(values), width)
        ids[row, place], mask[row, place] = torch.tensor(values), 1
    return ids, mask


def n_padded(batches: list[PromptPairs]) -> int:
    return sum(int((~batch.mask).sum()) for batch in batches)


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
    tensors = [getattr(pairs, field.name) for field in dataclasses.fields(pairs)]
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


# Refusals: what is given, and what the message says

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no prompts": (lambda: PromptPairs([], []), "clean: expected at least one prompt, came none"),
    "no corrupted prompts": (lambda: PromptPairs([[1]], []), "corrupted: expected at least one prompt"),
    "unequal sets": (lambda: PromptPairs([[1], [2]], [[1]]), "came 2 clean and 1 corrupted"),
    "one string": (lambda: PromptPairs("When", ["When"]), r"came one string 'When'; write \['When'\]"),
    "one prompt of ids": (lambda: PromptPairs([1, 2], [1, 2]), r"row 0: clean: .* came 1; one prompt is written \[\["),
    "float ids": (lambda: PromptPairs(torch.ones(1, 2), [[1, 2]]), "came a tensor of torch.float32"),
    "an id that is no integer": (lambda: PromptPairs([[1], [1.5]], [[1], [1]]), r"row 1: clean: .* 1.5 in \[1.5\]"),
    "a boolean id": (lambda: PromptPairs([[True]], [[1]]), "row 0: clean: .* came True"),
    "a negative id": (lambda: PromptPairs([[1], [2]], [[1], [-1]]), r"row 1: corrupted: .* -1 in \[-1\]; take pad"),
    "an empty prompt": (lambda: PromptPairs([[1], []], [[1], []]), "row 1: clean: expected at least one token"),
    "an empty string": (lambda: text([""], [""], bos=True), "row 0: clean: expected at least one token"),
    "strings without tokenizer": (lambda: PromptPairs(["When"], ["When"]), "clean holds strings, but there is no"),
    "a tokenizer that cannot encode": (lambda: PromptPairs(["a"], ["b"], tokenizer=len), "an object with encode"),
    "strings and ids mixed": (lambda: text(["When", [1]], ["When", "When"]), r"row 1: clean: expected a string.*\[1\]"),
    "ids and strings mixed": (lambda: text([[1], "When"], [[1], [1]]), "row 1: clean: expected a list of token ids"),
    "prepend_bos with ids": (lambda: PromptPairs([[1]], [[1]], prepend_bos=True), "goes with strings, but clean holds"),
    "an unknown word": (lambda: text(["When Zoe"], ["When Bob"]), r"'When Zoe' holds words .* \['When', '<unk>'\]"),
    "lengths of ids": (
        lambda: PromptPairs([[1], [1, 2], [3, 4]], [[1], [1], [3]]),
        r"row 1: clean has 2 tokens and corrupted has 1, .*\(1 more rows differ, from row 2 on\)"
        r"\n  clean: ids \[1, 2\]\n  corrupted: ids \[1\]",
    ),
    "lengths of strings": (
        lambda: text(["When John"], ["When"]),
        r"row 0: clean has 2 .*\n  clean: 'When John' = \['When', ' John'\]\n  corrupted: 'When' = \['When'\]",
    ),
    "a mask with gaps": (lambda: masked([[1, 0, 1]]), r"row 0: .* expected one run .* \[1, 0, 1\].*\[1, 2, 3\]"),
    "a mask of zeros": (lambda: masked([[0, 0, 0]]), r"row 0: clean: expected a real token.*\[1, 2, 3\]"),
    "a mask of other values": (lambda: masked([[0, 1, 2]]), r"row 0: attention_mask: expected 3 values 0 or 1"),
    "a mask too narrow": (lambda: masked([[1, 1]]), r"row 0: attention_mask: expected 3 values"),
    "a mask with other rows": (lambda: masked([[1, 1, 1]] * 2), "attention_mask: expected 1 rows"),
    "a mask with strings": (lambda: PromptPairs(["a"], ["b"], attention_mask=[[1]]), "goes with padded token ids"),
    "a position too large": (lambda: at([2]), r"row 0: position: .* from -2 to 1 .* came 2.*\n  clean: ids"),
    "a position too small": (lambda: at([-3]), "row 0: position: .* came -3"),
    "a position of another kind": (lambda: at([0.5]), "row 0: position: .* came 0.5"),
    "a boolean position": (lambda: at([True]), "row 0: position: .* came True"),
    "positions of another number": (lambda: at([0, 1]), "positions: expected one for each of the 1 pairs, came 2"),
    "answers of another number": (lambda: answer(3, 4), "answers: expected one entry for each of the 2 pairs, came 1"),
    "answers as one string": (lambda: PromptPairs([[1]], [[1]], " Mary"), "answers: .* came one string ' Mary'"),
    "an answer missing": (lambda: answer([3, None]), r"row 1: answers are missing \(None\).*\n  clean: ids \[2\]"),
    "an answer list empty": (lambda: answer([[3], []]), r"row 1: answers are missing \(\[\]\)"),
    "a negative answer": (lambda: answer([[3], [4, -1]]), "row 1: answers: .* came -1 .* list of lists"),
    "an answer without tokenizer": (lambda: answer([3, " Bob"]), "row 1: answers: ' Bob' is a string, but there is no"),
    "a wrong answer missing": (lambda: PromptPairs([[1]], [[1]], [2], [[]]), "row 0: wrong_answers are missing"),
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
    "a boolean tensor": (lambda: PromptPairs(torch.tensor([[True]]), [[1]]), "row 0: clean: .* came True"),
    "an unknown answer": (lambda: text(["When"], ["When"], [" Zoe"]), "row 0: answers: ' Zoe' holds words"),
    "an empty answer": (lambda: text(["When"], ["When"], [""]), "row 0: answers: '' is 0 tokens"),
    "batch size 0": (lambda: PromptPairs([[1]], [[1]]).batches(0), "batch_size: expected None or at least 1, came 0"),
    "max_tokens 0": (lambda: PromptPairs([[1]], [[1]]).batches(max_tokens=0), "max_tokens: expected None or at least"),
    "nothing selected": (lambda: PromptPairs([[1]], [[1]])[1:], "selects none of the 1 pairs"),
    "empty selection": (lambda: PromptPairs([[1]], [[1]])[[]], "selects none of the 1 pairs"),
    "a float selection": (lambda: PromptPairs([[1]], [[1]])[[0.5]], "expected integers, a slice or 1 booleans"),
    "booleans of another number": (lambda: PromptPairs([[1]], [[1]])[[True, True]], "1 booleans, came 2 of torch.bool"),
    "no training pairs": (lambda: PromptPairs([[1], [2]], [[1], [2]]).split(0), "n_train: expected 1 to 1, .* came 0"),
    "no test pairs": (lambda: PromptPairs([[1], [2]], [[1], [2]]).split(2), "n_train: expected 1 to 1, .* came 2"),
    "nothing to join": (lambda: PromptPairs.concat([]), "expected at least one set, came none"),
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


# Selecting, joining, dividing


def test_selection_is_trimmed_to_its_own_longest() -> None:
    pairs = PromptPairs([[1, 2, 3], [4], [5, 6]], [[1, 2, 9], [8], [5, 7]], [[1], [2, 3], [4]], positions=[0, 0, 1])
    expected = PromptPairs([[5, 6], [4]], [[5, 7], [8]], [[4], [2, 3]])
    for index in ([2, 1], (2, 1), torch.tensor([2, 1]), [-1, -2], slice(None, 0, -1)):
        assert pairs[index] == expected and pairs[index].clean.shape == (2, 2)
        assert pairs[index].indices.tolist() == [2, 1]
    assert pairs[2].answers.tolist() == [[4]]
    assert pairs[torch.tensor([False, True, True])] == pairs[[False, True, True]] == pairs[1:]
    assert [single.lengths.tolist() for single in pairs] == [[3], [1], [2]]
    with pytest.raises(IndexError, match="expected -3 to 2, came 3"):
        pairs[3]


@pytest.mark.parametrize("seed", range(3))
def test_concat_undoes_slicing(seed: int) -> None:
    pairs = PromptPairs(**random_rows(seed))
    parts = [pairs[:3], pairs[3:4], pairs[4:]]
    joined = PromptPairs.concat(parts)
    assert joined == pairs
    assert PromptPairs.concat(parts[::-1]).indices.tolist() == joined.indices.tolist() == list(range(7))


def test_split_is_seeded_and_covers_every_pair_once() -> None:
    pairs = PromptPairs(**random_rows(0, n_pairs=20))
    train, test = pairs.split(14, seed=3)
    assert (len(train), len(test)) == (14, 6)
    assert sorted(train.indices.tolist() + test.indices.tolist()) == list(range(20))
    assert train.indices.tolist() == sorted(train.indices.tolist())
    again, other = pairs.split(14, seed=3)[0], pairs.split(14, seed=4)[0]
    assert train.indices.tolist() == again.indices.tolist() != other.indices.tolist()


def test_swapped_exchanges_the_prompts_alone() -> None:
    rows = random_rows(2)
    swapped = PromptPairs(**rows).swapped()
    assert swapped == PromptPairs(**rows | dict(clean=rows["corrupted"], corrupted=rows["clean"]))
    assert swapped.swapped() == PromptPairs(**rows)


def test_to_moves_every_tensor() -> None:
    pairs = PromptPairs(**random_rows(0))
    moved = pairs.to("meta")
    assert {getattr(moved, field.name).device.type for field in dataclasses.fields(moved)} == {"meta"}
    assert pairs.device.type == "cpu"
    assert PromptPairs([[1]], [[2]]).to("meta").answers is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda() -> None:
    pairs = PromptPairs(**random_rows(0)).to("cuda")
    batches = pairs.batches(2)
    assert {batch.device.type for batch in batches} == {"cuda"}
    assert in_order(batches, [batch.clean[:, 0] for batch in batches]).tolist() == pairs.clean[:, 0].tolist()
    assert pairs == pairs.to("cpu") and pairs[1:3].mask.device.type == "cuda"
    assert PromptPairs(pairs.clean, pairs.corrupted).device.type == "cuda"


# Batches


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 13, 40])
def test_batches_cover_every_pair_once_with_no_more_padding(seed: int, batch_size: int) -> None:
    pairs = PromptPairs(**random_rows(seed, n_pairs=13))
    batches = pairs.batches(batch_size)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(13))
    assert all(batch == pairs[batch.indices] for batch in batches)
    assert len(batches) == -(-13 // batch_size) and max(map(len, batches)) <= batch_size
    assert n_padded(batches) <= n_padded([pairs[start : start + batch_size] for start in range(0, 13, batch_size)])


def test_the_smaller_batch_goes_where_it_costs_least() -> None:
    assert equal_bounds([1, 5, 5], 2) == [0, 1, 3]
    assert equal_bounds([1, 1, 5], 2) == [0, 2, 3]
    assert equal_bounds([1, 1, 2, 2], 2) == [0, 2, 4]
    assert equal_bounds([1, 2], 9) == [0, 2]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch_size", [3, 4, 5])
def test_no_division_into_these_sizes_has_less_padding(seed: int, batch_size: int) -> None:
    lengths = sorted(random.Random(seed).choices(range(1, 12), k=7))

    def n_tokens(order: Sequence[int], bounds: list[int]) -> int:
        return sum((stop - start) * max(order[start:stop]) for start, stop in pairwise(bounds))

    plain = [*range(0, 7, batch_size), 7]
    fewest = min(n_tokens(order, plain) for order in permutations(lengths))
    assert n_tokens(lengths, equal_bounds(lengths, batch_size)) == fewest


def test_batches_are_stable_by_length() -> None:
    pairs = PromptPairs([[1, 1], [2], [3, 3], [4]], [[1, 1], [2], [3, 3], [4]])
    assert [batch.indices.tolist() for batch in pairs.batches(2)] == [[1, 3], [0, 2]]
    assert [batch.indices.tolist() for batch in pairs.batches()] == [[1, 3, 0, 2]]
    assert [batch.clean.shape[1] for batch in pairs.batches(2)] == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_max_tokens_bounds_batches_padding_included(seed: int) -> None:
    pairs = PromptPairs(**random_rows(seed, n_pairs=13))
    batches = pairs.batches(batch_size=3, max_tokens=8)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(13))
    assert all(len(batch) <= 3 and (batch.clean.numel() <= 8 or len(batch) == 1) for batch in batches)
    assert len(PromptPairs([[1] * 9], [[1] * 9]).batches(max_tokens=8)) == 1
    full = pairs.batches(max_tokens=8)
    assert all(
        (len(one) + 1) * int(two.lengths[0]) > 8 for one, two in zip(full, full[1:])
    ), "a batch could have taken the next prompt"


def test_in_order_puts_values_back_and_lets_gradients_through() -> None:
    pairs = PromptPairs(**random_rows(4, n_pairs=9))
    batches = pairs.batches(2)
    values = [torch.stack([batch.lengths, batch.positions], 1).double().requires_grad_() for batch in batches]
    ordered = in_order(batches, values)
    assert ordered.tolist() == torch.stack([pairs.lengths, pairs.positions], 1).tolist()
    ordered[0].sum().backward()
    place = next(i for i, batch in enumerate(batches) if 0 in batch.indices.tolist())
    assert int(values[place].grad.sum()) == 2


def test_in_order_refuses_what_does_not_cover_the_set() -> None:
    pairs = PromptPairs(**random_rows(4))
    batches = pairs.batches(3)
    with pytest.raises(ValueError, match="every pair of a set exactly once"):
        in_order(batches[1:], [batch.lengths for batch in batches[1:]])
    with pytest.raises(ValueError, match=r"batches of \[1, 3, 3\], came|batches of \[3, .*came"):
        in_order(batches, [batch.lengths[:1] for batch in batches])


def test_identical_pairs_have_the_clean_prompt_twice() -> None:
    pairs = PromptPairs([[1, 2, 3], [4, 5]], [[6, 2, 3], [7, 5]], [8, 9], positions=[-1, 0])
    same = pairs.identical()
    assert torch.equal(same.corrupted, pairs.clean) and torch.equal(same.clean, pairs.clean)
    assert torch.equal(same.positions, pairs.positions) and torch.equal(same.answers, pairs.answers)
