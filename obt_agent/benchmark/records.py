"""What a run stores as it goes, so that a crash loses nothing measured, and what it tells meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

import msgspec

from obt_agent.benchmark.environment import Environment
from obt_agent.benchmark.result import (
    ColdLoad,
    IterationMetrics,
    Phase,
    Stopping,
    Warmup,
)


class RunStarted(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The preflight's end: where and on what the run measures. A resumed run must find the same.

    ``was_loaded`` says whether the model was loaded before the run, and so is to be left loaded.
    """

    start_time: datetime
    environment: Environment
    was_loaded: bool = False


class ColdLoadRecord(msgspec.Struct, frozen=True, kw_only=True, tag="cold_load"):
    """The cold load."""

    cold_load: ColdLoad


class WarmupRecord(msgspec.Struct, frozen=True, kw_only=True, tag="warmup"):
    """One warm-up."""

    warmup: Warmup


class IterationRecord(msgspec.Struct, frozen=True, kw_only=True, tag="iteration"):
    """One measured iteration."""

    metrics: IterationMetrics


class CellRecord(msgspec.Struct, frozen=True, kw_only=True, tag="cell"):
    """One cell's end; a resumed run does not open it again."""

    cell: int
    stopping: Stopping


# What a journal holds, in order; told apart by ``type`` in JSON.
Record = RunStarted | ColdLoadRecord | WarmupRecord | IterationRecord | CellRecord


_DECODER: Final[msgspec.json.Decoder[Record]] = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """A record as JSON."""
    return msgspec.json.encode(record)


def decode(data: bytes) -> Record:
    """A record from JSON.

    Raises:
        msgspec.ValidationError: it is none.
    """
    return _DECODER.decode(data)


class RunJournal(Protocol):
    """Where records go. A record is durable when ``store`` returns."""

    async def store(self, record: Record) -> None:
        """Keep the record.

        Raises:
            StorageFull: there is no room; the run ends failed with what it has.
        """


class NullJournal:
    """A journal that keeps nothing, for runs that nobody resumes."""

    async def store(self, record: Record) -> None:
        """Keep nothing."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a run is: the fields of the job's progress on the wire, under their names there.

    ``iteration`` counts from 1 within its cell; ``iterations_planned`` of an adaptive plan is an estimate.
    ``remaining_s`` is an estimate, None while there is nothing to base it on.
    """

    phase: Phase
    iteration: int | None = None
    iterations_planned: int | None = None
    cell: str | None = None
    tokens_per_second: float | None = None
    first_token_ms: float | None = None
    cpu_utilization_ratio: float | None = None
    gpu_utilization_ratio: float | None = None
    remaining_s: float | None = None
    waiting_for: str | None = None


OnProgress = Callable[[Progress], None]
