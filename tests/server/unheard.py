"""A storage whose answers to some calls are lost: what was written is stored, and nobody hears so."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from obt_server.storage import ServerStorage, StorageUnavailable
from tests.server.conftest import Running


class UnheardStorage:
    """The same storage, but for calls that a test names.

    Args:
        storage: what is stored.
    """

    def __init__(self, storage: ServerStorage) -> None:
        self._storage = storage
        self.unheard: Counter[str] = Counter()
        """By method: how many of the next calls are done, and not answered."""
        self.away: Counter[str] = Counter()
        """By method: how many of the next calls are not done; after those that are done and not answered."""
        self.calls: Counter[str] = Counter()
        """By method: how many calls there were."""
        self.instead: dict[str, Callable[..., Awaitable[Any]]] = {}
        """By method: what is called in its stead, with the storage's own method before its arguments."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            if name in self.instead:
                return await self.instead[name](found, *args, **kwargs)
            if self.unheard[name]:
                self.unheard[name] -= 1
                await found(*args, **kwargs)
                raise StorageUnavailable("The connection ended during a commit.", retry_after_ms=1000)
            if self.away[name]:
                self.away[name] -= 1
                raise StorageUnavailable("The database does not answer now; try again.", retry_after_ms=1000)
            return await found(*args, **kwargs)

        return call


@contextlib.asynccontextmanager
async def unheard(server: Running) -> AsyncIterator[UnheardStorage]:
    """A term of the engines on such a storage."""
    engines = server.parts.context.engines
    await engines.now.close()
    storage = UnheardStorage(server.parts.storage)
    async with engines.term(storage=cast("ServerStorage", storage)):
        yield storage


class Gate:
    """Holds calls of a storage's method up, for ``UnheardStorage.instead``."""

    def __init__(self) -> None:
        self.reached = False
        """Whether one was held up."""
        self.opened = asyncio.Event()

    async def __call__(self, own: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Call the storage's own method, once it is open."""
        self.reached = True
        await self.opened.wait()
        return await own(*args)
