"""Words, numbers and tables as the hardware commands show them. Pure."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from obt_agent.cli.models import size_text

NOTHING = "–"
WELL = {"ok": "green", "suspended": "cyan", "absent": "dim"}


def table(title: str, *headings: str) -> Table:
    """A table with a title; with no headings, of two plain columns that the caller adds."""
    table = Table(box=box.SIMPLE, title=title, title_justify="left", show_header=bool(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def row(table: Table, *cells: str | Text) -> None:
    """Add a row; nothing in a cell is taken for markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def joined(*words: str | None) -> str:
    """Those that there are, with commas; a dash when there are none."""
    return ", ".join(word for word in words if word) or NOTHING


def size(value: int | None) -> str | None:
    """Bytes in binary units."""
    return None if value is None else size_text(value)


def speed(value: int | None) -> str | None:
    """Megatransfers per second."""
    return None if value is None else f"{value} MT/s"


def frequency(value: int | None) -> str | None:
    """A highest clock."""
    return None if value is None else f"up to {value / 1e9:.2f} GHz"


def percent(ratio: float | None) -> str | None:
    """A share."""
    return None if ratio is None else f"{ratio * 100:.0f} %"


def degrees(value: float | None) -> str | None:
    """A temperature."""
    return None if value is None else f"{value:.0f} °C"


def watts(value: float | None) -> str | None:
    """A power."""
    return None if value is None else f"{value:.0f} W"


def of(used: int | None, total: int | None) -> str | None:
    """What is used of a total; None where that is not known."""
    if total is None:
        return None
    return f"{NOTHING if used is None else size_text(used)} of {size_text(total)}"
