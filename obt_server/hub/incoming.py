"""What agents report: models, hardware, jobs, heartbeats. Syncs come in pages and replace the whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from obt_agent.errors import InvalidParams, ProtocolError, TooLarge
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.protocol import codec
from obt_agent.protocol.admission import GoodbyeParams, HeartbeatParams
from obt_agent.protocol.state import HardwareSync, JobsSync, ModelsSync, Page, SyncResult
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.events import EventBus
from obt_server.hub.jobs import JobTracker
from obt_server.hub.presence import gpu_titles
from obt_server.hub.results import MAX_DIGEST_CHARS, MAX_NAME_CHARS
from obt_server.hub.session import AgentSession, NotificationCall, RequestCoroutine
from obt_server.hub.settings import HubSettings
from obt_server.hub.storage import HubStorage
from obt_server.hub.texts import check_storable

MAX_JOBS_LISTED = 10_000
MAX_MODEL_BYTES = 16 << 10
"""Of one model in a list; Ollama's own take some hundred."""


@dataclass(frozen=True)
class Bounds:
    """Of one state: entries, and bytes of all its pages."""

    entries: int
    size: int


@dataclass
class Pages:
    """Pages of one revision of one state, gathered until the last."""

    revision: int = -1
    next_index: int = 0
    items: list[Any] = field(default_factory=list)
    size: int = 0

    def take(
        self, revision: int, page: Page, items: tuple[Any, ...], bounds: Bounds, size: int
    ) -> list[Any] | None:
        """Add a page of ``size`` bytes; gives everything when it was the last, None before.

        Raises:
            ProtocolError: a page is missing or repeats.
            TooLarge: the whole is over its bounds.
        """
        # Also in the middle of a list: the agent's state changed, and it began again.
        if page.index == 0:
            self.revision, self.next_index, self.items, self.size = revision, 0, [], 0
        if revision != self.revision or page.index != self.next_index:
            raise ProtocolError(f"Page {page.index} of revision {revision} came out of order; send it anew.")
        self.next_index += 1
        self.items.extend(items)
        self.size += size
        if len(self.items) > bounds.entries or self.size > bounds.size:
            # Minus one: the pages that are on their way fit nowhere, and are refused like this one.
            self.items, self.next_index, self.size = [], -1, 0
            raise TooLarge(f"At most {bounds.entries} entries and {bounds.size} bytes are taken.")
        if not page.last:
            return None
        whole, self.items, self.next_index, self.size = self.items, [], -1, 0
        return whole


class _HardwareRaw(msgspec.Struct, frozen=True):
    inventory: msgspec.Raw


class Incoming:
    """The table of what agents may ask and tell."""

    def __init__(
        self,
        storage: HubStorage,
        jobs: JobTracker,
        events: EventBus,
        settings: HubSettings,
        budget: WaitingBudget,
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._events = events
        self._settings = settings
        self._budget = budget
        # unfinished lists, by session and kind: they stay between requests, and count as what waits
        self._pages: dict[tuple[int, str], Pages] = {}
        self.requests: dict[str, RequestCoroutine] = {
            "models.sync": self._models_sync,
            "hardware.sync": self._hardware_sync,
            "jobs.sync": self._jobs_sync,
            "job.part": jobs.on_part,
            "job.finished": jobs.on_finished,
        }
        self.notifications: dict[str, NotificationCall] = {
            "heartbeat": self._heartbeat,
            "job.progress": jobs.on_progress,
            "agent.goodbye": self._goodbye,
            # The session has noted the time already, as of every frame.
            "link.alive": lambda _session, _params: None,
        }

    def forget(self, session: AgentSession) -> None:
        """The session ended: its unfinished pages go."""
        for kind in ("models", "jobs"):
            pages = self._pages.pop((id(session), kind), None)
            if pages is not None:
                self._budget.change(-pages.size)

    def _gather(
        self, session: AgentSession, sync: ModelsSync | JobsSync, items: tuple[Any, ...], most: int, size: int
    ) -> list[Any] | None:
        """Add a page to those that came before; gives everything when it was the last."""
        kind = "models" if isinstance(sync, ModelsSync) else "jobs"
        pages = self._pages.setdefault((id(session), kind), Pages())
        before = pages.size
        try:
            bounds = Bounds(most, self._settings.max_sync_bytes)
            return pages.take(sync.revision, sync.page, items, bounds, size)
        finally:
            # Also where it raised: pages that were dropped are held no more.
            self._budget.change(pages.size - before)

    async def _models_sync(self, session: AgentSession, params: msgspec.Raw) -> SyncResult:
        sync = codec.convert(params, ModelsSync)
        _check_models(sync.models)
        size = len(bytes(params))
        models = self._gather(session, sync, sync.models, self._settings.max_models, size)
        if models is None:
            return SyncResult(revision=sync.revision)
        # Stored first: whoever sees that the list changed reads the one that belongs to it. A stale list is
        # the last one once more: to store it would say that its models were seen now.
        if not sync.stale:
            await self._storage.save_models(session.agent_id, models, sync.ollama, time.time())
        presence = session.presence
        # What is shown from memory; the rest of the list is in the storage alone.
        presence.models = {model.name: model.digest for model in models}
        presence.models_stale = sync.stale
        presence.ollama, presence.running = sync.ollama, sync.running
        self._events.agent_changed(session.agent_id)
        return SyncResult(revision=sync.revision)

    async def _hardware_sync(self, session: AgentSession, params: msgspec.Raw) -> SyncResult:
        sync = codec.convert(params, HardwareSync)
        check_storable(sync.inventory.fingerprint, MAX_DIGEST_CHARS, "params.inventory.fingerprint")
        whole = bytes(codec.convert(params, _HardwareRaw).inventory)  # a newer agent may say more
        session.presence.inventory, session.presence.gpus = whole, gpu_titles(sync.inventory)
        now = time.time()
        await self._storage.save_inventory(session.agent_id, sync.inventory.fingerprint, whole, now)
        session.presence.inventory_at = now
        self._events.agent_changed(session.agent_id)
        return SyncResult(revision=sync.revision)

    async def _jobs_sync(self, session: AgentSession, params: msgspec.Raw) -> SyncResult:
        sync = codec.convert(params, JobsSync)
        jobs = self._gather(session, sync, sync.jobs, MAX_JOBS_LISTED, len(bytes(params)))
        if jobs is not None:
            await self._jobs.reconcile(session, jobs)
        return SyncResult(revision=sync.revision)

    def _heartbeat(self, session: AgentSession, params: msgspec.Raw) -> None:
        beat = codec.convert(params, HeartbeatParams)
        session.presence.heartbeat = beat
        session.presence.heartbeat_at = time.time()
        # Newer than the list's: Ollama may have gone, or come, since.
        session.presence.ollama = beat.ollama
        self._events.agent_changed(session.agent_id)

    def _goodbye(self, session: AgentSession, params: msgspec.Raw) -> None:
        session.presence.goodbye = codec.convert(params, GoodbyeParams).reason


def _check_models(models: Sequence[InstalledModel]) -> None:
    """Names and digests are keys of what is stored, and the rest is kept of every version.

    Raises:
        InvalidParams: one is longer than any that Ollama gives, or cannot be stored.
    """
    for model in models:
        check_storable(model.name, MAX_NAME_CHARS, "params.models.name")
        check_storable(model.digest, MAX_DIGEST_CHARS, "params.models.digest")
        if len(msgspec.json.encode(model)) > MAX_MODEL_BYTES:
            raise InvalidParams(
                f"params.models: an entry has at most {MAX_MODEL_BYTES} bytes.", field="params.models"
            )
