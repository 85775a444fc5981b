"""Streams on the wire: data, credit, blobs, liveness. The arithmetic is in ``credit`` and ``fair``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from obt_agent.protocol.envelope import RequestId
from obt_agent.protocol.errors import StreamEnd
from obt_agent.wire_types import Count, Int64, PositiveInt


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One chunk of Ollama's stream, a JSON object that neither side changes.

    ``t_us`` is the agent's monotonic arrival time in microseconds since the request was sent to Ollama;
    ``paused_us`` is how long reading was paused for want of credit before this item.
    """

    t_us: Int64
    chunk: Any
    paused_us: Int64 | None = None


def encode_items(t_us: int, chunks: Sequence[bytes], paused_us: int = 0) -> list[bytes]:
    """Encode chunks that arrived together, as an ``Item`` of each would be; the first one tells the pause.

    This is the path of every token: an object made and encoded for each costs three times as much.
    """
    head = b'{"t_us":%d,"chunk":' % t_us
    items = [head + chunk + b"}" for chunk in chunks]
    if paused_us and items:
        items[0] = b'%b%b,"paused_us":%d}' % (head, chunks[0], paused_us)
    return items


class SeriesItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of a live series.

    ``n`` counts samples taken. ``missed`` counts, since the series began, samples that came too late and
    those that a newer one replaced for want of credit.
    """

    t_us: Int64
    n: Int64
    missed: Int64 = 0
    sample: Any


class StreamData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``stream.data``: either ``items``, or ``part`` (a text piece of one large item or result).

    ``more`` is false on a joined text's last piece.
    """

    id: RequestId
    seq: Count
    items: tuple[msgspec.Raw, ...] | None = None
    part: str | None = None
    more: bool = False


class StreamCredit(msgspec.Struct, frozen=True, kw_only=True):
    """``stream.credit``: the server takes this many more UTF-8 bytes of ``stream.data`` on one stream."""

    id: RequestId
    bytes: PositiveInt


class LinkCredit(msgspec.Struct, frozen=True, kw_only=True):
    """``link.credit``: the server takes this many more UTF-8 bytes of everything that is not control."""

    bytes: PositiveInt


class StreamsAlive(msgspec.Struct, frozen=True, kw_only=True):
    """``streams.alive``: ids of the streams that the server still reads."""

    ids: tuple[RequestId, ...]


class StreamFinal(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a streamed command: Ollama's last object and its arrival time."""

    final: Any
    t_us: Int64
    stream: StreamEnd


class SeriesFinal(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a live series that was cancelled or came to its end."""

    interval_ms: Int64 | None = None
    stream: StreamEnd


class LargeFinal(msgspec.Struct, frozen=True, kw_only=True):
    """Result over 24 KiB: it went before in pieces; size and sha256 (hexadecimal) of the joined text.

    The text is the whole result, as it would stand here. Where that has a ``stream`` too, this one counts:
    the text was made before its own pieces were sent.
    """

    bytes: Int64
    sha256: str
    stream: StreamEnd


class BlobPut(msgspec.Struct, frozen=True, kw_only=True):
    """``blob.put``: a base64 piece of an image too large for a frame.

    16 MiB a session, kept 60 s after the last piece.
    """

    blob: Annotated[str, Meta(min_length=1, max_length=64)]
    offset: Count
    data: str
    last: bool = False


class BlobPutResult(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes held of that blob after this piece."""

    blob: str
    bytes: Int64
