"""A word-level tokenizer for small models: one token a word, no training, a vocabulary that is given.

Text is cut into words, pairs of digits and punctuation; spaces and line ends are not tokens. A vocabulary entry may
begin with a space: then it stands for the word after a space only, so that the century in " 1732" (" 17") and
the year in it ("32") can be different tokens also where the digits are the same (" 1717").
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PIECE = re.compile(r'( ?)(\d\d|[^\W\d]+|"""|[^\w\s])')
BOS, PAD = "<bos>", "<pad>"


class WordTokenizer:
    """Text to ids and back, with the calls of a Hugging Face tokenizer that this project uses.

    Attributes:
        vocabulary: All tokens in the order of their ids; padding is 0, BOS is 1, then the words as given.
    """

    bos_token, pad_token = BOS, PAD
    pad_token_id, bos_token_id = 0, 1

    def __init__(self, words: Sequence[str]) -> None:
        """
        Args:
            words: Distinct words, pairs of digits and punctuation marks, each with or without a leading space.

        Raises:
            ValueError: A word comes twice, or is not one piece of text.
        """
        self.vocabulary = (PAD, BOS, *words)
        self._ids = {word: token for token, word in enumerate(self.vocabulary)}
        if len(self._ids) < len(self.vocabulary):
            twice = sorted({word for word in self.vocabulary if self.vocabulary.count(word) > 1})
            raise ValueError(f"words: expected distinct words, got {twice} more than once")
        if bad := [word for word in words if not PIECE.fullmatch(word)]:
            raise ValueError(f"words: expected single words, pairs of digits or punctuation marks, got {bad}")

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text, BOS in front unless add_special_tokens is False.

        Raises:
            ValueError: A word that is not in the vocabulary.
        """
        ids = [self.bos_token_id] if add_special_tokens else []
        for piece in PIECE.finditer(text):
            token = self._ids.get(piece[0], self._ids.get(piece[2]))
            if token is None:
                raise ValueError(f"{piece[2]!r} in {text!r} is not in this vocabulary of {len(self)} words")
            ids.append(token)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """A text that encodes to the same words; special tokens are left out, as are spaces before pairs of digits."""
        words = self.convert_ids_to_tokens([token for token in ids if self.vocabulary[token] not in (BOS, PAD)])
        return "".join(self._spaced(word, at) for at, word in enumerate(words))

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The words of the ids."""
        return [self.vocabulary[token] for token in ids]

    @staticmethod
    def _spaced(word: str, at: int) -> str:
        return word if at == 0 or word.startswith(" ") or word.isdigit() else f" {word}"


def forms(text: str) -> tuple[tuple[str, str], ...]:
    """Words in the singular and the plural, written "boy boys, king kings"."""
    return tuple((singular, plural) for singular, plural in map(str.split, text.split(",")))
