"""What the stand-in does not answer, translated: log probabilities, mixed chunks, cut calls."""

import json
from typing import Any

import msgspec

from obt_server.gateway.openai_answers import (
    ChatCompletion,
    ChatCompletionStream,
    OllamaAnswer,
    unix,
)
from obt_server.gateway.openai_requests import ChatCompletionRequest, chat_params
from tests.recordings import recordings

PROBABILITIES = [{"token": "p", "logprob": -5.158446311950684, "bytes": [112], "top_logprobs": []}]


def answer(**fields: Any) -> OllamaAnswer:
    body = {"model": "m", "created_at": "2026-11-22T13:49:04.731762517Z"} | fields
    return msgspec.json.decode(msgspec.json.encode(body), type=OllamaAnswer)


def streamed(*chunks: OllamaAnswer, include_usage: bool = False) -> list[dict[str, Any]]:
    stream = ChatCompletionStream(include_usage=include_usage)
    text = b"".join(stream.events(chunk) for chunk in chunks).decode()
    return [json.loads(one[6:]) for one in text.split("\n\n") if one and "[DONE]" not in one]


def said(**message: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": ""} | message}


def test_log_probabilities_are_asked_for_and_passed_on() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 2}
    params = chat_params(msgspec.convert(body, ChatCompletionRequest))
    assert (params["logprobs"], params["top_logprobs"]) == (True, 2)
    chunk = answer(**said(content="p"), logprobs=PROBABILITIES)
    (event,) = streamed(chunk)
    assert event["choices"][0]["logprobs"] == {"content": PROBABILITIES}
    whole = json.loads(msgspec.json.encode(ChatCompletion().whole(chunk)))
    assert whole["choices"][0]["logprobs"] == {"content": PROBABILITIES}
    (plain,) = streamed(answer(**said(content="p")))
    assert "logprobs" not in plain["choices"][0]


def test_a_chunk_that_thinks_and_says_becomes_two() -> None:
    first, second = streamed(answer(**said(content="so", thinking="hm"), logprobs=PROBABILITIES))
    assert first["choices"][0]["delta"] == {"role": "assistant", "reasoning": "hm"}
    assert second["choices"][0]["delta"] == {"content": "so"}
    assert "logprobs" not in second["choices"][0]


def test_an_answer_that_was_cut_off_has_not_called_to_the_end() -> None:
    calls = [{"function": {"index": 0, "name": "f", "arguments": {"a": 1}}}]
    for reason, becomes in (("stop", "tool_calls"), ("length", "length")):
        made = streamed(answer(**said(tool_calls=calls)), answer(**said(), done=True, done_reason=reason))
        assert made[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": becomes}
        whole = ChatCompletion().whole(answer(**said(tool_calls=calls), done=True, done_reason=reason))
        assert whole["choices"][0]["finish_reason"] == becomes
        (call,) = whole["choices"][0]["message"]["tool_calls"]
        assert call["id"].startswith("call_"), "an older Ollama gives none"
        assert call["function"]["arguments"] == '{"a":1}'


def test_an_answer_of_nothing_still_begins_with_the_role() -> None:
    first, last, counts = streamed(
        answer(**said(), done=True, done_reason="stop", eval_count=0), include_usage=True
    )
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert counts["choices"] == []


def test_times_are_those_of_ollama() -> None:
    assert unix("2026-11-22T13:49:04.731762517Z") == 1795355344
    assert unix("2026-11-22T14:49:04+01:00") == 1795355344
    assert unix("yesterday") is None
    assert streamed(answer(**said(content="x")))[0]["created"] == 1795355344


def test_recorded_chunks_of_a_call_are_translated() -> None:
    lines = recordings()["chat-tools-stream"].response.splitlines()
    made = streamed(*(msgspec.json.decode(line, type=OllamaAnswer) for line in lines))
    (call,) = made[0]["choices"][0]["delta"]["tool_calls"]
    assert (call["id"], call["function"]) == (
        "call_8426bbx5",
        {"name": "get_weather", "arguments": '{"city":"Paris"}'},
    )
    assert made[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_efforts_beyond_ollamas_are_the_nearest_that_it_has() -> None:
    for effort, think in (("none", False), ("minimal", "low"), ("xhigh", "max"), ("medium", "medium")):
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "reasoning": {"effort": effort}}
        asked = msgspec.convert(body, ChatCompletionRequest)
        assert chat_params(asked)["think"] == think
