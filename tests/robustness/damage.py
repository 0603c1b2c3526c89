"""Damage to the bytes of a file, as disks, transfers and editors do it, from a seed."""

from __future__ import annotations

import random
import re

VALUES = (
    b"null",
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"[]",
    b"{}",
    b'""',
    b"true",
    b"9" * 25,
    b"0.5",
    b'"\\ud800"',
    b"[" * 3000,
)
TOKEN = re.compile(rb'-?\d[\d.e+-]*|"[^"\n]*"|true|false|null')


def damaged(content: bytes, seed: int) -> bytes:
    """The content with one kind of damage, by the seed; now and then with two."""
    draw = random.Random(seed)
    for _ in range(1 + (draw.random() < 0.2)):
        content = draw.choice(KINDS)(bytearray(content), draw)
    return bytes(content)


def _flip_a_bit(content: bytearray, draw: random.Random) -> bytes:
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return content


def _tear(content: bytearray, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _drop(content: bytearray, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start + draw.randrange(1, 200) :]


def _repeat(content: bytearray, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[: start + draw.randrange(200)] + content[start:]


def _overwrite(content: bytearray, draw: random.Random) -> bytes:
    start, length = draw.randrange(len(content) + 1), draw.randrange(1, 100)
    content[start : start + length] = draw.choice((bytes(length), draw.randbytes(length), b"\xff" * length))
    return content


def _replace_a_value(content: bytearray, draw: random.Random) -> bytes:
    """One JSON or CSV value becomes another; in a binary file whatever looks like one."""
    places = [match.span() for match in TOKEN.finditer(content)] if len(content) < 100_000 else []
    if not places:
        return _overwrite(content, draw)
    start, stop = draw.choice(places)
    return content[:start] + draw.choice(VALUES) + content[stop:]


KINDS = (_flip_a_bit, _flip_a_bit, _tear, _drop, _repeat, _overwrite, _replace_a_value, _replace_a_value)
