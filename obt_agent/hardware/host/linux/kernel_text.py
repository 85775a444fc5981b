"""Forms of text that several of the kernel's files have."""

from __future__ import annotations


def key_values(text: str, mark: str = ":") -> dict[str, str]:
    """Return the lines ``name: value``, both trimmed; other lines are left out."""
    pairs = (line.partition(mark) for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in pairs if found}
