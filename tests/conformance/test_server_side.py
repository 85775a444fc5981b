"""The kit against servers: ours, a tiny one of another make, and that one with each of its faults."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Self

import pytest

from obt_conformance.cli import KEPT_TOKENS
from obt_conformance.drivers import RestDriver
from obt_conformance.identity import Pool, enrol
from obt_conformance.report import as_text, exit_code
from obt_conformance.rules import NOT_OF_SERVERS, RULES
from obt_conformance.run import check_server, select_checks
from obt_conformance.server_rules import CHECKS
from tests.conformance.server_faults import FAULTS, checked, faults_of, turns_red_alone, verdicts
from tests.conformance.test_server_faults_calls import CALLS
from tests.conformance.test_server_faults_jobs import JOBS
from tests.conformance.times import SHORT
from tests.conformance.tiny_server import TinyServer
from tests.server.conftest import running

pytestmark = pytest.mark.slow

LINK = ("TRANSPORT", "HELLO", "SYNC")


async def test_our_server_keeps_every_rule(tmp_path: Path) -> None:
    times: dict[str, Any] = {
        "hello_within_s": SHORT.hello_s,
        "alive_interval_s": SHORT.alive_s,
        "silence_s": SHORT.silence_s,
        "probe_s": SHORT.probe_s,
        "streams_alive_interval_s": SHORT.streams_alive_s,
    }
    async with Restartable(tmp_path, times) as driver:
        tokens = [await driver.join_token() for _ in range(4 + KEPT_TOKENS)]
        identities = [await enrol(driver.url, tokens.pop(), within_s=SHORT.answer_s) for _ in range(4)]
        results = await check_server(
            select_checks(CHECKS, ()),
            Pool(identities),
            driver.url,
            deadlines=SHORT,
            driver=driver,
            join_tokens=tokens,
        )
    assert verdicts(results, "pass") == set(RULES) - set(NOT_OF_SERVERS), as_text(results)
    assert exit_code(results) == 0
    # Everything that can be tried was tried.
    assert {result.detail for result in results if result.verdict == "not tested"} == set()


class Restartable(RestDriver):
    """Our server on one port, and the way into it; ``restart`` begins it again on its database."""

    def __init__(self, folder: Path, times: dict[str, Any]) -> None:
        self._folder, self._times = folder, times
        self._port = 0
        self._running = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        server = await self._running.enter_async_context(
            running(self._folder, port=self._port, **self._times)
        )
        self.url, self._port = server.url, server.uvicorn.port
        token = server.http.headers["Authorization"].removeprefix("Bearer ")
        super().__init__(self.url, token, within_s=SHORT.answer_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    async def restart(self) -> None:
        await self._running.aclose()
        await self.__aenter__()


async def test_a_server_of_another_make_keeps_every_rule() -> None:
    results = await checked(TinyServer(), slow_rules=set(RULES), answer_s=10.0)
    assert verdicts(results, "pass") == set(RULES) - set(NOT_OF_SERVERS), as_text(results)


@pytest.mark.parametrize(("fault", "rule"), faults_of(*LINK).items(), ids=faults_of(*LINK))
async def test_a_fault_turns_its_rule_red_and_no_other(fault: str, rule: str) -> None:
    await turns_red_alone(fault, rule)


async def test_a_link_that_is_granted_nothing_breaks_both_rules_that_ask_for_grants() -> None:
    results = await checked(TinyServer("the link is granted nothing"), slow_rules=set(), answer_s=3.0)
    assert verdicts(results, "fail") == {"CREDIT-1", "CREDIT-4"}, as_text(results)


def test_every_rule_of_a_server_has_a_fault_that_turns_it_red() -> None:
    assert {rule.partition("-")[0] for rule in FAULTS.values()} == {*LINK, *CALLS, *JOBS}
    assert set(FAULTS.values()) == set(RULES) - set(NOT_OF_SERVERS)
