"""A server that means harm, over the wire, against a real agent: what it costs, and what is left."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from obt_conformance.agent_harness import AgentHarness, AgentTarget, KitSession
from obt_conformance.checks import RuleBroken
from obt_conformance.deadlines import Deadlines
from obt_conformance.listening import AgentListener
from obt_standin import StandIn
from tests.conformance.agent_process import WITHIN_S, Agent, running_agent

pytestmark = pytest.mark.slow

MODEL = "standin-small:latest"
MIB = 1 << 20
OPEN = {"allow_changes": ["pull_model", "create_model", "copy_model", "delete_model"]}
REQUEST = '{"jsonrpc":"2.0","id":1,"method":"generate","params":{'
BUSY, NOT_PERMITTED, TOO_LARGE, CANCELLED = -32003, -32005, -32008, -32004


class DemoEnvironment:
    """The agent, and what the hostile server has of it."""

    def __init__(self, stage: AgentHarness, session: KitSession, agent: Agent) -> None:
        self.stage, self.session, self.agent = stage, session, agent
        self.before = self.rss

    @property
    def rss(self) -> int:
        return int(psutil.Process(self.agent.process.pid).memory_info().rss)

    async def code(self, method: str, **params: Any) -> int | None:
        return (await self.session.wire.ask(method, params)).error_code

    async def settled(self) -> None:
        """The agent still works as it did, on this session or the next."""
        session = await self.stage.session()
        try:
            await self._answers(session)
        except RuleBroken:
            # A session that is still open has to answer; only one that ended has a next one.
            if session.wire.closed is None:
                raise
            await self._answers(await self.stage.session())
        assert self.agent.process.returncode is None

    async def _answers(self, session: KitSession) -> None:
        params = self.stage.generate(options={"num_predict": 5})
        request = await session.start("generate", params)
        answer = await session.wire.answer(request, "the agent does not answer any more")
        assert answer.error_code is None, answer.message


@contextlib.asynccontextmanager
async def scene(folder: Path, standin: StandIn, **policy: Any) -> AsyncIterator[DemoEnvironment]:
    deadlines = Deadlines(answer_s=120.0, quiet_s=0.5)
    door = AgentListener(answer_within_s=deadlines.answer_s)
    async with (
        door.open("127.0.0.1", 0),
        running_agent(
            folder,
            f"http://127.0.0.1:{door.port}",
            standin.url,
            module="obt_agent",
            policy={**OPEN, **policy},
        ) as agent,
    ):
        await door.first_dial(WITHIN_S)
        stage = AgentHarness(AgentTarget(MODEL, MODEL), door, deadlines, agent.redial)
        session = await stage.session()
        await stage.synced(session)
        yield DemoEnvironment(stage, session, agent)
        await stage.end()


async def test_what_the_owner_forbids_stays_forbidden_by_every_name(tmp_path: Path, standin: StandIn) -> None:
    async with scene(tmp_path, standin, models={"deny": ["standin-think*"]}) as on:
        pull = {"job_id": "j", "model": "127.0.0.1:9/library/x"}
        assert await on.code("pull_model", **pull) == NOT_PERMITTED
        for name in ("standin-far:cloud", "standin-think:8b", "STANDIN-THINK:8B", "library/standin-think:8b"):
            assert await on.code("generate", model=name, prompt="x") == NOT_PERMITTED, name
        plan = on.stage.plan(num_iterations=100_000, sweep={"num_ctx": list(range(4096, 4128))})
        assert await on.code("run_benchmark", job_id="j", plan=plan) == NOT_PERMITTED
        huge = on.stage.generate(options={"num_ctx": 10_000_000, "num_predict": 2})
        await on.session.wire.ask("generate", huge)
        await on.settled()
    asked = [json.loads(exchange.body) for exchange in standin.requests if exchange.path == "/api/generate"]
    assert max(body.get("options", {}).get("num_ctx", 0) for body in asked) <= 131_072
    assert not [exchange for exchange in standin.requests if exchange.path == "/api/pull"]


async def test_a_new_model_brings_no_template_unless_the_owner_allows_it(
    tmp_path: Path, standin: StandIn
) -> None:
    endless = '{{ define "x" }}{{ template "x" }}{{ template "x" }}{{ end }}{{ template "x" }}'
    params = {"job_id": "j", "model": "new:latest", "from": MODEL, "template": endless}
    async with scene(tmp_path, standin) as on:
        answer = await on.session.wire.ask("create_model", params)
        assert answer.error_code == NOT_PERMITTED, answer.message
        assert answer.error_data["detail"]["policy_key"] == "policy.templates"
        await on.settled()
    assert not [exchange for exchange in standin.requests if exchange.path == "/api/create"]


async def test_a_template_passes_where_the_owner_allows_it(tmp_path: Path, standin: StandIn) -> None:
    params = {"job_id": "j", "model": "new:latest", "from": MODEL, "template": "{{ .Prompt }}"}
    async with scene(tmp_path, standin, templates=True) as on:
        assert (await on.session.wire.ask("create_model", params)).error_code is None
        await on.session.wire.expect("job.finished")
    (created,) = [exchange for exchange in standin.requests if exchange.path == "/api/create"]
    assert json.loads(created.body)["template"] == "{{ .Prompt }}"


@pytest.mark.parametrize("interval_ms", [10**400, 2**63], ids=["10^400", "2^63"])
async def test_a_watch_every_10_to_the_400_milliseconds_is_one_every_hour(
    tmp_path: Path, standin: StandIn, interval_ms: int
) -> None:
    async with scene(tmp_path, standin) as on:
        asked = await on.session.start("hardware_watch", {"interval_ms": interval_ms})
        await on.session.until_streaming(asked)
        final = await on.session.cancel(asked)
        assert final.error_code in (None, CANCELLED), final.message
        await on.settled()


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * (MIB - 10),
        '{"a":' * 200_000,
        REQUEST + '"model":' + "[" * 500_000 + "]" * 500_000 + "}}",
        REQUEST + ",".join(f'"{n}":{n}' for n in range(70_000)) + "}}",
        REQUEST + '"model":' + "9" * 900_000 + "}}",
    ],
    ids=["arrays", "objects", "deep parameters", "many keys", "a long number"],
)
async def test_a_bomb_of_json_costs_a_refusal_and_little_memory(
    tmp_path: Path, standin: StandIn, bomb: str
) -> None:
    async with scene(tmp_path, standin) as on:
        for _ in range(8):  # ten bad frames end a session
            await on.session.wire.send(bomb)
        await on.settled()
        assert on.session.wire.closed is None
        assert on.rss - on.before < 64 * MIB


async def test_a_thousand_requests_at_once_are_answered_or_refused_within_bounds(
    tmp_path: Path, standin: StandIn
) -> None:
    standin.script.tokens, standin.script.ending = 5, "hang"
    async with scene(tmp_path, standin) as on:
        params = on.stage.generate(prompt="x" * 20_000)
        asked = [await on.session.start("generate", params, read=False) for _ in range(1000)]
        await on.session.wire.until(
            lambda: sum(f.error_code == BUSY for f in on.session.wire.frames) >= 1000 - 16,
            "not all were answered",
        )
        assert on.rss - on.before < 64 * MIB
        for number in asked:
            await on.session.wire.post("cancel", {"id": number})
        for number in asked:
            await on.session.wire.answer(number, "a request had no final")
        standin.script.ending = "done"
        await on.settled()
        counts = {len(on.session.wire.answers(number)) for number in asked}
        assert counts == {1}


async def test_blobs_that_nobody_uses_stay_within_their_bound(tmp_path: Path, standin: StandIn) -> None:
    data = base64.b64encode(b"x" * 600_000).decode()
    async with scene(tmp_path, standin) as on:
        codes = [await on.code("blob.put", blob=f"b{n}", offset=0, data=data) for n in range(60)]
        assert set(codes) == {None, TOO_LARGE}
        assert codes.count(None) * 600_000 <= 16 * MIB
        assert on.rss - on.before < 64 * MIB
        await on.settled()


async def test_credit_that_is_never_granted_stops_ollama_and_holds_little(
    tmp_path: Path, standin: StandIn
) -> None:
    standin.script.tokens, standin.script.fast = 200_000, True
    endless = {"max_tokens": 4_000_000, "options": {"num_predict": 4_000_000}}
    async with scene(tmp_path, standin, **endless) as on:
        on.session.grant_link = False
        params = on.stage.generate(options={"num_predict": 200_000})
        asked = [await on.session.start("generate", params, read=False) for _ in range(16)]
        await on.session.wire.until(
            lambda: min(on.session.ledger.streams.values(), default=1) <= 0, "no stream's window was used"
        )
        await on.session.wire.quiet_for(2.0)
        on.session.ledger.check_clean()
        assert on.session.ledger.received < 256 << 10
        assert standin.open_streams == 16, "Ollama's streams wait, and are not read to their end"
        assert on.rss - on.before < 64 * MIB
        for number in asked:
            await on.session.cancel(number)
        on.session.grant_link = True
        await on.session.give_link(MIB)
        standin.script.tokens = 5
        await on.settled()


async def test_a_server_that_asks_and_does_not_read_is_left(tmp_path: Path, standin: StandIn) -> None:
    async with scene(tmp_path, standin) as on:
        wire = on.session.wire
        wire.stop_sending_alive()
        wire.pause_reading()
        frame = json.dumps({"jsonrpc": "2.0", "id": "a" * 60, "method": "x" * 200, "params": {}})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                while wire.socket.state.name == "OPEN":
                    for _ in range(500):
                        await wire.send(frame)
                    assert on.rss - on.before < 64 * MIB
                    if "link.down" in on.agent.log:
                        break
        wire.abort()
        await wire.until_closed()
        await on.settled()
        assert on.rss - on.before < 64 * MIB
