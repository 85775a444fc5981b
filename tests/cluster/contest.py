"""Processes that work on one database at the same time, as several servers would."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any, TypeVar

from obt_server.store import Database, SqlStorage

T = TypeVar("T")
Part = Callable[[SqlStorage, int], Coroutine[Any, Any, T]]
WITHIN_S = 100

_start: Barrier


def _begin(barrier: Barrier) -> None:
    global _start  # noqa: PLW0603 - what a process is given when it begins
    _start = barrier


def _one(address: str, part: Part[T], number: int) -> T:
    async def work() -> T:
        with contextlib.closing(Database.open(address)) as database:
            _start.wait(WITHIN_S)
            return await part(SqlStorage(database), number)

    return asyncio.run(work())


def _first(address: str, number: int) -> int | None:
    del number
    _start.wait(WITHIN_S)
    with contextlib.closing(Database.open(address)) as database:
        return database.found_schema


def _together(processes: int, work: Callable[..., T], *arguments: Any) -> list[T]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(context.Barrier(processes),)
    ) as pool:
        started = [pool.submit(work, *arguments, number) for number in range(processes)]
        return [one.result(WITHIN_S) for one in started]


def contest(address: str, part: Part[T], processes: int = 4) -> Sequence[T]:
    """Run ``part(storage, number)`` in processes that begin together; return what each returned."""
    return _together(processes, _one, address, part)


def first_starts(address: str, processes: int) -> Sequence[int | None]:
    """Open a database in processes that begin together; return the schema that each found."""
    return _together(processes, _first, address)
