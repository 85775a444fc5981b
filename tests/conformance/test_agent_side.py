"""The kit against agents: ours as a process, and ours with its frames spoilt in one way after another."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from obt_conformance.agent_harness import AgentHarness, AgentTarget
from obt_conformance.agent_rules import CHECKS
from obt_conformance.checks import CheckResult, by_rule, rule_verdict
from obt_conformance.listening import AgentListener
from obt_conformance.report import as_text
from obt_conformance.rules import NOT_OF_AGENTS, RULES
from obt_conformance.run import check_agent, select_checks
from obt_standin import StandIn
from tests.conformance.agent_process import WITHIN_S, running_agent
from tests.conformance.relay import Fault, Message, Relay
from tests.conformance.times import SHORT

pytestmark = pytest.mark.slow

TARGET = AgentTarget(model="standin-small:latest", embed_model="standin-embed:latest")


@contextlib.asynccontextmanager
async def agent_harness(
    folder: Path, standin: StandIn, *, relayed: bool
) -> AsyncIterator[tuple[AgentHarness, Relay]]:
    """A real agent that has dialled the kit, through a relay or not."""
    standin.script.tokens, standin.script.decode_tps = 5000, 2000.0
    listener = AgentListener(answer_within_s=SHORT.answer_s)
    async with listener.open("127.0.0.1", 0):
        url = f"http://127.0.0.1:{listener.port}"
        relay = Relay(url)
        async with (
            relay.running(),
            running_agent(folder, relay.url if relayed else url, standin.url) as agent,
        ):
            await listener.first_dial(WITHIN_S)
            yield AgentHarness(TARGET, listener, SHORT, agent.redial), relay


async def test_our_agent_keeps_every_rule(tmp_path: Path, standin: StandIn) -> None:
    async with agent_harness(tmp_path, standin, relayed=False) as (harness, _):
        results = await check_agent(select_checks(CHECKS, ()), harness)
    kept = {rule for rule, found in by_rule(results).items() if rule_verdict(found) == "pass"}
    assert kept == set(RULES) - set(NOT_OF_AGENTS), as_text(results)


def on(method: str, change: Fault) -> Fault:
    """A fault of frames of one method."""
    return lambda message: change(message) if message.get("method") == method else [message]


def on_results(change: Fault) -> Fault:
    """A fault of answers."""
    return lambda message: change(message) if "result" in message else [message]


def on_errors(change: Fault) -> Fault:
    """A fault of refusals."""
    return lambda message: change(message) if "error" in message else [message]


def drop(_: Message) -> list[Message]:
    return []


def twice(message: Message) -> list[Message]:
    return [message, message]


def setting(path: str, value: Any) -> Fault:
    """One field, by its path, is another."""

    def change(message: Message) -> list[Message]:
        *way, last = path.split(".")
        inner = message
        for step in way:
            inner = inner.setdefault(step, {})
        inner[last] = value() if callable(value) else value
        return [message]

    return change


def holes(message: Message) -> list[Message]:
    message["params"]["seq"] *= 2
    return [message]


def late(message: Message) -> list[Message]:
    """The order within a frame is turned round."""
    message["params"]["items"] = [
        {**item, "t_us": -item["t_us"]} for item in message["params"].get("items", ())
    ]
    return [message]


def many(message: Message) -> list[Message]:
    return [message] * 20


COUNTED = itertools.count()
SPOILT: dict[str, Fault] = {
    "HELLO-1": on("agent.hello", setting("params.x", "x" * (33 << 10))),
    "HELLO-2": on("agent.hello", setting("params.capabilities", "none")),
    "HELLO-4": on("agent.hello", setting("params.agent.id", "not-a-uuid")),
    "HELLO-5": on("agent.hello", setting("params.agent.instance", lambda: f"i{next(COUNTED)}")),
    "HELLO-6": on("agent.hello", setting("params.store_id", lambda: f"s{next(COUNTED)}")),
    "SYNC-1": on("hardware.sync", drop),
    "TRANSPORT-2": on("agent.hello", setting("params.limits.max_frame_bytes", 1000)),
    "TRANSPORT-3": on_results(lambda m: [{**m, "id": str(m["id"])}]),
    "TRANSPORT-4": on_errors(setting("error.code", -32603)),
    "TRANSPORT-5": on_errors(setting("id", 7)),
    "CMD-1": on_results(twice),
    "CMD-2": on("stream.data", drop),
    "CMD-3": on_errors(setting("error.message", "no")),
    "CMD-4": on_errors(setting("error.data", {})),
    "CMD-5": on_results(setting("result.state", "unknown")),
    "CMD-6": on("stream.data", drop),
    "STREAM-1": on("stream.data", late),
    "STREAM-2": on_results(setting("result.stream", {"next_seq": 0})),
    "STREAM-3": on_results(setting("result.sha256", "0" * 64)),
    "CREDIT-1": on("stream.data", holes),
    "CREDIT-2": on("stream.data", many),
    "CREDIT-3": on_errors(setting("error.code", -32603)),
    "CREDIT-4": on("stream.data", drop),
    "ALIVE-2": on_errors(drop),
    "JOB-1": on_results(setting("result.job_id", "another")),
    "JOB-2": on_errors(setting("error.code", -32603)),
    "JOB-3": on("job.progress", many),
    "JOB-4": on("job.finished", setting("params.sha256", "0" * 64)),
    "JOB-5": on("job.finished", setting("params.sha256", lambda: f"{next(COUNTED):064}")),
    "JOB-6": on("job.finished", drop),
    "JOB-7": on_results(setting("result.state", "running")),
    "LIFE-3": on("heartbeat", setting("params.ollama", None)),
    "ROTATE-1": on_results(setting("result.sha256", "0" * 64)),
}
"""Rules, and what is done to frames so that each must turn red."""

IMPATIENT = dataclasses.replace(SHORT, answer_s=2.0, quiet_s=0.1, job_s=4.0)


async def until_red(harness: AgentHarness, rule: str) -> str | None:
    """What a check of that rule was passed with, when none turned red."""
    results: list[CheckResult] = []
    for check in select_checks(CHECKS, [rule]):
        results += await check_agent([check], harness)
        if rule_verdict(results) == "fail":
            return None
    return as_text(results)


@pytest.mark.parametrize("part", range(4))
async def test_an_agent_whose_frames_are_spoilt_turns_the_rule_red(
    tmp_path: Path, standin: StandIn, part: int
) -> None:
    async with agent_harness(tmp_path, standin, relayed=True) as (harness, relay), asyncio.timeout(100):
        harness.deadlines = IMPATIENT
        green = []
        for rule in list(SPOILT)[part::4]:
            await harness.end()
            relay.fault = SPOILT[rule]
            harness.hellos.clear()
            if (passed := await until_red(harness, rule)) is not None:
                green.append(passed)
    assert not green, "\n".join(green)


def test_every_rule_of_an_agent_but_those_of_its_socket_has_a_fault_that_turns_it_red() -> None:
    without = set(RULES) - set(NOT_OF_AGENTS) - set(SPOILT)
    assert without == {"TRANSPORT-1", "HELLO-3", "ALIVE-1", "LIFE-1", "LIFE-2", "LIFE-4"}
