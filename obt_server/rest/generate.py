"""Generation by WebSocket, at the path and in the words that OBT's own page uses."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import msgspec
from fastapi import APIRouter, WebSocket
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from obt_agent.errors import AgentError, InvalidParams
from obt_agent.protocol import codec
from obt_server.auth import Principal
from obt_server.rest import audit
from obt_server.rest.context import PREFIX, Context
from obt_server.rest.problems import STATUS_OF_KIND, error_object, failure
from obt_server.rest.socket import refuse


class _GeneratedChunk(msgspec.Struct):
    response: str = ""
    thinking: str | None = None


class _GeneratedItem(msgspec.Struct):
    chunk: _GeneratedChunk


class _GeneratedFinal(msgspec.Struct):
    final: dict[str, Any]


def routes(context: Context) -> APIRouter:
    """The route."""
    router = APIRouter(prefix=context.prefix + PREFIX)

    @router.websocket("/models/generate/{model:path}")
    async def generate(websocket: WebSocket, model: str, client_id: str = "") -> None:
        # Before the upgrade: a stranger gets no socket to keep open.
        passed = await context.gate(websocket)
        if isinstance(passed, Response):
            await refuse(websocket, passed)
            return
        try:
            agent = await context.hub.find(client_id)
        except AgentError as error:
            status = STATUS_OF_KIND.get(error.kind, 502)
            await refuse(websocket, failure(status, error.kind, error.message))
            return
        await websocket.accept()
        # By id from here on: a rename in mid-conversation must not lead to another machine.
        conversation = _GenerateSocket(context, websocket, passed, agent.id, model)
        with contextlib.suppress(WebSocketDisconnect):
            await _while_permitted(context, websocket, conversation)

    return router


async def _while_permitted(context: Context, websocket: WebSocket, conversation: _GenerateSocket) -> None:
    """The conversation, until who holds it has signed out or has lost the token that opened it."""
    conversing = asyncio.create_task(conversation.run(), name="generate conversation")
    refusal = asyncio.create_task(context.until_refused(websocket), name="generate permission")
    try:
        # The socket may stay open for days; permission is looked at again and again meanwhile.
        await asyncio.wait([conversing, refusal], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (conversing, refusal):
            task.cancel()
        await asyncio.gather(conversing, refusal, return_exceptions=True)
    # It ended by itself, and what it raised is the page's leaving or a fault.
    if not conversing.cancelled():
        conversing.result()
        return
    refused = refusal.result()
    await websocket.send_text(_with_end(bytes(refused.body)))
    await websocket.close(NOT_SIGNED_IN, "not signed in any more")


NOT_SIGNED_IN: Final = 1008
"""A close code of RFC 6455: against the endpoint's policy."""


def _with_end(error: bytes) -> str:
    """An error of the interface, as it ends an answer."""
    body = msgspec.json.decode(error, type=dict[str, Any])
    return msgspec.json.encode({**body, "response": "", "done": True}).decode()


class _GenerateSocket:
    """One socket: a prompt, its answer, the next prompt. ``{"stop": true}`` stops the answer."""

    def __init__(
        self, context: Context, websocket: WebSocket, who: Principal, agent_id: str, model: str
    ) -> None:
        self._context = context
        self._websocket = websocket
        self._who = who
        self._agent_id = agent_id
        self._model = model

    async def run(self) -> None:
        """Until the page leaves."""
        prompt = await self._receive()
        while True:
            # The next message is read while the answer runs: it may be the one that stops it.
            answer = asyncio.create_task(self._answer(prompt), name="generate answer")
            next_message = asyncio.create_task(self._receive(), name="generate receive")
            try:
                await asyncio.wait([answer, next_message], return_when=asyncio.FIRST_COMPLETED)
                # The page said something in mid-answer, whatever it is: the answer stops, and its end is said
                # in OBT's words.
                if not answer.done() and not next_message.cancelled() and next_message.exception() is None:
                    answer.cancel()
                    await asyncio.gather(answer, return_exceptions=True)
                    await self._websocket.send_json({"response": "", "done": True, "done_reason": "stop"})
                prompt = await next_message
            finally:
                # In any end of this round none of the two is left: an answer without a reader would go on
                # generating.
                for task in (answer, next_message):
                    task.cancel()
                await asyncio.gather(answer, next_message, return_exceptions=True)
            if _is_stop(prompt):
                prompt = await self._receive()

    async def _receive(self) -> str:
        """What the page says next. A binary frame says nothing, and is answered like any other non-prompt."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        return message.get("text") or ""

    async def _answer(self, prompt: str) -> None:
        with audit.line(self._websocket, "WebSocket /models/generate/{model}", self._who) as entry:
            audit.note(self._agent_id)
            try:
                entry.outcome = await self._answer_or_refuse(prompt)
            except asyncio.CancelledError:
                entry.outcome = "cancelled"
                raise

    async def _answer_or_refuse(self, prompt: str) -> str:
        """Send the answer, or the error; return how it ended."""
        try:
            params = self._params(prompt)
            async with self._context.hub.stream(self._agent_id, "generate", params) as stream:
                async for batch in stream.text_batches():
                    await self._send(batch)
                final = codec.convert(stream.result_text, _GeneratedFinal, where="result").final
            # Ollama's last object, which holds the counts, with the two fields that OBT's page reads.
            await self._websocket.send_json({"response": "", **final, "done": True})
        except AgentError as error:
            await self._websocket.send_json({"error": error_object(error), "response": "", "done": True})
            return error.kind
        return "complete"

    async def _send(self, batch: list[bytes]) -> None:
        for text in batch:
            # Decoded here as OBT's page reads the text alone; the interface's own streams pass chunks on as
            # they are.
            chunk = codec.convert(text, _GeneratedItem, where="item").chunk
            message: dict[str, Any] = {"response": chunk.response, "done": False}
            if chunk.thinking is not None:
                message["thinking"] = chunk.thinking
            await self._websocket.send_text(msgspec.json.encode(message).decode())

    def _params(self, prompt: str) -> dict[str, Any]:
        try:
            # A page may send anything, and the parser goes down as deep as the text says.
            codec.check_depth(prompt.encode())
            body = msgspec.json.decode(prompt, type=dict[str, Any])
        except (AgentError, msgspec.MsgspecError) as error:
            raise InvalidParams('Send an object like {"prompt": "..."}.') from error
        if not isinstance(body.get("prompt"), str):
            raise InvalidParams('"prompt" must be a string.', field="prompt")
        return {**body, "model": self._model}


def _is_stop(prompt: str) -> bool:
    try:
        body = msgspec.json.decode(prompt)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return isinstance(body, dict) and body.get("stop") is True
