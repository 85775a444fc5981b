"""OpenAI's API through the gateway, a real agent and a stand-in, in the forms of Ollama's own layer."""

import asyncio
import base64
import json
import struct
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import EMBEDS, MODEL, THINKS, Here
from tests.recordings import recordings
from tests.standin.test_recordings import shape

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "the weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
PIXEL = base64.b64encode(b"\x89PNG not really").decode()


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The data of each event; the last one must be the end."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    *data, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(one.startswith("data: ") for one in data)
    return [json.loads(one[6:]) for one in data]


async def sent(here: Here, path: str = "/api/chat") -> dict[str, Any]:
    """What reached Ollama last."""
    body: dict[str, Any] = json.loads(here.asked(path)[-1].body)
    return body


async def test_a_chat_is_answered_whole(here: Here) -> None:
    here.standin.script.text, here.standin.script.tokens = (" blue",), 3
    answer = await here.http.post("/v1/chat/completions", json=ASK)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    made = answer.json()
    assert made["object"] == "chat.completion"
    assert made["model"] == MODEL
    assert made["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": " blue" * 3}, "finish_reason": "stop"}
    ]
    counts = made["usage"]
    assert counts["completion_tokens"] == 4, "the end is one"
    assert counts["total_tokens"] == counts["prompt_tokens"] + 4


async def test_a_chat_is_streamed_as_the_recorded_ollama_streams_it(here: Here) -> None:
    recording = recordings()["openai-chat-stream"]
    asked = json.loads(recording.request) | {"model": MODEL}
    here.standin.script.tokens = 40
    made = events(await here.http.post("/v1/chat/completions", json=asked))
    recorded = [json.loads(one[6:]) for one in recording.response.decode().split("\n\n")[:-2]]
    # The first says the role, the last two the reason and the counts; all others are alike.
    for mine, theirs in ((0, 0), (1, 1), (-2, -2), (-1, -1)):
        assert shape(made[mine]) == shape(recorded[theirs])
        assert made[mine]["choices"][:0] == recorded[theirs]["choices"][:0]
    assert made[-2]["choices"][0]["finish_reason"] == "length"
    assert made[-1]["usage"]["completion_tokens"] == 8
    assert len({(one["id"], one["created"]) for one in made}) == 1
    assert "usage" not in made[0]


async def test_the_recorded_refusal_and_list_are_the_same(here: Here) -> None:
    recording = recordings()["openai-unknown-model"]
    answer = await here.http.post(recording.path, content=recording.request)
    assert (answer.status_code, answer.json()) == (recording.status, json.loads(recording.response))
    recorded = json.loads(recordings()["openai-models"].response)
    listed = (await here.http.get("/v1/models")).json()
    assert shape(listed) == shape(recorded)
    one = (await here.http.get(f"/v1/models/{THINKS}")).json()
    assert one in listed["data"]
    assert (await here.http.get("/v1/models/nosuch")).status_code == 404


async def test_without_include_usage_a_stream_has_no_counts(here: Here) -> None:
    made = events(await here.http.post("/v1/chat/completions", json=ASK | {"stream": True}))
    assert made[-1]["choices"][0]["finish_reason"] == "stop"
    assert not [one for one in made if "usage" in one]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called(here: Here, *, stream: bool) -> None:
    here.standin.script.tool_call = True
    asked = ASK | {"model": THINKS, "tools": TOOLS, "stream": stream, "reasoning_effort": "none"}
    answer = await here.http.post("/v1/chat/completions", json=asked)
    if stream:
        made = events(answer)
        calls = [call for one in made for call in one["choices"][0]["delta"].get("tool_calls", ())]
        reason = made[-1]["choices"][0]["finish_reason"]
    else:
        (choice,) = answer.json()["choices"]
        calls, reason = choice["message"]["tool_calls"], choice["finish_reason"]
    (call,) = calls
    assert reason == "tool_calls"
    assert (call["type"], call["index"], call["function"]["name"]) == ("function", 0, "get_weather")
    assert call["id"]
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    body = await sent(here)
    assert body["tools"] == TOOLS


async def test_a_tools_answer_goes_back_by_its_name(here: Here) -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'},
    }
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    answer = await here.http.post("/v1/chat/completions", json=ASK | {"model": THINKS, "messages": messages})
    assert answer.status_code == 200
    _, asked, told = (await sent(here))["messages"]
    assert asked["tool_calls"] == [
        {"id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    ]
    assert (told["tool_name"], told["tool_call_id"], told["content"]) == ("get_weather", "c1", "sunny")


async def test_thoughts_are_reasoning_and_no_content(here: Here) -> None:
    script = here.standin.script
    script.tokens, script.thinking_tokens, script.numbered = 5, 2, True
    asked = ASK | {"model": THINKS, "reasoning_effort": "high"}
    message = (await here.http.post("/v1/chat/completions", json=asked)).json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == (" 0 1", " 2 3 4")
    made = events(await here.http.post("/v1/chat/completions", json=asked | {"stream": True}))
    deltas = [one["choices"][0]["delta"] for one in made]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == " 0 1"
    assert "".join(delta.get("content", "") for delta in deltas) == " 2 3 4"
    assert (await sent(here))["think"] == "high"


async def test_sampling_options_are_ollamas(here: Here) -> None:
    named = {
        "max_tokens": 7,
        "seed": 5,
        "stop": "END",
        "temperature": 0.25,
        "top_p": 0.5,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
    }
    await here.http.post("/v1/chat/completions", json=ASK | named)
    options = (await sent(here))["options"]
    expected = named | {"num_predict": 7, "stop": ["END"]}
    del expected["max_tokens"]
    assert options == expected
    await here.http.post("/v1/chat/completions", json=ASK | {"max_completion_tokens": 3})
    options = (await sent(here))["options"]
    assert (options["num_predict"], options["temperature"], options["top_p"]) == (3, 1.0, 1.0)
    assert "frequency_penalty" not in options


@pytest.mark.parametrize(
    ("wanted", "becomes"),
    [
        ({"type": "json_object"}, "json"),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            {"type": "object"},
        ),
        ({"type": "text"}, None),
    ],
)
async def test_a_response_format_is_ollamas_format(here: Here, wanted: Any, becomes: Any) -> None:
    answer = await here.http.post("/v1/chat/completions", json=ASK | {"response_format": wanted})
    assert answer.status_code == 200
    assert (await sent(here)).get("format") == becomes


async def test_images_come_as_data_urls_and_are_never_fetched(here: Here) -> None:
    def asked(url: Any) -> dict[str, Any]:
        content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": url}]
        return ASK | {"messages": [{"role": "user", "content": content}]}

    data = f"data:image/png;base64,{PIXEL}"
    url: Any
    for url in ({"url": data}, data, f"data:;base64,{PIXEL}"):
        await here.http.post("/v1/chat/completions", json=asked(url))
        first, second = (await sent(here))["messages"]
        assert (first["content"], second["images"]) == ("what?", [PIXEL])
    before = len(here.asked("/api/chat"))
    none: list[Any] = [
        {"url": "http://127.0.0.1/x.png"},
        {"url": "data:text/html;base64,eA=="},
        {"url": 5},
        data + "!",
    ]
    for url in none:
        refused = await here.http.post("/v1/chat/completions", json=asked(url))
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert len(here.asked("/api/chat")) == before


async def test_an_image_larger_than_a_frame_of_the_link_arrives_whole(here: Here) -> None:
    image = base64.b64encode(bytes(range(256)) * 8000).decode()
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}]
    await here.http.post(
        "/v1/chat/completions", json=ASK | {"messages": [{"role": "user", "content": content}]}
    )
    assert (await sent(here))["messages"][0]["images"] == [image]


async def test_completions_come_whole_and_as_a_stream(here: Here) -> None:
    script = here.standin.script
    script.tokens, script.numbered = 3, True
    asked = {"model": MODEL, "prompt": "x", "max_tokens": 3, "stop": ["a", "b"]}
    made = (await here.http.post("/v1/completions", json=asked)).json()
    assert made["object"] == "text_completion"
    assert made["choices"][0]["text"] == " 0 1 2"
    assert made["usage"]["completion_tokens"] == 3
    assert (await sent(here, "/api/generate"))["options"]["stop"] == ["a", "b"]
    streamed = events(
        await here.http.post(
            "/v1/completions", json=asked | {"stream": True, "stream_options": {"include_usage": True}}
        )
    )
    assert "".join(one["choices"][0]["text"] for one in streamed[:-1]) == " 0 1 2"
    assert streamed[-2]["choices"][0]["finish_reason"]
    assert (streamed[-1]["choices"], streamed[-1]["usage"]["completion_tokens"]) == ([], 3)


async def test_embeddings_come_as_numbers_and_as_base64(here: Here) -> None:
    asked = {"model": EMBEDS, "input": ["one", "two"], "dimensions": 8}
    plain = (await here.http.post("/v1/embeddings", json=asked)).json()
    packed = (await here.http.post("/v1/embeddings", json=asked | {"encoding_format": "base64"})).json()
    assert [one["index"] for one in plain["data"]] == [0, 1]
    for one, other in zip(plain["data"], packed["data"], strict=True):
        assert struct.unpack("<8f", base64.b64decode(other["embedding"])) == pytest.approx(one["embedding"])
    assert plain["usage"]["prompt_tokens"] == plain["usage"]["total_tokens"] > 0
    refused: list[dict[str, Any]] = [{"encoding_format": "int8"}, {"input": []}, {"input": None}]
    for wrong in refused:
        assert (await here.http.post("/v1/embeddings", json=asked | wrong)).status_code == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": "hi"},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]},
        {"model": ""},
        {"reasoning_effort": "enormous"},
        {"stop": 5},
        {"max_tokens": "many"},
    ],
)
async def test_what_is_no_request_is_refused_in_openais_shape(here: Here, wrong: dict[str, Any]) -> None:
    answer = await here.http.post("/v1/chat/completions", json=ASK | wrong)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    assert error["message"]


async def test_what_fails_in_mid_stream_is_an_event_and_no_end(here: Here) -> None:
    script = here.standin.script
    script.ending, script.ending_after, script.tokens = "runner_killed", 3, 6
    answer = await here.http.post("/v1/chat/completions", json=ASK | {"stream": True})
    assert answer.status_code == 200
    *_, last, _ = answer.text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "api_error"
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_ends_the_generation_at_ollama(here: Here, *, stream: bool) -> None:
    script = here.standin.script
    script.tokens, script.ending, script.ending_after = 50, "hang", 5
    asking = asyncio.create_task(here.http.post("/v1/chat/completions", json=ASK | {"stream": stream}))
    await here.standin.wait_for(lambda _: bool(here.asked("/api/chat")))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await here.standin.wait_for(lambda _: here.asked("/api/chat")[-1].ended == "client_closed")
