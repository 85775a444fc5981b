"""[CMD]: answers, parameters, bounds, cancellation."""

from __future__ import annotations

from typing import Any

from obt_agent.protocol import limits
from obt_conformance.both_ways import each_answered_once
from obt_conformance.checks import RuleBroken, Untested
from obt_conformance.server_harness import ServerHarness
from obt_conformance.server_rules.registry import BOOK
from obt_conformance.server_rules.transport import INVALID_PARAMS
from obt_conformance.wire import Frame

BUSY = -32003


@BOOK.check("CMD-1", "every request of the agent is answered exactly once")
async def answered_once(stage: ServerHarness) -> str:
    """Good, unknown and wrong ones alike."""
    async with stage.agent() as agent:
        asked = [await agent.wire.post("models.sync", agent.models_sync()) for _ in range(5)]
        asked.append(await agent.wire.post("x.conformance"))
        asked.append(await agent.wire.post("models.sync", {"revision": "one"}))
        return await each_answered_once(agent.wire, asked, stage.deadlines.quiet_s)


@BOOK.check("CMD-2", "generate comes with Ollama's own fields, model among them")
async def ollama_fields(stage: ServerHarness) -> str:
    """What the trigger asked for travels under Ollama's names."""
    async with stage.agent() as agent, stage.provoked(agent, "generate") as (_, request):
        model = request.params.get("model")
        if not isinstance(model, str) or not model:
            raise RuleBroken(f"params.model is {model!r}")
        await _refuse(agent.wire, request)
        return f"model {model}"


async def _refuse(wire: Any, request: Frame) -> None:
    error = {"code": BUSY, "message": "busy", "data": {"kind": "busy", "retry_after_ms": 1000}}
    await wire.send({"jsonrpc": "2.0", "id": request.id, "error": error})


@BOOK.check("CMD-3", "wrong parameters are answered -32602 with the field's path")
async def wrong_parameters(stage: ServerHarness) -> str:
    """A final without its hash."""
    async with stage.agent() as agent:
        params = {"job_id": "j", "kind": "benchmark", "state": "completed", "bytes": 2}
        answer = await agent.wire.ask("job.finished", params)
        if answer.error_code != INVALID_PARAMS:
            raise RuleBroken(f"job.finished without sha256 was answered with {answer.message}"[:200])
        if "sha256" not in answer.error_message:
            raise RuleBroken(f"the message does not name the field: {answer.error_message}")
        return answer.error_message


@BOOK.check("CMD-4", "a hundred requests at once are answered or refused as busy")
async def many_requests(stage: ServerHarness) -> str:
    """None is dropped, and the session goes on."""
    async with stage.agent() as agent:
        asked = [await agent.wire.post("models.sync", agent.models_sync()) for _ in range(100)]
        answers = [await agent.wire.answer(one, f"request {one} was not answered") for one in asked]
        refused = [answer for answer in answers if answer.error_code is not None]
        for answer in refused:
            if answer.error_code != BUSY:
                raise RuleBroken(f"one was answered with error {answer.error_code}")
            if "retry_after_ms" not in answer.message["error"].get("data", {}):
                raise RuleBroken("busy comes without retry_after_ms")
        await agent.still_works()
        return f"{len(answers) - len(refused)} answered, {len(refused)} busy"


@BOOK.check("CMD-5", "cancel names exactly one of id and job_id")
async def cancel(stage: ServerHarness) -> str:
    """The server's caller goes away while a stream runs."""
    if stage.driver is not None and not stage.driver.can_stop:
        raise Untested("the trigger cannot be told to give up")
    async with stage.agent() as agent, stage.provoked(agent, "generate") as (call, request):
        agent.wire.handlers["cancel"] = _cancelling
        await call.stop()
        asked = await agent.wire.expect("cancel")
        named = [key for key in ("id", "job_id") if asked.params.get(key) is not None]
        if len(named) != 1:
            raise RuleBroken(f"cancel came with {sorted(asked.params)}")
        if named == ["id"] and asked.params["id"] != request.id:
            raise RuleBroken(f"cancel names id {asked.params['id']!r}, not {request.id!r}")
        error = {"code": -32004, "message": "cancelled", "data": {"kind": "cancelled"}}
        await agent.wire.send({"jsonrpc": "2.0", "id": request.id, "error": error})
        await agent.still_works()
        return f"cancel by {named[0]}"


async def _cancelling(_: Frame) -> dict[str, str]:
    return {"state": "cancelling"}


@BOOK.check("CMD-6", "the server reads on while its own requests wait")
async def reads_on(stage: ServerHarness) -> str:
    """An agent that has not answered yet may still ask."""
    async with stage.agent() as agent, stage.provoked(agent, "generate") as (_, request):
        for _ in range(limits.MAX_IN_FLIGHT):
            await agent.still_works()
        await _refuse(agent.wire, request)
        return f"{limits.MAX_IN_FLIGHT} requests answered while one of the server's waited"
