"""The commands that the documents show, taken from them as they stand."""

from __future__ import annotations

import re

from tests.systemd.payload import ROOT

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(document: str, heading: str, *, block: int = 0, language: str = "sh") -> list[str]:
    """Return the commands of a block below a heading, one a line; a continued line is one with the next.

    Comments stay, as somebody who copies the line has them. ``block`` counts those of the language.

    Raises:
        AssertionError: there is no such heading or no such block.
    """
    body = _section(document, heading)
    blocks = [found[2] for found in _FENCE.finditer(body) if found[1] == language]
    assert len(blocks) > block, f"{document}, {heading!r} has no block {block} of {language}"
    lines = re.sub(r"\\\n\s*", "", blocks[block]).splitlines()
    return [line for line in lines if line.strip()]


def words(document: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one, as one line of words."""
    return " ".join(_section(document, heading).split())


def _section(document: str, heading: str) -> str:
    text = (ROOT / document).read_text()
    pattern = rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)"
    section = re.search(pattern, _blanked(text), re.MULTILINE | re.DOTALL)
    assert section, f"{document} has no heading {heading!r}: the walk through it must follow"
    return text[section.start(1) : section.end(1)]


def _blanked(text: str) -> str:
    """The text with each ``#`` of a block blanked, which is no heading; its length stays."""
    return _FENCE.sub(lambda found: found[0].replace("#", " "), text)
