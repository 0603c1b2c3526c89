"""Tables as text, as HTML and as frames."""

from __future__ import annotations

import pytest

from edge_circuits.graphs.tables import Table

TABLE = Table(("name", "score", "n"), (("a<b", -1.23456, 3), ("cd", 10.0, None)), "Two rows")


def test_text_is_aligned() -> None:
    assert str(TABLE) == "Two rows\nname   score  n\na<b   -1.235  3\ncd        10"


def test_html_is_escaped() -> None:
    html = TABLE._repr_html_()
    assert "<caption>Two rows</caption>" in html and "<td>a&lt;b</td><td>-1.235</td><td>3</td>" in html
    assert "<td>cd</td><td>10</td><td></td>" in html


def test_a_frame_has_the_values_and_not_their_texts() -> None:
    pytest.importorskip("pandas")
    assert TABLE.to_pandas()["score"].tolist() == [-1.23456, 10.0] and list(TABLE.to_pandas()) == ["name", "score", "n"]


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(
        ValueError, match=r"pandas: expected it to be installed, got none; pip install edge-circuits\[pandas\]"
    ):
        TABLE.to_pandas()


def test_rows_are_iterated_and_counted() -> None:
    assert len(TABLE) == 2 and [row[0] for row in TABLE] == ["a<b", "cd"]
    assert str(Table(("edge",), ())) == "edge"
