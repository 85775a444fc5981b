"""Ollama's NDJSON: bytes that were split anywhere become whole lines, each checked. Pure.

A line is passed on as the bytes that came, and only when it is UTF-8, one JSON object, no deeper than
``MAX_DEPTH`` and no longer than the caller allows, so that a bad line ends its own stream and nothing else.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from obt_agent.errors import OllamaError, TooLarge
from obt_agent.json_depth import deeper_than

# Of brackets in a line; no answer of Ollama's comes near it. A frame of the link may nest 64 levels, and has
# four around the line: itself, its params, their items, and the item.
MAX_DEPTH: Final = 60
MAX_LINE_BYTES: Final = 1 << 20

# An object deeper than the limit needs at least this many brackets.
_SHALLOW_BYTES: Final = 2 * (MAX_DEPTH + 1)


class Head(msgspec.Struct, frozen=True, gc=False):
    """What a line says of its stream: whether it is the last one, or an error; the rest stays unread."""

    done: Any = None
    error: Any = None
    status: Any = None

    @property
    def plain(self) -> bool:
        """Neither an end nor an error: the usual line."""
        return self.done is not True and self.error is None and self.status is None

    @property
    def final(self) -> bool:
        """The last line of a generation (``done``), or of a pull or create (``status`` is ``success``)."""
        return self.done is True or self.status == "success"


_DECODER: Final = msgspec.json.Decoder(Head)
_USUAL: Final = Head(done=False)


class LineSplitter:
    """Joins what reads cut: feed it bytes in any pieces, get whole lines in order.

    ``failure`` is set when a line is too long, its end seen or not; the lines before it are still given, and
    none after it.

    Args:
        max_line_bytes: length that no line may exceed, its newline not counted.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.failure: TooLarge | None = None
        self._max = max_line_bytes
        # The beginning of a line whose newline has not come; in pieces, since joining each time is quadratic.
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take the bytes of one read; return the lines that are now whole, blank ones left out."""
        if self.failure is not None:
            return []
        most = self._kept_bytes + len(data)
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = self._join(whole[0])
            if most > self._max and max(map(len, whole)) > self._max:
                whole = self._before_too_long(whole)
        self._keep(rest)
        # All lines together first: this is the path of every token.
        if all(whole) and not any(map(bytes.isspace, whole)):
            return whole
        return [line for line in whole if line and not line.isspace()]

    def finish(self) -> list[bytes]:
        """Return what came after the last newline, if anything did; nothing is fed after this."""
        rest = self._join(b"")
        return [rest] if rest.strip() else []

    def _join(self, end: bytes) -> bytes:
        if not self._kept:
            return end
        joined = b"".join((*self._kept, end))
        self._kept.clear()
        self._kept_bytes = 0
        return joined

    def _keep(self, rest: bytes) -> None:
        if rest:
            self._kept.append(rest)
            self._kept_bytes += len(rest)
            if self._kept_bytes > self._max:
                self._fail()

    def _before_too_long(self, lines: list[bytes]) -> list[bytes]:
        self._fail()
        first = next(place for place, line in enumerate(lines) if len(line) > self._max)
        return lines[:first]

    def _fail(self) -> None:
        self._kept.clear()
        self.failure = TooLarge(
            f"Ollama sent a line longer than {self._max} bytes; the stream was ended.", limit_bytes=self._max
        )


def check(line: bytes) -> Head:
    """Check one line and read its head.

    Raises:
        OllamaError: it is not UTF-8, not one JSON object, or deeper than ``MAX_DEPTH``.
    """
    if not (line.isascii() or _is_utf8(line)):
        raise _bad("is not UTF-8", line)
    # A short line cannot hold so many brackets, and counting them costs as much as decoding.
    if len(line) >= _SHALLOW_BYTES and deeper_than(line, MAX_DEPTH):
        raise _bad(f"nests deeper than {MAX_DEPTH} levels", line)
    try:
        return _DECODER.decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:  # brackets without end are left to the parser
        raise _bad("is not one JSON object", line) from error


def all_plain(lines: list[bytes]) -> bool:
    """Whether every line passes ``check`` and is a plain one: the usual case, many lines at a time.

    False means only that the lines need a look one by one.
    """
    joined = b"\n".join(lines)
    # At once for all lines: a newline is a character of its own, so none can complete another's last one.
    if not (joined.isascii() or _is_utf8(joined)) or _perhaps_deep(joined, lines):
        return False
    try:
        # Each by itself: lines that are no objects could make as many objects together.
        heads = list(map(_DECODER.decode, lines))
    except (msgspec.MsgspecError, RecursionError):
        return False
    # Counting compares in C. A server that imitates Ollama may leave ``done`` out, and is looked at in turn.
    return heads.count(_USUAL) == len(heads) or all(head.plain for head in heads)


def _perhaps_deep(joined: bytes, lines: list[bytes]) -> bool:
    """Whether a line may nest too deep: False where the lines are short, or their brackets too few for it."""
    if max(map(len, lines), default=0) < _SHALLOW_BYTES:
        return False
    # Every line that is an object has a bracket of its own besides those of one that is too deep.
    return joined.count(b"{") + joined.count(b"[") >= len(lines) + MAX_DEPTH and any(
        deeper_than(line, MAX_DEPTH) for line in lines
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _bad(what: str, line: bytes) -> OllamaError:
    start = line[:80].decode(errors="replace")
    return OllamaError(
        f"Ollama sent a line that {what}; is something other than Ollama answering at ollama.url? "
        f"The line begins: {start!r}",
        status=200,
    )
