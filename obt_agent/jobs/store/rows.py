"""What the store takes and gives. Pure values."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

import msgspec

from obt_agent.protocol import limits
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import TERMINAL_STATES, JobKind, JobState, JobSummary

Encoding = Literal["identity", "gzip"]

# Higher levels save few bytes of JSON, and cost much time.
_GZIP_LEVEL: Final = 6


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be stored.

    ``params`` is the JSON text of what was asked, ``fingerprint`` a hash of what decides whether a repeat is
    the same job. ``not_after`` is Unix seconds; ``reserve_bytes`` is disk kept free for the result.
    """

    job_id: str
    kind: JobKind
    model: str | None
    params: bytes
    fingerprint: str
    not_after: float | None
    reserve_bytes: int

    def as_stored(self, now: float) -> StoredJob:
        """Return the job as it will be stored."""
        fields = asdict(self)
        del fields["reserve_bytes"]
        return StoredJob(state="accepted", accepted_at=now, **fields)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as stored. Times are Unix seconds by this machine's clock.

    ``kind`` and ``fingerprint`` are None for the mark of a cancelled job that was never started. ``starts``
    counts how often it began to run; ``bytes`` and ``sha256`` are those of the result's JSON text.
    """

    job_id: str
    kind: JobKind | None
    state: JobState
    model: str | None
    params: bytes
    fingerprint: str | None
    not_after: float | None
    accepted_at: float
    started_at: float | None = None
    finished_at: float | None = None
    starts: int = 0
    error: WireError | None = None
    encoding: Encoding = "identity"
    bytes: int | None = None
    sha256: str | None = None
    stored_bytes: int = 0
    acknowledged: bool = False
    conflict: bool = False
    attempts: int = 0

    @property
    def terminal(self) -> bool:
        """Whether it has its final."""
        return self.state in TERMINAL_STATES

    def summary(self) -> JobSummary:
        """The job as the wire shows it."""
        # The wire has no word for a mark without a kind, which nobody lists.
        known = replace(self, kind=self.kind or "benchmark")
        return msgspec.convert(known, JobSummary, from_attributes=True)


@dataclass(frozen=True, slots=True)
class FinalText:
    """A result as it is stored: the JSON text's size in bytes and hash, and the text or its gzip.

    Texts that fit a final's inline limit stay as they are; larger ones are compressed.
    """

    size: int
    sha256: str
    encoding: Encoding
    stored: bytes

    @classmethod
    def of(cls, text: bytes) -> FinalText:
        """Prepare a JSON text for storing."""
        large = len(text) > limits.INLINE_RESULT_BYTES
        return cls(
            size=len(text),
            sha256=hashlib.sha256(text).hexdigest(),
            encoding="gzip" if large else "identity",
            # Without the time, so that equal texts are equal bytes.
            stored=gzip.compress(text, _GZIP_LEVEL, mtime=0) if large else text,
        )

    @property
    def text(self) -> bytes:
        """The JSON text exactly as it was."""
        return gzip.decompress(self.stored) if self.encoding == "gzip" else self.stored

    @property
    def whole(self) -> bool:
        """Whether what is stored is what was stored: size and sha256 agree."""
        try:
            text = self.text
        except (OSError, EOFError, zlib.error):
            return False
        return len(text) == self.size and hashlib.sha256(text).hexdigest() == self.sha256


def fingerprint(kind: JobKind, params: msgspec.Struct) -> str:
    """Sha256 in hexadecimal of what decides whether two starts of one job id ask for the same.

    ``not_after`` does not: a caller that tries again may move it. Neither do the order of keys and spaces.
    """
    fields = msgspec.json.decode(msgspec.json.encode(params))
    fields.pop("not_after", None)
    text = msgspec.json.encode([kind, fields], order="sorted")
    return hashlib.sha256(text).hexdigest()
