"""The dispatcher against a session double: one final each, limits, cancellation, the end of a session."""

import asyncio
import base64
import functools
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from obt_agent.command import Command, CommandContext
from obt_agent.dispatcher import Dispatcher
from obt_agent.dispatcher.core import DispatchLimits
from obt_agent.errors import InvalidParams, LinkLost, ModelNotFound
from obt_agent.handlers import cancel
from obt_agent.policy import Policy
from obt_agent.protocol.commands import CancelResult, DoneResult, InferenceParams, LoadResult
from obt_agent.protocol.envelope import Notification, RequestId
from obt_agent.protocol.methods import METHODS, Method
from obt_agent.protocol.streams import SeriesFinal
from tests.dispatcher.doubles import FakeSession, permissive, request
from tests.effort import examples
from tests.policy.configs import config
from tests.waiting import until


class FakeJobs:
    """Jobs that are all completed."""

    async def cancel(self, job_id: str) -> str:
        return "completed"


def command(
    method: str, run: Callable[[Any, CommandContext], Awaitable[Any]], shape: Any = "request"
) -> Command:
    return Command(Method(method, "server", shape, InferenceParams), run)


def dispatcher(*commands: Command, policy: Policy | None = None, **bounds: Any) -> Dispatcher:
    services: Any = SimpleNamespace(jobs=FakeJobs())
    table = (*commands, Command(METHODS["cancel"], functools.partial(cancel.run, services)))
    return Dispatcher(table, policy or permissive(), bounds=DispatchLimits(**bounds))


class Gate:
    """A handler that waits until it is opened, and says whether it was cancelled."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.running = 0

    async def __call__(self, params: Any, context: CommandContext) -> DoneResult:
        self.running += 1
        self.entered.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1
        return DoneResult()


async def done(params: Any, context: CommandContext) -> DoneResult:
    return DoneResult()


async def test_a_command_is_answered_with_its_handlers_result() -> None:
    session = FakeSession()
    dispatcher(command("embed", done)).on_request(session, request(1, "embed", model="tiny"))
    assert await session.result(1) == {"done": True}


@pytest.mark.parametrize(("shape", "stream"), [("request", {}), ("stream", {"stream_id": 7})])
async def test_what_a_command_logs_carries_its_request_and_its_stream(
    shape: str, stream: dict[str, int]
) -> None:
    seen = []

    async def look(params: Any, context: CommandContext) -> DoneResult:
        seen.append(structlog.contextvars.get_contextvars())
        return DoneResult()

    session = FakeSession()
    dispatcher(command("embed", look, shape)).on_request(session, request(7, "embed", model="tiny"))
    await session.result(7)
    assert seen == [{"request_id": 7, "method": "embed", **stream}]
    assert structlog.contextvars.get_contextvars() == {}


async def test_ids_1_and_text_1_are_two_requests() -> None:
    session = FakeSession()
    desk = dispatcher(command("embed", done))
    desk.on_request(session, request(1, "embed", model="tiny"))
    desk.on_request(session, request("1", "embed", model="tiny"))
    assert await session.result(1) == await session.result("1") == {"done": True}


async def test_an_unknown_method_is_refused_with_the_nearest_one() -> None:
    session = FakeSession()
    dispatcher(command("generate", done)).on_request(session, request(1, "genrate", model="tiny"))
    error = await session.error(1)
    assert error.code == -32601
    assert "'generate'" in error.message


async def test_a_huge_unknown_method_is_answered_with_a_short_message() -> None:
    session = FakeSession()
    dispatcher(command("generate", done)).on_request(session, request(1, "x" * 500_000))
    assert len((await session.error(1)).message) < 200


async def test_wrong_parameters_are_refused_with_the_path_of_the_field() -> None:
    session = FakeSession()
    desk = dispatcher(command("embed", done))
    desk.on_request(session, request(1, "embed", model=7))
    desk.on_request(session, request(2, "embed"))
    first, second = await session.error(1), await session.error(2)
    assert first.code == second.code == -32602
    assert "params.model" in first.message
    assert "model" in second.message


async def test_a_handlers_own_error_crosses_the_wire_with_its_kind() -> None:
    async def missing(params: Any, context: CommandContext) -> None:
        raise ModelNotFound("Ollama has no such model; pull it first.", model="tiny")

    session = FakeSession()
    dispatcher(command("embed", missing)).on_request(session, request(1, "embed", model="tiny"))
    error = await session.error(1)
    assert (error.code, error.message) == (-32002, "Ollama has no such model; pull it first.")


async def test_an_unforeseen_error_is_internal_and_its_text_stays_here() -> None:
    async def broken(params: Any, context: CommandContext) -> None:
        raise RuntimeError("the canary-secret is in /etc/shadow")

    session = FakeSession()
    dispatcher(command("embed", broken)).on_request(session, request(1, "embed", model="tiny"))
    error = await session.error(1)
    assert error.code == -32603
    assert "canary" not in msgspec.json.encode(error).decode()


async def test_a_command_cancelled_before_its_first_step_gets_its_final() -> None:
    session = FakeSession()
    desk = dispatcher(command("embed", done))
    desk.on_request(session, request(1, "embed", model="tiny"))
    desk.session_ended(FakeSession(9))  # another one: nothing happens
    await desk.close()  # stops it before the event loop has turned once
    assert await session.kind(1) == "cancelled"


async def test_cancel_ends_a_request_with_exactly_one_final() -> None:
    session, gate = FakeSession(), Gate()
    desk = dispatcher(command("embed", gate))
    desk.on_request(session, request(1, "embed", model="tiny"))
    await gate.entered.wait()
    desk.on_request(session, request(2, "cancel", id=1))
    assert await session.result(2) == {"state": "cancelling"}
    assert await session.kind(1) == "cancelled"
    assert gate.cancelled.is_set()
    desk.on_request(session, request(3, "cancel", id=1))
    assert await session.result(3) == {"state": "answered"}


async def test_cancel_tells_unknown_ids_from_answered_ones_and_remembers_1024() -> None:
    session = FakeSession()
    desk = dispatcher(command("embed", done))
    for number in range(1030):
        desk.on_request(session, request(number, "embed", model="tiny"))
        await session.answer(number)
    desk.on_request(session, request("a", "cancel", id=0))
    desk.on_request(session, request("b", "cancel", id=1029))
    desk.on_request(session, request("c", "cancel", id="never"))
    assert await session.result("a") == {"state": "unknown"}
    assert await session.result("b") == {"state": "answered"}
    assert await session.result("c") == {"state": "unknown"}


@pytest.mark.parametrize("params", [{}, {"id": 1, "job_id": "j"}])
async def test_cancel_takes_exactly_one_of_id_and_job_id(params: dict[str, Any]) -> None:
    session = FakeSession()
    dispatcher().on_request(session, request("c", "cancel", **params))
    assert await session.kind("c") == "invalid_params"


async def test_cancel_of_a_job_asks_the_jobs() -> None:
    session = FakeSession()
    dispatcher().on_request(session, request("c", "cancel", job_id="j"))
    assert await session.result("c") == {"state": "completed"}


async def test_a_cancel_cannot_cancel_itself() -> None:
    session = FakeSession()
    dispatcher().on_request(session, request("c", "cancel", id="c"))
    assert await session.result("c") == {"state": "unknown"}


async def test_cancelling_a_live_series_is_success_with_its_interval() -> None:
    async def watch(params: Any, context: CommandContext) -> SeriesFinal:
        context.series_interval(500)
        await context.stream.send_latest(b"{}", t_us=1, n=1, missed=0)
        await asyncio.Event().wait()
        raise AssertionError

    session = FakeSession()
    desk = dispatcher(command("hardware_watch", watch, "series"))
    desk.on_request(session, request(1, "hardware_watch", model="x"))
    await until(lambda: 1 in session.streams)
    await session.streams[1].has(1)
    desk.on_request(session, request(2, "cancel", id=1))
    assert await session.result(1) == {"interval_ms": 500, "stream": {"next_seq": 1, "dropped": 0}}


async def test_a_series_cancelled_before_it_began_is_success_too() -> None:
    session, gate = FakeSession(), Gate()
    desk = dispatcher(command("hardware_watch", gate, "series"))
    desk.on_request(session, request(1, "hardware_watch", model="x"))
    await gate.entered.wait()
    desk.on_request(session, request(2, "cancel", id=1))
    assert await session.result(1) == {"interval_ms": None, "stream": {"next_seq": 0, "dropped": 0}}


async def test_an_error_of_a_stream_says_how_far_it_came() -> None:
    async def breaks(params: Any, context: CommandContext) -> None:
        await context.stream.send([(1, [b"{}"])])
        raise ModelNotFound("gone")

    session = FakeSession()
    dispatcher(command("generate", breaks, "stream")).on_request(session, request(1, "generate", model="x"))
    error = await session.error(1)
    assert error.data is not None
    assert error.data.stream is not None
    assert error.data.stream.next_seq == 1


async def test_an_id_that_is_used_anew_stops_the_command_that_had_it_and_answers_the_new_one() -> None:
    """The session answered the first for want of credit, and forgot it; its handler has not noticed yet."""
    session, first = FakeSession(), Gate()
    desk = dispatcher(command("embed", first), command("generate", done))
    desk.on_request(session, request(1, "embed", model="tiny"))
    await first.entered.wait()
    desk.on_request(session, request(1, "generate", model="tiny"))
    await first.cancelled.wait()
    assert await session.result(1) == {"done": True}
    assert desk.in_flight == 0


async def test_streams_over_the_owners_limit_are_busy_and_name_the_key() -> None:
    session, gate = FakeSession(), Gate()
    desk = dispatcher(command("generate", gate, "stream"), policy=permissive(max_streams=2))
    for number in range(3):
        desk.on_request(session, request(number, "generate", model="tiny"))
    error = await session.error(2)
    assert error.data is not None
    assert (error.data.kind, error.data.detail["policy_key"]) == ("busy", "policy.max_streams")
    assert desk.streams == 2
    gate.open.set()
    assert await session.result(0) == {"done": True}


async def test_the_rate_limit_refuses_with_a_time_and_the_key() -> None:
    session = FakeSession()
    desk = dispatcher(command("embed", done), policy=permissive(rate_limit=6))
    desk.on_request(session, request(1, "embed", model="tiny"))
    desk.on_request(session, request(2, "embed", model="tiny"))
    assert await session.result(1) == {"done": True}
    error = await session.error(2)
    assert error.data is not None
    assert error.data.detail["policy_key"] == "policy.rate_limit"
    assert error.data.retry_after_ms is not None
    assert 0 < error.data.retry_after_ms <= 10_001


async def test_a_policy_that_changes_meanwhile_rules_the_next_command() -> None:
    session, policy = FakeSession(), permissive()
    desk = dispatcher(command("embed", done), policy=policy)
    policy.adopt(config(rate_limit=6))
    desk.on_request(session, request(1, "embed", model="tiny"))
    desk.on_request(session, request(2, "embed", model="tiny"))
    assert (await session.result(1), await session.kind(2)) == ({"done": True}, "busy")
    policy.adopt(config(rate_limit=None, commands={"deny": ["embed"]}))
    desk.on_request(session, request(3, "embed", model="tiny"))
    assert await session.kind(3) == "not_permitted"


async def test_a_command_that_the_owner_denies_never_runs() -> None:
    session, gate = FakeSession(), Gate()
    desk = dispatcher(command("embed", gate), policy=permissive(commands={"deny": ["embed"]}))
    desk.on_request(session, request(1, "embed", model="tiny"))
    error = await session.error(1)
    assert error.data is not None
    assert error.data.detail["policy_key"] == "policy.commands.deny"
    assert not gate.entered.is_set()


async def test_a_command_over_the_owners_time_ends_with_timeout() -> None:
    session, gate = FakeSession(), Gate()
    desk = dispatcher(command("embed", gate), policy=permissive(max_seconds=0.01))
    desk.on_request(session, request(1, "embed", model="tiny"))
    error = await session.error(1)
    assert error.data is not None
    assert (error.data.kind, error.data.detail["policy_key"]) == ("timeout", "policy.max_seconds")
    await gate.cancelled.wait()


async def test_the_end_of_a_session_stops_all_its_commands_and_no_others() -> None:
    lost, kept, gate = FakeSession(1), FakeSession(2), Gate()
    desk = dispatcher(command("embed", gate))
    for number in range(3):
        desk.on_request(lost, request(number, "embed", model="tiny"))
    desk.on_request(kept, request(0, "embed", model="tiny"))
    await gate.entered.wait()
    lost.alive = False
    desk.session_ended(lost)
    await gate.cancelled.wait()
    await until(lambda: gate.running == 1)
    assert lost.answers == {}
    gate.open.set()
    assert await kept.result(0) == {"done": True}


async def test_an_answer_that_nobody_hears_any_more_is_no_fault() -> None:
    session, gate = FakeSession(), Gate()
    desk = dispatcher(command("embed", gate))
    desk.on_request(session, request(1, "embed", model="tiny"))
    await gate.entered.wait()
    session.alive = False
    gate.open.set()
    await until(lambda: not gate.running and not desk.in_flight)
    desk.on_request(session, request(2, "nonsense"))
    assert session.answers == {}


async def test_a_handler_that_does_not_stop_is_answered_for() -> None:
    release = asyncio.Event()

    async def stubborn(params: Any, context: CommandContext) -> DoneResult:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return DoneResult()

    session = FakeSession()
    desk = dispatcher(command("embed", stubborn), stop_within_s=0.01)
    desk.on_request(session, request(1, "embed", model="tiny"))
    await asyncio.sleep(0)
    desk.on_request(session, request(2, "cancel", id=1))
    assert await session.kind(1) == "cancelled"
    release.set()
    await desk.close()
    assert desk.in_flight == 0
    assert session.doubled == []


async def test_a_result_that_came_despite_a_cancel_is_the_final() -> None:
    session, gate = FakeSession(), Gate()

    async def finishes(params: Any, context: CommandContext) -> DoneResult:
        try:
            return await gate(params, context)
        except asyncio.CancelledError:
            return DoneResult()

    desk = dispatcher(command("embed", finishes))
    desk.on_request(session, request(1, "embed", model="tiny"))
    await gate.entered.wait()
    desk.on_request(session, request(2, "cancel", id=1))
    assert await session.result(1) == {"done": True}


async def test_an_error_while_stopping_does_not_hide_why_it_was_stopped() -> None:
    session, gate = FakeSession(), Gate()

    async def trips(params: Any, context: CommandContext) -> DoneResult:
        try:
            return await gate(params, context)
        except asyncio.CancelledError:
            raise LinkLost("tripped") from None

    desk = dispatcher(command("embed", trips))
    desk.on_request(session, request(1, "embed", model="tiny"))
    await gate.entered.wait()
    desk.on_request(session, request(2, "cancel", id=1))
    assert await session.kind(1) == "cancelled"


async def test_closing_answers_what_runs_and_refuses_what_comes() -> None:
    session, gate = FakeSession(), Gate()
    desk = dispatcher(command("embed", gate))
    desk.on_request(session, request(1, "embed", model="tiny"))
    await gate.entered.wait()
    await desk.close()
    assert await session.kind(1) == "cancelled"
    desk.on_request(session, request(2, "embed", model="tiny"))
    assert await session.kind(2) == "busy"


async def test_a_task_that_something_else_cancels_still_gets_its_final() -> None:
    session, gate = FakeSession(), Gate()
    desk = dispatcher(command("embed", gate))
    desk.on_request(session, request(1, "embed", model="tiny"))
    await gate.entered.wait()
    next(task for task in asyncio.all_tasks() if task.get_name().startswith("command embed")).cancel()
    assert await session.kind(1) == "cancelled"


async def test_unknown_notifications_are_ignored() -> None:
    dispatcher().on_notification(FakeSession(), Notification("nonsense", msgspec.Raw(b"{}")))


async def test_tasks_carry_the_name_of_their_command() -> None:
    session, gate = FakeSession(7), Gate()
    desk = dispatcher(command("embed", gate))
    desk.on_request(session, request("x", "embed", model="tiny"))
    await gate.entered.wait()
    assert "command embed x of session 7" in {task.get_name() for task in asyncio.all_tasks()}
    await desk.close()


def put(blob: str, data: bytes, offset: int = 0, *, last: bool = True) -> dict[str, Any]:
    return {"blob": blob, "offset": offset, "data": base64.b64encode(data).decode(), "last": last}


async def test_a_blob_put_in_pieces_reaches_a_handler_of_its_session_only() -> None:
    seen: list[bytes] = []

    async def looks(params: Any, context: CommandContext) -> DoneResult:
        seen.append(context.blob("b"))
        return DoneResult()

    session, other = FakeSession(1), FakeSession(2)
    desk = dispatcher(command("generate", looks, "stream"))
    desk.on_request(session, request(1, "blob.put", **put("b", b"one ", last=False)))
    desk.on_request(session, request(2, "blob.put", **put("b", b"two", 4)))
    assert await session.result(2) == {"blob": "b", "bytes": 7}
    desk.on_request(session, request(3, "generate", model="x"))
    assert await session.result(3) == {"done": True}
    assert seen == [b"one two"]
    desk.on_request(other, request(3, "generate", model="x"))
    assert await other.kind(3) == "invalid_params"
    desk.session_ended(session)


@settings(max_examples=examples(60), deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from("rcsof"), st.integers(0, 7)), max_size=40))
def test_whatever_comes_each_request_has_exactly_one_final(steps: list[tuple[str, int]]) -> None:
    """R request, c cancel, s step of the loop, o a handler ends, f a handler fails."""

    async def play() -> None:
        session = FakeSession()
        waiting: dict[int, asyncio.Future[DoneResult]] = {}

        async def handler(params: Any, context: CommandContext) -> DoneResult:
            future: asyncio.Future[DoneResult] = asyncio.get_running_loop().create_future()
            waiting[int(context.request_id)] = future
            return await future

        desk = dispatcher(command("embed", handler))
        sent, cancels = 0, 0
        for what, number in steps:
            if what == "r":
                desk.on_request(session, request(sent, "embed", model="x"))
                sent += 1
            elif what == "c":
                desk.on_request(session, request(f"c{cancels}", "cancel", id=number))
                cancels += 1
            elif what == "s":
                await asyncio.sleep(0)
            elif (future := waiting.get(number)) is not None and not future.done():
                future.set_result(DoneResult()) if what == "o" else future.set_exception(InvalidParams("no"))
        await desk.close()
        assert set(session.answers) == set(range(sent)) | {f"c{n}" for n in range(cancels)}
        assert all(isinstance(session.answers[f"c{n}"], CancelResult) for n in range(cancels))
        assert desk.in_flight == 0
        assert session.doubled == []

    asyncio.run(asyncio.wait_for(play(), 20))


async def test_a_result_that_no_frame_can_hold_is_answered_with_an_error_all_the_same() -> None:
    async def unspeakable(params: Any, context: CommandContext) -> LoadResult:
        return LoadResult(model="\udcff", loaded=True, wall_ms=1.0)

    class Encoding(FakeSession):
        def respond(self, id: RequestId, result: Any) -> None:
            msgspec.json.encode(result)
            super().respond(id, result)

    session = Encoding()
    dispatcher(command("load_model", unspeakable)).on_request(session, request(1, "load_model", model="m"))
    assert await session.kind(1) == "internal"
    assert not session.doubled
