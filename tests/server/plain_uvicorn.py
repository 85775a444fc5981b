"""An application that is not ours, under uvicorn as it comes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI


@asynccontextmanager
async def plain_uvicorn(app: FastAPI, **options: Any) -> AsyncIterator[str]:
    """The address at which uvicorn serves it; stopped at the end."""
    config = uvicorn.Config(app, **{"port": 0, "ws": "websockets-sansio", "log_config": None, **options})
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(), name="foreign application")
    async with asyncio.timeout(20):
        # Looked at again and again: uvicorn tells nobody when it has started.
        while not server.started:
            assert not task.done(), "it did not start"
            await asyncio.sleep(0)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        async with asyncio.timeout(20):
            await task
