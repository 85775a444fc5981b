"""The agent's state at the server: models, hardware, jobs; sent after admission and whenever it changes."""

from __future__ import annotations

from typing import Literal

import msgspec

from obt_agent.hardware.inventory import Inventory
from obt_agent.ollama.payloads import InstalledModel, OllamaState, RunningModel
from obt_agent.protocol.jobs import JobSummary
from obt_agent.wire_types import Count, Int64

StateKind = Literal["models", "hardware", "jobs"]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page stands in a full state: ``index`` from 0, ``last`` on the last one.

    A receiver replaces its copy when it has all pages of one ``revision``.
    """

    index: Count = 0
    last: bool = True


class ModelsSync(msgspec.Struct, frozen=True, kw_only=True):
    """``models.sync``: every model that the policy shows, with Ollama's state.

    ``revision`` restarts with each session and grows with every sync; ``list_digest`` is a sha256 over names
    and digests, equal exactly when the list is. When Ollama is unreachable ``models`` is the last known list
    and ``stale`` is true.
    """

    revision: Int64
    page: Page = Page()
    ollama: OllamaState
    list_digest: str
    models: tuple[InstalledModel, ...]
    running: tuple[RunningModel, ...] = ()
    stale: bool = False


class HardwareSync(msgspec.Struct, frozen=True, kw_only=True):
    """``hardware.sync``: the inventory, whenever its fingerprint changes."""

    revision: Int64
    page: Page = Page()
    inventory: Inventory


class JobsSync(msgspec.Struct, frozen=True, kw_only=True):
    """``jobs.sync``: every job that is open, or finished and not acknowledged."""

    revision: Int64
    page: Page = Page()
    store_id: str
    jobs: tuple[JobSummary, ...]


class StateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``state.request``: send these states again in full."""

    kinds: tuple[StateKind, ...]


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """Any result acknowledges a sync; ours repeats the revision."""

    revision: Int64 | None = None
