"""Strings to token ids, with any tokenizer that has `encode`.

A Hugging Face tokenizer, a `tokenizers.Tokenizer` or any object whose `encode(text)` gives ids will do; no
tokenizer library is imported here. Used where the tokenizer has them: the `add_special_tokens` argument of
`encode`, `bos_token_id`, `unk_token_id`, and `convert_ids_to_tokens`, `id_to_token` or `decode` to show tokens.
Errors state the bare fact; `edge_circuits.graphs.prompts.validation` adds the row they came from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any


def encode_prompt(tokenizer: Any, text: str, prepend_bos: bool | None) -> list[int]:
    """The ids of a prompt.

    Args:
        prepend_bos: None: the special tokens that the tokenizer adds by itself. True: exactly one BOS in front
            (none is added where the text already begins with it) and no other special token. False: none is added.

    Raises:
        ValueError: No BOS to prepend, two BOS in front, or a word that the tokenizer does not know.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    ids = _encode(tokenizer, text, special=prepend_bos is None)
    _refuse_unknown(tokenizer, text, ids)
    if prepend_bos is None and bos is not None and ids[:2] == [bos, bos]:
        raise ValueError(
            f"{text!r} is encoded with two BOS tokens (id {bos}) in front, one written in the text and one added by "
            "the tokenizer; take it out of the text or pass prepend_bos=True, which gives exactly one"
        )
    if not prepend_bos:
        return ids
    if bos is None:
        raise ValueError(
            "prepend_bos=True, but the tokenizer has no BOS token (bos_token_id); "
            "pass prepend_bos=None or False, or token ids with the BOS you want"
        )
    return ids if ids[:1] == [bos] else [bos, *ids]


def check_ending(tokenizer: Any, text: str) -> None:
    """Raises ValueError when the tokenizer by itself adds tokens after the text, where the answer is read."""
    alone, by_itself = (_encode(tokenizer, text, special=special) for special in (False, True))
    if alone and by_itself[-len(alone) :] != alone:
        raise ValueError(
            f"the tokenizer adds special tokens after the text: {show_tokens(tokenizer, by_itself)}, so the last token "
            "would not be the prompt's; pass prepend_bos=True or False, which add nothing after the text"
        )


def encode_continuation(tokenizer: Any, text: str) -> list[int]:
    """The ids of an answer of any number of tokens, encoded without special tokens.

    Raises:
        ValueError: There is none, or a word that the tokenizer does not know.
    """
    ids = _after_prompt(tokenizer, text)
    if not ids:
        raise ValueError(f"expected at least one token, got none of {text!r}")
    _refuse_unknown(tokenizer, text, ids)
    return ids


def encode_answer(tokenizer: Any, text: str) -> int:
    """The one id of an answer, encoded without special tokens.

    Raises:
        ValueError: The answer is not exactly one known token; the message shows its tokens and a likely remedy.
    """
    ids = _after_prompt(tokenizer, text)
    if len(ids) == 1:
        _refuse_unknown(tokenizer, text, ids)
        return ids[0]
    tokens = show_tokens(tokenizer, ids)
    raise ValueError(f"{text!r} is {len(ids)} tokens, {tokens}, expected exactly one; {_remedy(tokenizer, text)}")


def show_tokens(tokenizer: Any, ids: Sequence[int]) -> str:
    """Ids for an error message: as token texts where the tokenizer can tell them, else as they are; long ones cut."""
    shown, tail = list(ids[:40]), f" ... ({len(ids)} in all)" if len(ids) > 40 else ""
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        texts = tokenizer.convert_ids_to_tokens(shown)
    elif hasattr(tokenizer, "id_to_token"):
        texts = [tokenizer.id_to_token(token) for token in shown]
    elif hasattr(tokenizer, "decode"):
        texts = [tokenizer.decode([token]) for token in shown]
    else:
        return f"{shown}{tail}"
    # Byte-pair and SentencePiece vocabularies write a space as these characters.
    readable = [str(text).replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n") for text in texts]
    return f"{readable}{tail}"


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token as text; its id where there is no tokenizer."""
    return [str(token) if tokenizer is None else tokenizer.decode([token]) for token in ids]


def _after_prompt(tokenizer: Any, text: str) -> list[int]:
    ids = _encode(tokenizer, text, special=False)
    if len(ids) > 1 and text[:1].strip() and show_tokens(tokenizer, ids[:1]) == "[' ']":
        return ids[1:]  # SentencePiece puts a space before every text, which an answer within a word has not
    return ids


def _encode(tokenizer: Any, text: str, special: bool) -> list[int]:
    encode = getattr(tokenizer, "encode", None)
    if encode is None:
        raise ValueError(
            f"tokenizer: expected an object with encode(text), e.g. a Hugging Face tokenizer, "
            f"got {type(tokenizer).__name__}; pass such an object, or token ids in place of strings"
        )
    if _has_special_switch(encode):
        encoded = encode(text, add_special_tokens=special)
    else:
        encoded = encode(text)
    ids = [int(token) for token in getattr(encoded, "ids", encoded)]
    bos = getattr(tokenizer, "bos_token_id", None)
    unasked = not special and not _has_special_switch(encode) and bos is not None
    return ids[1:] if unasked and ids[:1] == [bos] else ids


def _has_special_switch(encode: Callable[..., Any]) -> bool:
    return _takes_special_switch(getattr(encode, "__func__", encode))


@lru_cache(maxsize=64)
def _takes_special_switch(function: Callable[..., Any]) -> bool:
    try:
        return "add_special_tokens" in inspect.signature(function).parameters
    except ValueError:  # a builtin that does not tell its signature
        return False


def _refuse_unknown(tokenizer: Any, text: str, ids: Sequence[int]) -> None:
    unknown = getattr(tokenizer, "unk_token_id", None)
    # GPT-2 and its kin name BOS or EOS as the unknown token; being byte-level, they know every word.
    doubles = (getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "eos_token_id", None))
    written = str(getattr(tokenizer, "unk_token", None)) in text
    if unknown is None or unknown in doubles or written or unknown not in ids:
        return
    raise ValueError(
        f"{text!r} holds words that the tokenizer does not know: {show_tokens(tokenizer, ids)}; "
        "use words of its vocabulary, or pass token ids if the unknown token is meant"
    )


def _remedy(tokenizer: Any, text: str) -> str:
    bare = text.strip()
    spaced = " " + bare
    if bare and len(_encode(tokenizer, spaced, special=False)) == 1:
        return f"{spaced!r} is one token: did you forget the leading space?"
    if bare and len(_encode(tokenizer, bare, special=False)) == 1:
        return f"{bare!r} is one token: leave the space out"
    return "choose an answer of one token, with or without a leading space, pass the id of the token to score, or several_tokens=True"
