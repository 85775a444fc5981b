"""Tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

_LOG_CHARS: Final = 300
"""More than the widest table."""


@dataclass(frozen=True)
class Column:
    """A heading, and how many digits its numbers show."""

    name: str
    digits: int = 0


def print_table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Print one table; in a log it is as wide as it needs to be."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.name, justify="left" if column is columns[0] else "right")
    for row in rows:
        table.add_row(*(_cell(value, column) for value, column in zip(row, columns, strict=True)))
    console = Console()
    Console(width=max(console.width, 110) if console.is_terminal else _LOG_CHARS).print(table)


def _cell(value: object, column: Column) -> str:
    if isinstance(value, float):
        return f"{value:,.{column.digits}f}"
    return str(value)
