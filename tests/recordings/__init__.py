"""Exchanges recorded from Ollama 0.33.0-rc2 (llama.cpp b10488, CPU), one JSON object a line.

Headers that say nothing are left out; of long streams the middle is (``elided`` says how many reads);
repetitive bodies are written as a text and a count. A chunk is what one read of the recorder gave.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

FILE = Path(__file__).with_name("ollama-0.33.0-rc2.jsonl")


class Recording(msgspec.Struct, frozen=True):
    """One exchange. ``end`` is ``complete`` unless one of the two sides broke it off."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: tuple[str | tuple[str, int], ...]
    status: int | None
    content_type: str | None
    chunks: tuple[str, ...]
    end: str
    elided: int = 0
    note: str = ""

    @property
    def request(self) -> bytes:
        """The request's body."""
        return "".join(part if isinstance(part, str) else part[0] * part[1] for part in self.body).encode()

    @property
    def response(self) -> bytes:
        """The response's body."""
        return "".join(self.chunks).encode()


@cache
def recordings() -> dict[str, Recording]:
    """All of them, by name, in the order in which they were made."""
    decoder = msgspec.json.Decoder(Recording)
    found = [decoder.decode(line) for line in FILE.read_bytes().splitlines()]
    return {recording.name: recording for recording in found}
