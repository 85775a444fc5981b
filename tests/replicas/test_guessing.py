"""Whoever guesses passwords behind a proxy that takes the replicas in turn is as slow as at one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

from obt_server.auth.limiter import FREE_FAILURES
from tests.replicas.servers import bus_of, replicas
from tests.server.conftest import PASSWORD, Running
from tests.waiting import until


async def guess(server: Running, password: str = "wrong", name: str = "admin") -> int:
    answer = await server.http.post("/api/v1/session", json={"name": name, "password": password})
    return answer.status_code


def counted(server: Running) -> int:
    pairs = server.parts.operators.limiters["sign-in"]
    return sum(found.count for found in pairs._failures.values())  # noqa: SLF001 - shown nowhere


def pass_s(servers: Sequence[Running], seconds: float) -> None:
    """Have the failures of each account happen earlier, or later where it is negative."""
    for server in servers:
        pairs = server.parts.operators.limiters["sign-in"]
        for found in pairs._failures.values():  # noqa: SLF001 - an hour in a test
            found.last -= seconds


async def test_guesses_in_turn_at_three_replicas_end_as_soon_as_at_one(tmp_path: Path) -> None:
    async with replicas(tmp_path, 3) as some:
        answers = []
        for one in itertools.islice(itertools.cycle(some), 3 * FREE_FAILURES):
            answers.append(await guess(one))
            failures = answers.count(401)
            await until(lambda: {counted(server) for server in some} == {failures})  # noqa: B023 - at once
            if len(answers) == FREE_FAILURES:
                pass_s(some, -600.0)  # the delay is a second: on a busy machine it would be over
        # As many as one server lets through, and none of the others.
        assert answers == [401] * FREE_FAILURES + [429] * (2 * FREE_FAILURES)
        # The right password is no way round it either, and no other address or account waits for this one.
        assert [await guess(one, PASSWORD) for one in some] == [429] * 3
        assert [await guess(one, "wrong", "somebody") for one in some] == [401] * 3


async def test_guesses_at_one_moment_at_three_replicas_are_one_guess(tmp_path: Path) -> None:
    async with replicas(tmp_path, 3) as some:
        for _ in range(FREE_FAILURES):
            await guess(some[0])
        await until(lambda: {counted(server) for server in some} == {FREE_FAILURES})
        pass_s(some, 900.0)  # the delay is over everywhere
        answers = await asyncio.gather(*(guess(one) for one in some))
        assert sorted(answers) == [401, 429, 429]


async def test_without_the_bus_each_replica_still_slows_down_guessing(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2) as (one, other):
        bus_of(one).lose()
        assert [await guess(one) for _ in range(FREE_FAILURES)] == [401] * FREE_FAILURES
        pass_s([one], -600.0)
        assert await guess(one) == 429
        assert await guess(other) == 401
