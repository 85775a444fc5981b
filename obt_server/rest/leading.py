"""A replica's part: it leads when it is its turn, and else hands on what only the leader can answer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from typing import cast

from starlette.types import ASGIApp

from obt_server.hub import Hub
from obt_server.replica_storage import LeaderLease
from obt_server.replicas.fence import LeasedHub, LeaseFence
from obt_server.replicas.leadership import Leadership
from obt_server.replicas.parts import Replicas
from obt_server.rest.context import Context
from obt_server.storage import SharedStorage
from obt_server.tasks import end_tasks


@contextlib.asynccontextmanager
async def serving(context: Context, replicas: Replicas, app: ASGIApp) -> AsyncIterator[None]:
    """Take part for as long as the context lasts.

    Args:
        context: what the routes speak to.
        replicas: the others.
        app: answers what others hand to this replica while it leads.
    """
    async with contextlib.AsyncExitStack() as stack:
        for part in (context.limits, context.shared_runs):
            if part is not None:
                await part.start()
                stack.push_async_callback(part.close)
        leadership = Leadership(replicas.membership, functools.partial(term, context, replicas))
        await leadership.start()
        stack.push_async_callback(leadership.close)
        if context.forwarding is not None:
            await context.forwarding.start(app)
            # Before the term ends: what others asked for is finished.
            stack.push_async_callback(context.forwarding.close)
        yield


@contextlib.asynccontextmanager
async def term(context: Context, replicas: Replicas, lease: LeaderLease) -> AsyncIterator[None]:
    """Run the engines by a lease: nothing of theirs is written, or begun, once another one was given."""
    # Where there are several processes, it is one that they can share.
    shared: SharedStorage = cast("SharedStorage", context.storage)
    storage = shared.fenced(lease)
    fence = LeaseFence(storage, lease, lambda: replicas.membership.lease == lease)
    # It has all that a hub has.
    hub = cast("Hub", LeasedHub(context.hub, fence))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(context.engines.term(hub, storage))
        if context.shared_runs is not None:
            await stack.enter_async_context(context.shared_runs.leading(lease))
        chores = [asyncio.create_task(chore(lease), name="chore of the leader") for chore in context.chores]
        stack.push_async_callback(end_tasks, chores)
        yield
