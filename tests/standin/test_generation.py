"""Timing, counts and contents of generations: what measurements are held against."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from obt_agent.config.schema import OllamaConfig
from obt_agent.errors import OllamaError, OllamaUnavailable
from obt_agent.ollama.client import OllamaClient
from obt_standin import Behaviour, Model, Script, Stall, StandIn, runner
from obt_standin.runner import LoadedModel
from obt_standin.script import Answer

PROMPT = "Explain what a context window is and how a server keeps it in memory."
MS = 1_000_000


def request(model: str = "standin-small", prompt: str = PROMPT, **fields: Any) -> bytes:
    return json.dumps({"model": model, "prompt": prompt, **fields}).encode()


async def generate(
    standin: StandIn, body: bytes | None = None, path: str = "/api/generate"
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines of a stream, and its last one."""
    async with (
        asyncio.timeout(30),
        OllamaClient(OllamaConfig(url=standin.url)) as client,
        client.stream(path, body or request()) as stream,
    ):
        lines = [json.loads(line.raw) async for batch in stream.batches() for line in batch]
        return lines, json.loads(stream.final.raw)


async def comes_true(holds: Callable[[], bool]) -> None:
    """Wait for what no event tells."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - it is the stand-in's inner state that is watched
            await asyncio.sleep(0)


def text(lines: list[dict[str, Any]]) -> str:
    return "".join(line["response"] for line in lines)


async def test_tokens_are_due_at_the_rate_and_never_written_before(standin: StandIn) -> None:
    standin.script.tokens, standin.script.decode_tps, standin.script.ttft_s = 21, 200.0, 0.03
    _, final = await generate(standin)
    exchange = standin.requests[-1]
    gaps = [b - a for a, b in zip(exchange.token_ns, exchange.token_ns[1:], strict=False)]
    assert gaps == [5 * MS] * 21  # the last one is the end of sequence, which counts and is not shown
    assert all(at >= due for (at, _), due in zip(exchange.writes, exchange.token_ns, strict=False))
    assert exchange.token_ns[0] >= exchange.began_ns + 30 * MS
    assert final["eval_duration"] == 105 * MS
    assert final["eval_count"] == exchange.eval_tokens == 22
    assert final["prompt_eval_duration"] == 30 * MS
    assert final["total_duration"] >= 135 * MS


async def test_one_token_counts_as_a_microsecond(standin: StandIn) -> None:
    _, final = await generate(standin, request(options={"num_predict": 1}))
    assert final["done_reason"] == "length"
    assert (final["eval_count"], final["eval_duration"]) == (1, 1000)


async def test_a_prompt_read_before_is_not_read_again_unless_the_cache_is_off(standin: StandIn) -> None:
    standin.script.prefill_tps, standin.script.tokens = 10_000.0, 2
    _, cold = await generate(standin)
    _, warm = await generate(standin)
    _, other = await generate(standin, request(prompt=f"nonce {PROMPT}"))
    assert cold["prompt_eval_count"] == warm["prompt_eval_count"]
    assert cold["prompt_eval_duration"] == pytest.approx(cold["prompt_eval_count"] / 10_000 * 1e9, abs=1000)
    assert warm["prompt_eval_duration"] < cold["prompt_eval_duration"] / 2
    assert other["prompt_eval_duration"] > cold["prompt_eval_duration"]
    standin.script.prompt_cache = False
    _, uncached = await generate(standin)
    assert uncached["prompt_eval_duration"] == cold["prompt_eval_duration"]
    assert [exchange.cached_tokens > 0 for exchange in standin.requests] == [False, True, False, False]


async def test_a_prompts_length_can_be_dictated(standin: StandIn) -> None:
    standin.script.prompt_tokens = 512
    _, final = await generate(standin)
    assert final["prompt_eval_count"] == 512


async def test_stalls_move_all_later_tokens(standin: StandIn) -> None:
    standin.script.tokens, standin.script.decode_tps, standin.script.stalls = 4, 1000.0, (Stall(2, 0.02),)
    await generate(standin)
    due = standin.requests[-1].token_ns
    assert [b - a for a, b in itertools.pairwise(due)] == [1 * MS, 21 * MS, 1 * MS, 1 * MS]


async def test_jitter_is_the_same_for_the_same_seed_and_does_not_accumulate(standin: StandIn) -> None:
    standin.script.tokens, standin.script.decode_tps, standin.script.jitter = 30, 1000.0, 0.5
    await generate(standin)
    await generate(standin)
    first, second = ([at - x.token_ns[0] for at in x.token_ns] for x in standin.requests)
    assert first == second
    late = [at - index * MS for index, at in enumerate(first)]
    assert all(0 <= value <= MS // 2 for value in late)
    assert len(set(late)) > 20


async def test_lines_can_hold_several_tokens_and_writes_several_lines(standin: StandIn) -> None:
    standin.script.numbered, standin.script.tokens = True, 10
    standin.script.tokens_per_line, standin.script.lines_per_write = 3, 2
    lines, final = await generate(standin)
    assert [line["response"] for line in lines] == [" 0 1 2", " 3 4 5", " 6 7 8", " 9"]
    assert final["eval_count"] == 11
    assert [data.count(b"\n") for _, data in standin.requests[-1].writes] == [2, 2, 1]


async def test_a_thinking_model_thinks_first_unless_asked_not_to(standin: StandIn) -> None:
    standin.script.thinking_tokens, standin.script.tokens, standin.script.tokens_per_line = 3, 8, 2
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "standin-think:8b", "messages": messages}
    lines, _ = await generate(standin, json.dumps(body).encode(), "/api/chat")
    thoughts = ["thinking" in line["message"] for line in lines]
    assert thoughts == [True, True, False, False, False]
    lines, _ = await generate(standin, json.dumps(body | {"think": False}).encode(), "/api/chat")
    assert not any("thinking" in line["message"] for line in lines)
    lines, _ = await generate(standin, request("standin-think:8b", think="high"))
    assert [bool(line.get("thinking")) for line in lines] == thoughts


async def test_num_predict_stop_sequences_and_formats_end_a_generation(standin: StandIn) -> None:
    lines, final = await generate(standin, request(options={"num_predict": 5}))
    assert (len(lines), final["done_reason"], final["eval_count"]) == (5, "length", 5)
    lines, final = await generate(standin, request(options={"stop": ["from"]}))
    assert (text(lines), final["done_reason"]) == ("These words come", "stop")
    lines, final = await generate(standin, request(format="json"))
    assert set(json.loads(text(lines))) == {"stand_in"}
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "integer"}},
            "b": {"enum": ["x", "y"]},
            "c": {"const": 3},
            "d": {"type": "null"},
            "e": {"type": "string"},
            "f": {"type": "boolean"},
        },
    }
    lines, final = await generate(standin, request(format=schema))
    expected = {"a": [1], "b": "x", "c": 3, "d": None, "e": "stand-in", "f": True}
    assert json.loads(text(lines)) == expected


async def test_answers_say_that_they_are_a_stand_ins(standin: StandIn) -> None:
    lines, _ = await generate(standin)
    assert "stand-in for Ollama" in text(lines)


async def test_one_slot_serves_one_after_the_other_and_the_wait_shows_only_in_the_total(
    standin: StandIn,
) -> None:
    # Half a second: on a busy machine the second request comes later than the first, but not that late.
    standin.script.tokens, standin.script.decode_tps = 11, 20.0
    (_, first), (_, second) = await asyncio.gather(generate(standin), generate(standin))
    spent = ("load_duration", "prompt_eval_duration", "eval_duration")
    unaccounted = sorted(
        final["total_duration"] - sum(final[part] for part in spent) for final in (first, second)
    )
    assert unaccounted[1] >= 50 * MS
    ends = sorted((exchange.token_ns[0], exchange.token_ns[-1]) for exchange in standin.requests)
    assert ends[1][0] >= ends[0][1]


async def test_several_slots_serve_side_by_side(standin: StandIn) -> None:
    standin.script.num_parallel, standin.script.tokens, standin.script.decode_tps = 2, 11, 20.0
    await asyncio.gather(generate(standin), generate(standin))
    first, second = (exchange.token_ns for exchange in standin.requests)
    assert first[0] < second[-1]
    assert second[0] < first[-1]


async def test_a_full_queue_of_loads_is_refused_with_503(standin: StandIn) -> None:
    standin.script.max_queue, standin.script.load_s, standin.script.tokens = 1, 0.5, 1
    models = ["standin-small", "standin-think:8b", "standin-small", "standin-think:8b", "standin-small"]
    results = await asyncio.gather(
        *(generate(standin, request(model)) for model in models), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, OllamaError)]
    assert {error.detail["status"] for error in refused} == {503}
    assert len(refused) == 3


async def test_loading_takes_its_time_once_and_again_when_the_context_changes(standin: StandIn) -> None:
    standin.script.load_s, standin.script.tokens = 0.3, 1
    durations = []
    for options in ({}, {}, {"num_ctx": 1024}, {"num_ctx": 1024}, {"num_ctx": 999_999}):
        _, final = await generate(standin, request(options=options))
        durations.append(final["load_duration"] >= 300 * MS)
    assert durations == [True, False, True, False, True]
    async with OllamaClient(OllamaConfig(url=standin.url)) as client:
        assert (await client.running()).models[0].context_length == 4096


async def test_two_cold_requests_at_once_load_once(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[LoadedModel] = []

    def load(*args: Any, **kwargs: Any) -> LoadedModel:
        loads.append(LoadedModel(*args, **kwargs))
        return loads[-1]

    monkeypatch.setattr(runner, "LoadedModel", load)
    standin.script.load_s, standin.script.tokens = 0.05, 1
    finals = await asyncio.gather(generate(standin), generate(standin))
    # Counted, and not told from the durations: on a busy machine the second request may come when the first
    # has loaded the model already.
    assert len(loads) == 1
    assert max(final["load_duration"] for _, final in finals) >= 50 * MS


async def test_a_model_is_unloaded_when_its_time_is_up(standin: StandIn) -> None:
    standin.script.tokens = 1
    async with asyncio.timeout(20), OllamaClient(OllamaConfig(url=standin.url)) as client:
        await generate(standin)
        assert len((await client.running()).models) == 1
        await generate(standin, request(keep_alive=0.02))
        await comes_true(lambda: not standin.runners.loaded())


async def test_a_model_in_use_is_unloaded_when_its_last_request_ends(standin: StandIn) -> None:
    standin.script.tokens, standin.script.decode_tps = 30, 30.0
    async with asyncio.timeout(20), OllamaClient(OllamaConfig(url=standin.url)) as client:
        running = asyncio.create_task(generate(standin))
        await standin.wait_for(lambda ollama: bool(ollama.requests))
        await comes_true(standin.runners.busy)
        await client.unload("standin-small")
        assert len((await client.running()).models) == 1
        lines, _ = await running
        assert len(lines) == 30
        assert (await client.running()).models == ()


async def test_a_killed_runner_stays_listed_and_the_next_request_loads_again(standin: StandIn) -> None:
    standin.script.load_s = 0.02
    async with OllamaClient(OllamaConfig(url=standin.url)) as client:
        await generate(standin)
        standin.kill_runner("nosuch:latest")
        _, warm = await generate(standin)
        standin.kill_runner("standin-small:latest")
        assert len((await client.running()).models) == 1
        _, again = await generate(standin)
    assert (warm["load_duration"], again["load_duration"] >= 20 * MS) == (1000, True)


async def test_a_runner_killed_during_prefill_or_an_unstreamed_answer_is_a_500(standin: StandIn) -> None:
    standin.script.ttft_s = 60
    for body in (request(), request(stream=False)):
        task = asyncio.create_task(generate(standin, body))
        await standin.wait_for(lambda ollama: ollama.open_streams == 1)
        await comes_true(standin.runners.busy)
        standin.kill_runner()
        with pytest.raises(OllamaError) as caught:
            await task
        assert caught.value.detail["status"] == 500
    standin.script.ttft_s, standin.script.decode_tps, standin.script.tokens = None, 1.0, 60
    task = asyncio.create_task(generate(standin, request(stream=False)))
    await standin.wait_for(lambda ollama: ollama.open_streams == 1)
    await comes_true(lambda: bool(standin.requests[-1].token_ns))
    standin.kill_runner()
    with pytest.raises(OllamaError):
        await task


async def test_a_client_that_leaves_frees_the_slot(standin: StandIn) -> None:
    standin.script.tokens, standin.script.decode_tps = 10_000, 1000.0
    async with asyncio.timeout(20), OllamaClient(OllamaConfig(url=standin.url)) as client:
        async with client.stream("/api/generate", request()) as stream:
            async for _ in stream.batches():
                break
        waiting = asyncio.create_task(generate(standin))
        await standin.wait_for(lambda ollama: len(ollama.requests) == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        standin.script.tokens = 2
        lines, _ = await generate(standin)
    assert len(lines) == 2
    assert [exchange.ended for exchange in standin.requests] == ["client_closed", "client_closed", "complete"]


async def test_behaviours_for_once_are_used_up_in_order(standin: StandIn) -> None:
    standin.script.once = [Behaviour(tokens=1), Behaviour(tokens=2)]
    standin.script.tokens = 5
    assert [len((await generate(standin))[0]) for _ in range(3)] == [1, 2, 5]


@pytest.mark.parametrize("answer", ["html", "reset", "garbage", "busy"])
async def test_one_generation_can_be_met_strangely_while_all_else_answers(
    answer: Answer, standin: StandIn
) -> None:
    standin.script.once = [Behaviour(answer=answer)]
    async with OllamaClient(OllamaConfig(url=standin.url), attempts=1) as client:
        assert await client.version()
        with pytest.raises(OllamaError):
            await generate(standin)
        assert await client.version()
    assert len((await generate(standin))[0]) == 64


async def test_a_model_can_have_a_behaviour_of_its_own() -> None:
    models = [Model(name="slow:latest", behaviour=Behaviour(tokens=2)), Model(name="other:latest")]
    async with StandIn(Script(models=models, tokens=7)) as standin:
        assert len((await generate(standin, request("slow")))[0]) == 2
        assert len((await generate(standin, request("other")))[0]) == 7


async def test_the_fast_way_sends_every_token_in_order_and_logs_only_the_end(standin: StandIn) -> None:
    standin.script.fast, standin.script.numbered = True, True
    standin.script.tokens, standin.script.fast_block_lines = 2001, 100
    lines, final = await generate(standin)
    assert text(lines) == "".join(f" {number}" for number in range(2001))
    assert final["eval_count"] == 2002
    assert len(standin.requests[-1].writes) == 1


async def test_it_stops_as_a_stopped_ollama_and_starts_on_the_same_port(standin: StandIn) -> None:
    port = standin.port
    await standin.stop()
    await standin.stop()
    with pytest.raises(OllamaUnavailable):
        async with OllamaClient(OllamaConfig(url=standin.url), attempts=1) as client:
            await client.version()
    await standin.start()
    assert standin.port == port
    assert len((await generate(standin))[0]) == 64
    assert standin.open_streams == 0
    assert sum(len(writes) for writes in standin.log) == len(standin.requests[-1].writes)
    assert standin.requests[-1].sent.endswith(b"}\n")


async def test_a_stream_without_a_final_line_in_one_piece_is_not_done(standin: StandIn) -> None:
    standin.script.ending = "no_final_line"
    async with OllamaClient(OllamaConfig(url=standin.url)) as client:
        with pytest.raises(OllamaError):
            await client.call("/api/generate", request(stream=False))
