"""A watch that several look at: whatever ends it, nobody waits on."""

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest
from structlog.testing import capture_logs

from obt_agent.errors import LinkLost
from obt_server.hub.agent_stream import AgentStream
from obt_server.hub.shared_series import SharedSeries, Viewer


async def read(viewer: Viewer) -> None:
    async with asyncio.timeout(30):
        async for _ in viewer:
            pass


async def test_an_end_that_nobody_foresaw_is_no_regular_one() -> None:
    def broken() -> AbstractAsyncContextManager[AgentStream]:
        raise RuntimeError("something that nobody foresaw")

    series = SharedSeries(broken, keep_history=False)
    with capture_logs() as lines:
        series.start("a hardware_watch")
        async with series.view(-1) as viewer:
            with pytest.raises(LinkLost, match="log says why"):
                await read(viewer)
    assert [line["event"] for line in lines] == ["series.failed"]


async def test_one_that_is_ended_before_it_began_ends_its_viewers() -> None:
    opened: list[str] = []

    def opening() -> AbstractAsyncContextManager[AgentStream]:
        opened.append("once")
        raise LinkLost("It was opened.")

    series = SharedSeries(opening, keep_history=False)
    series.start("a hardware_watch")
    async with series.view(-1) as viewer:
        await series.close()
        with pytest.raises(LinkLost, match="was ended"):
            await read(viewer)
    assert not opened
