"""``/metrics``: the server, its machines and their GPUs, in Prometheus' text format."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from obt_server.hub.storage import AgentRecord
from obt_server.rest import responses
from obt_server.rest.context import Context, route_class
from obt_server.rest.machine_metrics import MachineFigures
from obt_server.rest.server_metrics import ReplicaFigures, ServerFigures, text
from obt_server.store import Database, SqlStorage

MAX_MACHINES: Final = 2000
"""With series of their own: the first by id. A fleet beyond that is watched by its sums."""
JOBS_EVERY_S: Final = 15.0
"""Between two counts of the jobs, which read an index as long as the history."""


class MetricsExporter:
    """Gathers the figures of a server.

    Args:
        context: the live agents.
        storage: counts jobs.
        database: what it did, and its size.
        removed: what retention has removed, by kind.
    """

    def __init__(
        self,
        context: Context,
        storage: SqlStorage,
        database: Database,
        removed: Callable[[], Mapping[str, int]],
    ) -> None:
        self._context = context
        self._storage = storage
        self._database = database
        self._removed = removed
        # open connections by kind; set by who serves the application, and empty under another server
        self.connections: Callable[[], Mapping[str, int]] = dict
        # set where several servers share the database
        self.replicas: Callable[[], ReplicaFigures] | None = None
        # jobs by kind and state, and until when the count holds
        self._jobs: Sequence[tuple[str, str, int]] = ()
        self._jobs_until = 0.0

    async def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        hub = self._context.hub
        records: Mapping[str, AgentRecord] = await hub.directory.current()
        if time.monotonic() >= self._jobs_until:
            self._jobs = await self._storage.job_counts()
            self._jobs_until = time.monotonic() + JOBS_EVERY_S
        # Sorted by id, so that the same machines have series in each scrape.
        shown = sorted(records)[:MAX_MACHINES]
        machines = [MachineFigures.of(records[agent_id], hub.presence(agent_id)) for agent_id in shown]
        figures = ServerFigures(
            version=hub.settings.version,
            enrolled=len(records),
            online=len(hub.online() & records.keys()),
            machines=machines,
            jobs=self._jobs,
            open_rollouts=len(self._context.rollouts.running()),
            open_campaigns=len(self._context.campaigns.running()),
            links=hub.counters,
            traffic=self._context.traffic,
            waiting_bytes=hub.waiting_bytes,
            max_waiting_bytes=hub.settings.max_waiting_bytes,
            connections=dict(self.connections()),
            database=self._database.counters,
            database_path=self._database.path,
            removed=dict(self._removed()),
            replicas=None if self.replicas is None else self.replicas(),
        )
        # Tens of thousands of lines for a large fleet: written on the loop they would hold up every link.
        return await asyncio.to_thread(text, figures)


def routes(context: Context, exporter: MetricsExporter) -> APIRouter:
    """Return the route. It opens to tokens of scope ``metrics``, and to operators."""
    gated = route_class(context, functools.partial(context.gate, metrics=True))
    router = APIRouter(route_class=gated, tags=["operation"], responses=responses.GATED)

    @router.get(
        "/metrics",
        response_class=Response,
        summary="Figures of the server, its machines and their GPUs, for Prometheus",
        responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        return Response(await exporter.text(), media_type=CONTENT_TYPE_LATEST)

    return router
