"""[CMD]: answers, parameters, bounds, cancellation."""

from __future__ import annotations

from obt_conformance.agent_harness import AgentHarness
from obt_conformance.agent_rules.registry import CHECKS
from obt_conformance.agent_rules.transport import INVALID_PARAMS, check_responsive
from obt_conformance.both_ways import each_answered_once
from obt_conformance.checks import RuleBroken
from obt_conformance.wire import JsonObject, RawSocket

BUSY = -32003
CANCELLED = -32004


@CHECKS.check("CMD-1", "every request is answered exactly once")
async def answered_once(harness: AgentHarness) -> str:
    """Good, unknown, wrong and streamed ones alike."""
    session = await harness.session()
    ids = [await session.wire.post(method) for method in ("list_models", "running_models", "agent_info")]
    ids.append(await session.wire.post("x.conformance"))
    ids.append(await session.wire.post("generate", {"model": 5}))
    ids.append(await session.start("generate", harness.generate(options={"num_predict": 4})))
    return await each_answered_once(session.wire, ids, harness.deadlines.quiet_s)


@CHECKS.check("CMD-2", "generate streams also with stream: false and a field that nobody knows")
async def always_streamed(harness: AgentHarness) -> str:
    """Ollama's chunks come as items."""
    session = await harness.session()
    params = harness.generate(stream=False, x_conformance=True, options={"num_predict": 4})
    request_id = await session.start("generate", params)
    answer = await session.wire.answer(request_id, "generate was not answered")
    if answer.error_code is not None:
        raise RuleBroken(f"answered with error {answer.error_code} {answer.error_message}")
    if not session.data(request_id):
        raise RuleBroken("nothing was streamed")
    return f"{len(session.data(request_id))} frames"


@CHECKS.check("CMD-3", "wrong parameters are answered -32602 with the field's path")
async def wrong_parameters(harness: AgentHarness) -> str:
    """At the top, and deep in a plan."""
    session = await harness.session()
    seen = []
    wrong = {"job_id": "j", "plan": harness.plan(num_ctx="many")}
    for method, params, path in (
        ("generate", {"prompt": "x"}, "model"),
        ("run_benchmark", wrong, "params.plan.num_ctx"),
    ):
        answer = await session.wire.ask(method, params)
        if answer.error_code != INVALID_PARAMS:
            raise RuleBroken(f"{method} was answered with {answer.message}"[:200])
        if path not in answer.error_message:
            raise RuleBroken(f"the message does not name {path}: {answer.error_message}")
        seen.append(answer.error_message)
    return "; ".join(seen)


@CHECKS.check("CMD-4", "a hundred requests at once are answered or refused as busy, and cancel is not")
async def many_requests(harness: AgentHarness) -> str:
    """Streams that nobody reads stay in flight."""
    session = await harness.session()
    ids = [await session.start("generate", harness.generate(), read=False) for _ in range(100)]
    await session.wire.quiet_for(harness.deadlines.quiet_s)
    refused = [answer for one in ids for answer in session.wire.answers(one) if answer.error_code == BUSY]
    if not refused:
        raise RuleBroken("a hundred streams were all taken")
    for answer in refused:
        if "retry_after_ms" not in answer.message["error"].get("data", {}):
            raise RuleBroken("busy comes without retry_after_ms")
    for one in ids:
        cancelled = await session.wire.ask("cancel", {"id": one})
        if cancelled.error_code is not None:
            raise RuleBroken(f"cancel was answered with error {cancelled.error_code}")
    for one in ids:
        await session.wire.answer(one, f"request {one} had no final")
    return f"{len(ids) - len(refused)} taken, {len(refused)} busy, all cancelled"


@CHECKS.check("CMD-5", "cancel takes one of id and job_id, and knows what was answered")
async def cancel(harness: AgentHarness) -> str:
    """In flight, answered, unknown, and both at once."""
    session = await harness.session()
    async with harness.running(session) as request_id:
        both = await session.wire.ask("cancel", {"id": request_id, "job_id": "j"})
        neither = await session.wire.ask("cancel")
        if both.error_code != INVALID_PARAMS or neither.error_code != INVALID_PARAMS:
            raise RuleBroken(f"both and neither were answered {both.error_code} and {neither.error_code}")
        if session.wire.answers(request_id):
            raise RuleBroken("a cancel that was refused ended the request")
        states = [await _state(session.wire, {"id": request_id})]
        final = await session.wire.answer(request_id, "the cancelled request had no final")
        if final.error_code != CANCELLED:
            raise RuleBroken(f"the cancelled request was answered with {final.message}"[:200])
    states += [await _state(session.wire, {"id": request_id}), await _state(session.wire, {"id": "never"})]
    if states != ["cancelling", "answered", "unknown"]:
        raise RuleBroken(f"in flight, answered, unknown: {states}")
    return ", ".join(states)


async def _state(wire: RawSocket, params: JsonObject) -> str:
    answer = await wire.ask("cancel", params)
    return str(answer.result.get("state")) if isinstance(answer.result, dict) else str(answer.message)


@CHECKS.check("CMD-6", "it reads on while a stream waits for credit")
async def reads_on(harness: AgentHarness) -> str:
    """Control passes what waits."""
    session = await harness.session()
    async with harness.running(session) as request_id:
        await session.wire.until(lambda: bool(session.data(request_id)), "nothing was streamed")
        for _ in range(10):
            await check_responsive(session)
    return "ten commands answered meanwhile"
