"""The kit against servers: ours, a tiny one of another make, and that one with each of its faults."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Self

import pytest

from obt_conformance.checks import CheckResult, by_rule, rule_verdict
from obt_conformance.cli import KEPT_TOKENS
from obt_conformance.drivers import RestDriver
from obt_conformance.identity import KitIdentity, Pool, enrol, sha256
from obt_conformance.report import as_text, exit_code
from obt_conformance.rules import NOT_OF_SERVERS, RULES
from obt_conformance.run import check_server, select_checks
from obt_conformance.server_rules import CHECKS
from tests.conformance.times import SHORT
from tests.conformance.tiny_server import TinyDriver, TinyServer
from tests.server.conftest import running

pytestmark = pytest.mark.slow


def verdicts(results: list[CheckResult], verdict: str) -> set[str]:
    return {rule for rule, found in by_rule(results).items() if rule_verdict(found) == verdict}


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


async def checked(server: TinyServer, *, slow_rules: set[str], answer_s: float) -> list[CheckResult]:
    """All quick checks, and the slow ones of those rules."""
    deadlines = dataclasses.replace(SHORT, answer_s=answer_s)
    async with server.running(), asyncio.timeout(300):
        identities = [KitIdentity() for _ in range(8)]
        server.secrets = {sha256(one.secret): one.agent_id for one in identities}
        tokens = [f"join-{number}" for number in range(KEPT_TOKENS)]
        server.joins = dict.fromkeys(tokens)
        checks = [
            check for check in select_checks(CHECKS, ()) if not check.takes_s or check.rule in slow_rules
        ]
        return await check_server(
            checks,
            Pool(identities),
            server.url,
            deadlines=deadlines,
            driver=TinyDriver(server),
            join_tokens=tokens,
        )


async def test_a_server_of_another_make_keeps_every_rule() -> None:
    results = await checked(TinyServer(), slow_rules=set(RULES), answer_s=10.0)
    assert verdicts(results, "pass") == set(RULES) - set(NOT_OF_SERVERS), as_text(results)


FAULTS = {
    "no subprotocol": "TRANSPORT-1",
    "nobody needs a credential": "TRANSPORT-1",
    "small frames only": "TRANSPORT-2",
    "batches are ignored": "TRANSPORT-2",
    "an id works once": "TRANSPORT-3",
    "ids become numbers": "TRANSPORT-3",
    "unknown methods are our fault": "TRANSPORT-4",
    "unknown fields are refused": "TRANSPORT-4",
    "lists pass for parameters": "TRANSPORT-4",
    "errors guess an id": "TRANSPORT-5",
    "bad frames are borne": "TRANSPORT-5",
    "binary frames are taken": "TRANSPORT-5",
    "it asks at once": "HELLO-1",
    "anything may come first": "HELLO-1",
    "hellos may be long": "HELLO-1",
    "hellos may take for ever": "HELLO-1",
    "sessions have no number": "HELLO-2",
    "any version will do": "HELLO-3",
    "any id will do": "HELLO-4",
    "a second process replaces": "HELLO-5",
    "the first one stays for ever": "HELLO-5",
    "redials pile up": "HELLO-5",
    "stores are not compared": "HELLO-6",
    "sessions begin anew": "HELLO-2",
    "the first page is the list": "SYNC-1",
    "answers come twice": "CMD-1",
    "no model is named": "CMD-2",
    "messages are vague": "CMD-3",
    "busy gives no time": "CMD-4",
    "cancel names both": "CMD-5",
    "calls hold up reading": "CMD-6",
    "holes pass": "STREAM-1",
    "errors pass": "STREAM-2",
    "pieces are not known": "STREAM-3",
    "hashes are not compared": "STREAM-3",
    "streams are granted nothing": "CREDIT-1",
    "nobody may overdraw": "CREDIT-2",
    "the link is granted fourfold": "CREDIT-1",
    "credit comes unread": "CREDIT-4",
    "lost calls pass": "ALIVE-1",
    "lost calls are replayed": "ALIVE-1",
    "no stream is alive": "ALIVE-2",
    "all jobs have one id": "JOB-1",
    "a start comes again otherwise": "JOB-2",
    "lost starts are forgotten": "JOB-2",
    "starts are not stored": "JOB-2",
    "only completed jobs count": "JOB-3",
    "failed is stored as completed": "JOB-3",
    "pieces are joined as they come": "JOB-4",
    "gzip is not unpacked": "JOB-4",
    "hashes are believed": "JOB-5",
    "repeats are not known": "JOB-5",
    "results are not kept": "JOB-5",
    "results are held in memory": "JOB-5",
    "the last result wins": "JOB-6",
    "lost jobs stay lost": "JOB-6",
    "nothing is said when idle": "LIFE-1",
    "silence is borne": "LIFE-2",
    "pongs are asked for": "LIFE-2",
    "pongs are life": "LIFE-2",
    "heartbeats are refused": "LIFE-3",
    "a goodbye is an error": "LIFE-4",
    "a join token works twice": "ENROL-1",
    "an enrolled id is taken over": "ENROL-1",
    "no secret is kept": "ENROL-2",
    "the old credential goes at once": "ROTATE-1",
    "the old credential stays": "ROTATE-1",
}


@pytest.mark.parametrize(("fault", "rule"), FAULTS.items(), ids=FAULTS)
async def test_a_fault_turns_its_rule_red_and_no_other(fault: str, rule: str) -> None:
    results = await checked(TinyServer(fault), slow_rules={rule}, answer_s=3.0)
    assert verdicts(results, "fail") == {rule}, as_text(results)


async def test_a_link_that_is_granted_nothing_breaks_both_rules_that_ask_for_grants() -> None:
    results = await checked(TinyServer("the link is granted nothing"), slow_rules=set(), answer_s=3.0)
    assert verdicts(results, "fail") == {"CREDIT-1", "CREDIT-4"}, as_text(results)


def test_every_rule_of_a_server_has_a_fault_that_turns_it_red() -> None:
    assert set(FAULTS.values()) == set(RULES) - set(NOT_OF_SERVERS)
