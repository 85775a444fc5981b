"""What somebody else wrote, fit for a line of a log, a terminal or a message. Pure."""

from __future__ import annotations


def printable(text: str, most: int | None = None) -> str:
    """Return the first ``most`` characters, with those that a terminal does not show as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
