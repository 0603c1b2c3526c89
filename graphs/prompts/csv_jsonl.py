"""Prompt pairs as CSV and JSON Lines files.

Columns: `clean` and `corrupted` (always), `answers`, `wrong_answers` and `position` (for all rows or for none, but a
single `position` may be left empty: the last token), `spans`, an object with a stretch for each name, [start, stop] or
one position, every row with the same names, and `digest`. Anything else is refused.

- JSON Lines: one object a line. A prompt is a string or a list of token ids; answers are a string, an id or a list.
- EAP-IG's CSV is read as it is: `correct_idx` and `incorrect_idx` are ids of the answers and of the wrong ones, and columns
  beside those and the prompts are left aside.
- PEAP's CSV of spans: where there is a column `length`, the number of tokens (BOS counted), every other column is a span
  and holds its first token; it ends where the next column's begins, the last at `length`.
- CSV: a header line, then one row a pair. Read with a tokenizer, prompts are text as it stands, and answers are one
  text as it stands (leading space kept) or a JSON list: `[" Mary", " Anna"]`. Without a tokenizer, prompts are JSON
  lists of token ids, `[464, 3797]`, and answers an id or a JSON list of ids.

Blank lines are skipped. Files are UTF-8, and are written whole or not at all. A file that is written here has one more column,
`digest`, the same in every row, of all the rows: reading refuses rows that were changed, lost, moved or repeated since. Take
the column out to edit such a file; one without it, written by hand or by another program, is read as it is.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.digest import digest_of
from edge_circuits.graphs.files.documents import reading

REQUIRED = ("clean", "corrupted")
SPANS, LENGTH = "spans", "length"
COLUMNS = (*REQUIRED, "answers", "wrong_answers", "position", SPANS, "digest")
EAP_IG = {"correct_idx": "answers", "incorrect_idx": "wrong_answers"}


@dataclass(frozen=True)
class PairColumns:
    """What a file holds, column by column, not yet checked; `lines` are the line numbers of the rows, from 1."""

    path: Path
    lines: list[int]
    clean: list[Any]
    corrupted: list[Any]
    answers: list[Any] | None
    wrong_answers: list[Any] | None
    positions: list[Any] | None
    spans: list[Any] | None
    lengths: list[int] | None


def read_csv(path: str | os.PathLike[str], texts: bool) -> PairColumns:
    """The columns of a CSV file; `texts` says whether prompts are text (with a tokenizer) or lists of token ids.

    Raises:
        ValueError: A file, header or cell that does not fit; the message names file and line.
    """
    path = Path(path)
    lines, rows = [], []
    # The reader's own limit of 131,072 characters a cell is too few for a long prompt of ids.
    limit = csv.field_size_limit(1 << 30)
    try:
        with reading(path), open(path, encoding="utf-8-sig", newline="") as file:
            for line, record in _csv_records(path, file):
                lines.append(line)
                cells = {name: _cell(f"{path}, line {line}", name, record[name], texts) for name in record}
                rows.append(_with_spans(cells) if LENGTH in cells else cells)
    finally:
        csv.field_size_limit(limit)
    if texts and rows and all(_is_id_list(row["clean"]) for row in rows):
        raise ValueError(
            f"{path}: every clean prompt is a list of token ids, but a tokenizer was given, which would read it "
            "as text; leave the tokenizer out"
        )
    return _columns(path, lines, rows)


def read_jsonl(path: str | os.PathLike[str]) -> PairColumns:
    """The columns of a JSON Lines file.

    Raises:
        ValueError: A file, line or key that does not fit; the message names file and line.
    """
    path = Path(path)
    lines, rows = [], []
    with reading(path):
        text = path.read_text(encoding="utf-8-sig")
        for line, content in enumerate(text.split("\n"), start=1):  # a JSON string may hold other line separators
            if content.strip():
                lines.append(line)
                rows.append(_json_object(f"{path}, line {line}", content))
    return _columns(path, lines, rows)


def write_csv(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Writes records of token ids as CSV; lists become JSON lists."""
    records = _sealed(records)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [name for name in COLUMNS if name in records[0]], lineterminator="\n")
    writer.writeheader()
    cells = ({name: value if name == "digest" else json.dumps(value) for name, value in row.items()} for row in records)
    writer.writerows(cells)
    write_whole(path, text.getvalue().encode())


def write_jsonl(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Writes records as one JSON object a line."""
    write_whole(path, "".join(json.dumps(record) + "\n" for record in _sealed(records)).encode())


def _csv_records(path: Path, file: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row as a dict, with the number of its first line (a quoted cell may span several)."""
    reader, header = csv.reader(file, strict=True), None
    line = 1
    try:
        for cells in reader:
            if cells and header is None:
                theirs = EAP_IG.keys() <= set(cells)
                names = [EAP_IG.get(name, name) for name in cells] if theirs else cells
                kept = [at for at, name in enumerate(names) if not theirs or name in COLUMNS]
                _checked_names(f"{path}, line {line}", [names[at] for at in kept], "column")
                header = names
            elif cells and len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {line}: expected {len(header)} cells as in the header {header}, got {len(cells)}: "
                    f"{cells}; put a cell with a comma in double quotes"
                )
            elif cells:
                record = {header[at]: cells[at] for at in kept}
                yield line, {name: _as_id(name, cell) if theirs else cell for name, cell in record.items()}
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: expected a CSV row, got one that cannot be read: {error}") from None


def _as_id(name: str, cell: str) -> str:
    """A cell of EAP-IG's answers, which are ids also where prompts are text: as a list of them."""
    return f"[{cell}]" if name in EAP_IG.values() and not cell.strip().startswith("[") else cell


def _with_spans(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose columns of first tokens are gathered into spans."""
    firsts = [name for name in row if name not in (*COLUMNS, LENGTH)]
    stops = [*(row[name] for name in firsts[1:]), row[LENGTH]]
    known = {name: value for name, value in row.items() if name not in firsts}
    return known | {SPANS: {name: [row[name], stop] for name, stop in zip(firsts, stops)}}


def _checked_names(where: str, names: Sequence[str], kind: str) -> list[str]:
    has_firsts = kind == "column" and LENGTH in names and SPANS not in names
    for name in names:
        if name not in COLUMNS and not (has_firsts and _is_span(name)):
            close = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "leave it out"
            raise ValueError(f"{where}: expected {kind}s of {', '.join(COLUMNS)}, got {name!r}; {hint}")
    if missing := [name for name in REQUIRED if name not in names]:
        raise ValueError(f"{where}: expected a {kind} {missing[0]!r}, got {list(names)}; every pair needs it")
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: expected each {kind} once, got {list(names)}; leave one out")
    return list(names)


def _is_span(name: str) -> bool:
    """Whether a column beside `length` is taken for a span: not where it looks like a misspelt one."""
    return not difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.85)


def _cell(where: str, name: str, cell: str, texts: bool) -> Any:
    """A CSV cell as the value that JSON Lines would hold; None where it is empty."""
    if name in REQUIRED and texts:
        return cell
    is_whole = name == "position" or name not in COLUMNS
    if not cell.strip() and name in COLUMNS:
        return None
    if name == "digest":
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = None
    if (is_whole and type(value) is int) or (name == SPANS and isinstance(value, dict)):
        return value
    if name in ("answers", "wrong_answers") and (isinstance(value, list) or texts):
        return value if isinstance(value, list) else cell
    if name in COLUMNS[:4] and isinstance(value, (int, list)):
        return value
    expected = {SPANS: 'an object such as {"S1": [1, 3]}'}.get(name, "token ids such as [464, 3797]")
    expected = "an integer" if is_whole else expected
    remedy = "correct the cell" if is_whole or name == SPANS else "pass a tokenizer if it is text"
    raise ValueError(f"{where}: {name}: expected {expected}, got {cell[:80]!r}; {remedy}")


def _is_id_list(cell: str) -> bool:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(isinstance(token, int) for token in value)


def _json_object(where: str, content: str) -> dict[str, Any]:
    try:
        pairs = json.loads(content, object_pairs_hook=_JsonObject)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected a JSON object, got {content[:80]!r} ({error})") from None
    if not isinstance(pairs, _JsonObject):
        raise ValueError(f"{where}: expected a JSON object with clean and corrupted, got {content[:80]!r}")
    _checked_names(where, [name for name, _ in pairs], "key")
    row = {name: dict(value) if isinstance(value, _JsonObject) else value for name, value in pairs}
    if any(isinstance(value, _JsonObject) and len(value) > len(row[name]) for name, value in pairs):
        raise ValueError(f"{where}: expected each span once, got {content[:80]!r}; leave one out")
    return row


class _JsonObject(list):
    """The (key, value) pairs of a JSON object as they stand, so that a key given twice is seen."""


def _digest(rows: Iterable[Mapping[str, Any]]) -> str:
    held = [{name: row[name] for name in sorted(row) if name != "digest" and row[name] is not None} for row in rows]
    return digest_of(json.dumps(held))


def _sealed(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records with the digest of all of them in each."""
    records = list(records)
    digest = _digest(records)
    return [{**record, "digest": digest} for record in records]


def _check_digest(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows that are not those of which the file has a digest."""
    expected, found = _digest(rows), sorted({str(row.get("digest")) for row in rows})
    if found != [expected]:
        got = f"{', '.join(found)[:200]}, so it was changed after it was written"
        remedy = "copy or write it again, or take the column digest out to use it as it is"
        raise refusal(str(path), f"the digest {expected} of its rows in each of them", got, remedy)


def _columns(path: Path, lines: list[int], rows: Sequence[Mapping[str, Any]]) -> PairColumns:
    if not rows:
        raise ValueError(f"{path}: expected at least one pair, got none; give a file with pairs")
    if any("digest" in row for row in rows):
        _check_digest(path, rows)
    given = {name: [row.get(name) for row in rows] for name in COLUMNS}
    optional = [column if any(v is not None for v in column) else None for column in map(given.get, COLUMNS[2:-1])]
    lengths = [row[LENGTH] for row in rows] if LENGTH in rows[0] else None
    return PairColumns(path, lines, given["clean"], given["corrupted"], *optional, lengths)
