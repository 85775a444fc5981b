"""[CMD]: answers, parameters, bounds, cancellation."""

from __future__ import annotations

from typing import Any

from obt_agent.protocol import limits
from obt_conformance.both_ways import each_answered_once
from obt_conformance.checks import RuleBroken, Untested
from obt_conformance.server_harness import ServerHarness
from obt_conformance.server_rules.registry import CHECKS
from obt_conformance.server_rules.transport import INVALID_PARAMS
from obt_conformance.wire import Frame

BUSY = -32003


@CHECKS.check("CMD-1", "every request of the agent is answered exactly once")
async def answered_once(harness: ServerHarness) -> str:
    """Good, unknown and wrong ones alike."""
    async with harness.agent() as agent:
        ids = [await agent.wire.post("models.sync", agent.models_sync()) for _ in range(5)]
        ids.append(await agent.wire.post("x.conformance"))
        ids.append(await agent.wire.post("models.sync", {"revision": "one"}))
        return await each_answered_once(agent.wire, ids, harness.deadlines.quiet_s)


@CHECKS.check("CMD-2", "generate comes with Ollama's own fields, model among them")
async def ollama_fields(harness: ServerHarness) -> str:
    """What the trigger asks for travels under Ollama's names."""
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (_, request):
        model = request.params.get("model")
        if not isinstance(model, str) or not model:
            raise RuleBroken(f"params.model is {model!r}")
        await _refuse(agent.wire, request)
        return f"model {model}"


async def _refuse(wire: Any, request: Frame) -> None:
    error = {"code": BUSY, "message": "busy", "data": {"kind": "busy", "retry_after_ms": 1000}}
    await wire.send({"jsonrpc": "2.0", "id": request.id, "error": error})


@CHECKS.check("CMD-3", "wrong parameters are answered -32602 with the field's path")
async def wrong_parameters(harness: ServerHarness) -> str:
    """A final without its hash."""
    async with harness.agent() as agent:
        params = {"job_id": "j", "kind": "benchmark", "state": "completed", "bytes": 2}
        answer = await agent.wire.ask("job.finished", params)
        if answer.error_code != INVALID_PARAMS:
            raise RuleBroken(f"job.finished without sha256 was answered with {answer.message}"[:200])
        if "sha256" not in answer.error_message:
            raise RuleBroken(f"the message does not name the field: {answer.error_message}")
        return answer.error_message


@CHECKS.check("CMD-4", "a hundred requests at once are answered or refused as busy")
async def many_requests(harness: ServerHarness) -> str:
    """None is dropped, and the session goes on."""
    async with harness.agent() as agent:
        ids = [await agent.wire.post("models.sync", agent.models_sync()) for _ in range(100)]
        answers = [await agent.wire.answer(one, f"request {one} was not answered") for one in ids]
        refused = [answer for answer in answers if answer.error_code is not None]
        for answer in refused:
            if answer.error_code != BUSY:
                raise RuleBroken(f"one was answered with error {answer.error_code}")
            if "retry_after_ms" not in answer.message["error"].get("data", {}):
                raise RuleBroken("busy comes without retry_after_ms")
        await agent.check_responsive()
        return f"{len(answers) - len(refused)} answered, {len(refused)} busy"


@CHECKS.check("CMD-5", "cancel names exactly one of id and job_id")
async def cancel(harness: ServerHarness) -> str:
    """The server's caller goes away while a stream runs."""
    if harness.driver is not None and not harness.driver.can_stop:
        raise Untested("the trigger cannot be told to give up")
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (call, request):
        agent.wire.handlers["cancel"] = _cancelling
        await call.stop()
        frame = await agent.wire.expect("cancel")
        named = [key for key in ("id", "job_id") if frame.params.get(key) is not None]
        if len(named) != 1:
            raise RuleBroken(f"cancel came with {sorted(frame.params)}")
        if named == ["id"] and frame.params["id"] != request.id:
            raise RuleBroken(f"cancel names id {frame.params['id']!r}, not {request.id!r}")
        error = {"code": -32004, "message": "cancelled", "data": {"kind": "cancelled"}}
        await agent.wire.send({"jsonrpc": "2.0", "id": request.id, "error": error})
        await agent.check_responsive()
        return f"cancel by {named[0]}"


async def _cancelling(_: Frame) -> dict[str, str]:
    return {"state": "cancelling"}


@CHECKS.check("CMD-6", "the server reads on while its own requests wait")
async def reads_on(harness: ServerHarness) -> str:
    """An agent that has not answered yet may still ask."""
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (_, request):
        for _ in range(limits.MAX_IN_FLIGHT):
            await agent.check_responsive()
        await _refuse(agent.wire, request)
        return f"{limits.MAX_IN_FLIGHT} requests answered while one of the server's waited"
