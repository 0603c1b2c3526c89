"""Tables that show themselves: as text, as HTML in a notebook, and as a pandas frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        columns: Names.
        rows: One value for each column; numbers, texts or None.
        title: A line above.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    title: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def __str__(self) -> str:
        cells = [self.columns, *([shown(value) for value in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells)]
        sides = [f"{'<' if is_text else '>'}{width}" for width, is_text in zip(widths, self._is_text)]
        lines = ["  ".join(map(format, row, sides)).rstrip() for row in cells]
        return "\n".join([self.title, *lines] if self.title else lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(shown(value))}</td>' for value in row)}</tr>" for row in self.rows)
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a pandas frame; pandas is an extra: `pip install edge-circuits[pandas]`."""
        return frame({name: [row[place] for row in self.rows] for place, name in enumerate(self.columns)})

    @property
    def _is_text(self) -> tuple[bool, ...]:
        return tuple(any(isinstance(row[place], str) for row in self.rows) for place in range(len(self.columns)))


def frame(columns: dict[str, Any]) -> pandas.DataFrame:
    """Columns as a pandas frame.

    Raises:
        ValueError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ValueError("pandas: expected it to be installed, got none; pip install edge-circuits[pandas]") from error
    return pandas.DataFrame(columns)


def shown(value: Any) -> str:
    """A value as a cell."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
