"""ollama-python, openai-python, LangChain and LiteLLM use a machine through the gateway."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import litellm
import ollama
import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI

from tests.clients.conftest import Address
from tests.gateway.conftest import EMBEDS, MODEL, THINKS, Here, token

T = TypeVar("T")

ASK = [{"role": "user", "content": "x"}]
PIXEL = base64.b64encode(b"\x89PNG not really").decode()
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def says(here: Here, tokens: int = 4, **script: Any) -> str:
    """Have the model count its tokens; return what it will say. Its end counts as one more."""
    here.standin.script.tokens, here.standin.script.numbered = tokens, True
    for name, value in script.items():
        setattr(here.standin.script, name, value)
    return "".join(f" {number}" for number in range(tokens))


def hangs(here: Here) -> None:
    """Have the model stop after five tokens, for ever."""
    script = here.standin.script
    script.tokens, script.ending, script.ending_after = 50, "hang", 5


async def ended(here: Here, path: str) -> None:
    """Ollama's side of the last request was closed by its client."""
    async with asyncio.timeout(30):
        await here.standin.wait_for(lambda _: here.asked(path)[-1].ended == "client_closed")


# -- ollama-python ------------------------------------------------------------------------------------


@pytest.fixture
async def of_ollama(address: Address) -> AsyncIterator[ollama.AsyncClient]:
    made = ollama.AsyncClient(host=address.ollama, headers=address.headers)
    yield made
    await made._client.aclose()  # noqa: SLF001 - the library has no way to close it


async def test_ollama_python_lists_and_shows(here: Here, of_ollama: ollama.AsyncClient) -> None:
    listed = await of_ollama.list()
    assert MODEL in [model.model for model in listed.models]
    assert (await of_ollama.show(MODEL)).details
    await of_ollama.generate(MODEL, "")
    assert [model.model for model in (await of_ollama.ps()).models] == [MODEL]


async def test_ollama_python_generates_and_chats(here: Here, of_ollama: ollama.AsyncClient) -> None:
    text = says(here)
    assert (await of_ollama.generate(MODEL, "x")).response == text
    parts = [part.response async for part in await of_ollama.generate(MODEL, "x", stream=True)]
    assert (len(parts), "".join(parts)) == (5, text)
    answer = await of_ollama.chat(MODEL, ASK)
    assert (answer.message.content, answer.eval_count) == (text, 5)
    streamed = [part async for part in await of_ollama.chat(MODEL, ASK, stream=True)]
    assert "".join(part.message.content or "" for part in streamed) == text
    assert streamed[-1].done_reason == "stop"


async def test_ollama_python_thinks_calls_tools_and_embeds(here: Here, of_ollama: ollama.AsyncClient) -> None:
    says(here, 5, thinking_tokens=2)
    answer = await of_ollama.chat(THINKS, ASK, think=True)
    assert (answer.message.thinking, answer.message.content) == (" 0 1", " 2 3 4")
    here.standin.script.tool_call = True
    called = await of_ollama.chat(THINKS, ASK, tools=[TOOL], think=False)
    assert [call.function.name for call in called.message.tool_calls or ()] == ["get_weather"]
    assert len((await of_ollama.embed(EMBEDS, ["a", "b"])).embeddings) == 2
    assert (await of_ollama.embeddings(EMBEDS, "a")).embedding


async def test_ollama_python_understands_every_refusal(
    here: Here, of_ollama: ollama.AsyncClient, address: Address
) -> None:
    for ask, status in (
        (of_ollama.chat("nosuch", ASK), 404),
        (of_ollama.pull("anything"), 403),
        (of_ollama.delete("anything"), 403),
        (ollama.AsyncClient(host=address.ollama).list(), 401),
    ):
        with pytest.raises(ollama.ResponseError) as refused:
            await ask
        assert refused.value.status_code == status
        assert refused.value.error
    here.standin.script.ending, here.standin.script.ending_after = "runner_killed", 3
    with pytest.raises(ollama.ResponseError):
        async for _ in await of_ollama.generate(MODEL, "x", stream=True):
            pass


async def test_ollama_python_that_stops_reading_ends_the_generation(
    here: Here, of_ollama: ollama.AsyncClient
) -> None:
    hangs(here)
    stream = await of_ollama.generate(MODEL, "x", stream=True)
    assert (await anext(aiter(stream))).response
    await stream.aclose()
    await ended(here, "/api/generate")


async def test_ollama_python_takes_address_and_token_from_the_environment(
    here: Here, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", address.ollama)
    monkeypatch.setenv("OLLAMA_API_KEY", address.token)
    text = says(here)
    answer = await asyncio.to_thread(lambda: ollama.Client().generate(MODEL, "x"))
    assert answer.response == text


# -- openai-python ------------------------------------------------------------------------------------


@pytest.fixture
async def of_openai(address: Address) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=address.openai, api_key=address.token, max_retries=0) as made:
        yield made


async def test_openai_python_lists_models(of_openai: openai.AsyncOpenAI) -> None:
    assert MODEL in [model.id async for model in of_openai.models.list()]
    assert (await of_openai.models.retrieve(THINKS)).owned_by == "library"


async def test_openai_python_chats(here: Here, of_openai: openai.AsyncOpenAI) -> None:
    text = says(here)
    made: Any = await of_openai.chat.completions.create(model=MODEL, messages=ASK, seed=1, stop=["END"])
    assert made.choices[0].message.content == text
    assert (made.choices[0].finish_reason, made.usage.completion_tokens) == ("stop", 5)
    stream: Any = await of_openai.chat.completions.create(
        model=MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == text
    assert chunks[-1].usage.completion_tokens == 5


async def test_openai_python_calls_tools_and_sends_images(here: Here, of_openai: openai.AsyncOpenAI) -> None:
    here.standin.script.tool_call = True
    create: Any = of_openai.chat.completions.create
    made = await create(model=THINKS, messages=ASK, tools=[TOOL], reasoning_effort="none")
    (call,) = made.choices[0].message.tool_calls
    assert (call.function.name, made.choices[0].finish_reason) == ("get_weather", "tool_calls")
    told = [
        *ASK,
        made.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    assert (await create(model=THINKS, messages=told)).choices[0].message.content
    last = json.loads(here.asked("/api/chat")[-1].body)["messages"][-1]
    assert last["tool_name"] == "get_weather"
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    await create(model=MODEL, messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, image]}])
    assert json.loads(here.asked("/api/chat")[-1].body)["messages"][-1]["images"] == [PIXEL]


async def test_openai_python_completes_and_embeds(here: Here, of_openai: openai.AsyncOpenAI) -> None:
    text = says(here)
    assert (await of_openai.completions.create(model=MODEL, prompt="x")).choices[0].text == text
    stream = await of_openai.completions.create(model=MODEL, prompt="x", stream=True)
    assert "".join([one.choices[0].text async for one in stream]) == text
    # The library asks for base64 and unpacks it.
    packed = await of_openai.embeddings.create(model=EMBEDS, input=["a", "b"])
    plain = await of_openai.embeddings.create(model=EMBEDS, input=["a", "b"], encoding_format="float")
    assert packed.data[1].embedding == pytest.approx(plain.data[1].embedding, rel=1e-5)


async def test_openai_python_understands_every_refusal(
    here: Here, of_openai: openai.AsyncOpenAI, address: Address
) -> None:
    create: Any = of_openai.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="not found"):
        await create(model="nosuch", messages=ASK)
    with pytest.raises(openai.BadRequestError):
        await create(model=MODEL, messages=[])
    with pytest.raises(openai.AuthenticationError):
        await of_openai.with_options(api_key="obti_wrong").models.list()
    await here.server.enrol("away")
    away = of_openai.with_options(base_url=address.openai.replace("/box/", "/away/"))
    with pytest.raises(openai.InternalServerError) as refused:
        await away.chat.completions.create(model=MODEL, messages=ASK)
    assert (refused.value.status_code, refused.value.response.headers["Retry-After"]) == (503, "5")
    here.standin.script.ending, here.standin.script.ending_after = "runner_killed", 3
    with pytest.raises(openai.APIError):
        async for _ in await create(model=MODEL, messages=ASK, stream=True):
            pass


async def test_openai_python_that_stops_reading_ends_the_generation(
    here: Here, of_openai: openai.AsyncOpenAI
) -> None:
    hangs(here)
    stream: Any = await of_openai.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    assert (await anext(aiter(stream))).choices
    await stream.close()
    await ended(here, "/api/chat")


# -- LangChain ----------------------------------------------------------------------------------------


def chat_ollama(address: Address, model: str = MODEL, **more: Any) -> ChatOllama:
    return ChatOllama(
        model=model,
        base_url=address.ollama,
        client_kwargs={"headers": address.headers, "trust_env": False},
        **more,
    )


def chat_openai(address: Address, model: str = MODEL, **more: Any) -> ChatOpenAI:
    given: dict[str, Any] = {"base_url": address.openai, "api_key": address.token, "max_retries": 0, **more}
    return ChatOpenAI(model=model, **given)


@pytest.mark.parametrize("make", [chat_ollama, chat_openai])
async def test_langchain_invokes_and_streams(here: Here, address: Address, make: Any) -> None:
    text = says(here)
    whole = await make(address).ainvoke("x")
    assert whole.content == text
    assert whole.usage_metadata["output_tokens"] == 5
    parts = (
        [part async for part in make(address, stream_usage=True).astream("x")]
        if make is chat_openai
        else [part async for part in make(address).astream("x")]
    )
    assert "".join(part.content for part in parts) == text
    assert sum((part.usage_metadata or {}).get("output_tokens", 0) for part in parts) == 5


@pytest.mark.parametrize("make", [chat_ollama, chat_openai])
async def test_langchain_calls_tools_and_answers_them(here: Here, address: Address, make: Any) -> None:
    here.standin.script.tool_call = True
    model = make(address, THINKS).bind_tools([TOOL])
    called = await model.ainvoke("weather?")
    (call,) = called.tool_calls
    assert call["name"] == "get_weather"
    told = [HumanMessage("weather?"), called, ToolMessage("sunny", tool_call_id=call["id"])]
    await model.ainvoke(told)
    roles = [one["role"] for one in json.loads(here.asked("/api/chat")[-1].body)["messages"]]
    assert roles == ["user", "assistant", "tool"]


@pytest.mark.parametrize("make", [chat_ollama, chat_openai])
async def test_langchain_that_stops_reading_ends_the_generation(
    here: Here, address: Address, make: Any
) -> None:
    hangs(here)
    stream = make(address).astream("x")
    await anext(stream)
    await stream.aclose()
    await ended(here, "/api/chat")


async def test_langchain_embeds(here: Here, address: Address) -> None:
    made = OllamaEmbeddings(
        model=EMBEDS, base_url=address.ollama, client_kwargs={"headers": address.headers, "trust_env": False}
    )
    assert len(await made.aembed_documents(["a", "b"])) == 2


# -- LiteLLM ------------------------------------------------------------------------------------------


def of_litellm(address: Address, kind: str, model: str = MODEL) -> dict[str, Any]:
    base = address.openai if kind == "openai" else address.ollama
    return {"model": f"{kind}/{model}", "api_base": base, "api_key": address.token, "max_retries": 0}


async def apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run in another loop: LiteLLM asks some things without await, and the server here would stand still."""
    return await asyncio.to_thread(lambda: asyncio.run(work()))


@pytest.mark.parametrize("kind", ["ollama_chat", "openai"])
async def test_litellm_completes_and_streams(here: Here, address: Address, kind: str) -> None:
    text = says(here)

    async def use() -> tuple[Any, str]:
        made: Any = await litellm.acompletion(messages=ASK, **of_litellm(address, kind))
        stream: Any = await litellm.acompletion(messages=ASK, stream=True, **of_litellm(address, kind))
        return made, "".join([one.choices[0].delta.content or "" async for one in stream])

    made, streamed = await apart(use)
    assert made.choices[0].message.content == text == streamed
    assert made.usage.completion_tokens == 5


@pytest.mark.parametrize("kind", ["ollama_chat", "openai"])
async def test_litellm_that_stops_reading_ends_the_generation(
    here: Here, address: Address, kind: str
) -> None:
    hangs(here)

    async def use() -> None:
        stream: Any = await litellm.acompletion(messages=ASK, stream=True, **of_litellm(address, kind))
        await anext(aiter(stream))
        # Its own way to stop: whoever reads is cancelled, as when its proxy's client goes.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                async for _ in stream:
                    pass

    await apart(use)
    await ended(here, "/api/chat")


async def test_litellm_embeds_and_understands_refusals(here: Here, address: Address) -> None:
    secret = await token(here.server, models=("other",))

    async def use() -> tuple[int, int]:
        made: Any = await litellm.aembedding(input=["a", "b"], **of_litellm(address, "openai", EMBEDS))
        with pytest.raises(litellm.exceptions.APIError, match="not for the model") as refused:
            await litellm.acompletion(messages=ASK, **of_litellm(address, "openai") | {"api_key": secret})
        return len(made.data), refused.value.status_code

    assert await apart(use) == (2, 403)
