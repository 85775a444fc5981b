"""Images too large for a frame: uploaded as blobs ahead of the request that names them."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from obt_agent.errors import InvalidParams, TooLarge
from obt_agent.protocol import limits
from obt_agent.protocol.streams import BlobPut

METHODS_WITH_IMAGES: Final = frozenset({"generate", "chat"})
_PIECE_CHARS: Final = 48 << 10
"""Most base64 characters of a piece."""


@dataclass(frozen=True)
class Prepared:
    """Parameters that fit a frame, and the blobs that they name."""

    params: msgspec.Raw
    blobs: tuple[tuple[str, str], ...] = ()

    def pieces(self, most_chars: Callable[[], int]) -> Iterator[BlobPut]:
        """The uploads, in order, each of as many characters as ``most_chars`` allows at that moment."""
        for name, text in self.blobs:
            start = 0
            while start < len(text):
                # A multiple of 4: each piece is base64 of its own.
                end = start + min(most_chars(), _PIECE_CHARS) // 4 * 4
                yield BlobPut(blob=name, offset=start // 4 * 3, data=text[start:end], last=end >= len(text))
                start = end


def prepare(method: str, params: msgspec.Raw, max_frame_bytes: int) -> Prepared:
    """Take the images out of parameters that are too large for a frame; others stay as they came.

    Raises:
        TooLarge: it does not fit even so, or the images are over what a session holds.
        InvalidParams: an image is not base64.
    """
    # The rest is for what is around them in the frame: id, method, braces.
    limit = max_frame_bytes - 1024
    # As they came: the usual case costs no decoding.
    if len(bytes(params)) <= limit or method not in METHODS_WITH_IMAGES:
        return Prepared(params)
    body: dict[str, Any] = msgspec.json.decode(params, type=dict[str, Any])
    blobs: list[tuple[str, str]] = []
    for holder in _holders(body):
        holder["images"] = [_replace(image, blobs) for image in holder["images"]]
    shorter = msgspec.json.encode(body)
    if len(shorter) > limit:
        raise TooLarge(f"The request has {len(shorter)} bytes without its images; {limit} fit a frame.")
    if sum(len(text) for _, text in blobs) // 4 * 3 > limits.MAX_BLOB_BYTES_PER_SESSION:
        raise TooLarge(f"The images are over {limits.MAX_BLOB_BYTES_PER_SESSION} bytes together.")
    return Prepared(msgspec.Raw(shorter), tuple(blobs))


def _holders(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    messages = body.get("messages")
    for holder in [body, *(messages if isinstance(messages, list) else [])]:
        if isinstance(holder, dict) and isinstance(holder.get("images"), list):
            yield holder


def _replace(image: object, blobs: list[tuple[str, str]]) -> object:
    if not isinstance(image, str):
        return image
    try:
        # Strictly: pieces are cut after every fourth character, which a space between them would move.
        base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParams("params.images: an image is not base64.", field="params.images") from error
    name = f"blob-{uuid.uuid4().hex}"
    blobs.append((name, image))
    return {"blob": name}
