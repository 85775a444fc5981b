"""The routes that use a model: generate, chat, embed."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from obt_standin import asked
from obt_standin.asked import Json, Refusal
from obt_standin.generation import Figures, Lines, Plan, Schedule, blocks, encode, line, plan, prompt_overhead
from obt_standin.names import display, qualified
from obt_standin.runner import Lease, RunnerKilledError, Runners
from obt_standin.script import Behaviour, Model, Script
from obt_standin.store import Store
from obt_standin.text import tokens_of
from obt_standin.wire import EXCHANGE, Wire

_RUNNER_ENDED = "an error was encountered while running the model: unexpected EOF"
_NO_CLOUD = "ollama cloud is disabled: remote model is unavailable"
_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)


@dataclass
class Job:
    """One generation, from its checks to its end."""

    request: web.Request
    fields: Json
    model: Model
    behaviour: Behaviour
    chat: bool
    thinking: bool
    keep_alive_s: float | None
    said_name: str

    @property
    def streamed(self) -> bool:
        """Whether the answer comes line by line."""
        return self.fields.get("stream") is not False


class Inference:
    """Generates, with the models of a store, on runners of its own."""

    def __init__(self, script: Script, store: Store, runners: Runners) -> None:
        self._script = script
        self._store = store
        self._runners = runners

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/generate``."""
        return await self._answer(request, await request.read(), chat=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/chat``."""
        return await self._answer(request, await request.read(), chat=True)

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/embed``."""
        fields = asked.read(await request.read(), "EmbedRequest")
        inputs = _inputs(fields.get("input"))
        model = self._model(fields, f'model "{fields.get("model")}" not found, try pulling it first')
        if "embedding" not in model.capabilities:
            raise Refusal(501, "This server does not support embeddings. Start it with `--embeddings`")
        counts = [len(tokens_of(text)) + 2 for text in inputs]
        if fields.get("truncate") is False and max(counts, default=0) > model.context_length:
            raise Refusal(400, "the input length exceeds the context length")
        answer: Json = {"model": fields["model"]}
        width = int(fields.get("dimensions") or model.embedding_length)
        if not inputs:
            await self._only_load(model, fields)
            return _json(encode(answer | {"embeddings": []}))
        began = time.monotonic_ns()
        keep_alive_s = asked.keep_alive(fields.get("keep_alive"), self._script.keep_alive_s)
        behaviour = self._behaviour(model)
        async with self._runners.lease(model, fields.get("options") or {}, keep_alive_s, behaviour) as lease:
            total = sum(min(count, model.context_length) for count in counts)
            await asyncio.sleep(total / behaviour.prefill_tps if behaviour.prefill_tps else 0)
        answer["embeddings"] = [_vector(text, width) for text in inputs]
        answer |= {"total_duration": time.monotonic_ns() - began, "load_duration": max(lease.load_ns, 1000)}
        return _json(encode(answer | {"prompt_eval_count": total}))

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/embeddings``, the older form."""
        fields = asked.read(await request.read(), "EmbedRequest")
        model = self._model(fields, f'model "{fields.get("model")}" not found, try pulling it first')
        await self._only_load(model, fields)
        return _json(encode({"embedding": _vector(str(fields.get("prompt")), model.embedding_length)}))

    async def _answer(self, request: web.Request, body: bytes, *, chat: bool) -> web.StreamResponse:
        fields = asked.read(body, "ChatRequest" if chat else "GenerateRequest")
        thinking = asked.think(fields.get("think"))
        keep_alive_s = asked.keep_alive(fields.get("keep_alive"), self._script.keep_alive_s)
        images = asked.check_images(fields.get("images"))
        model = self._named(fields, chat=chat)
        lines = Lines(fields["model"], fields, chat=chat)
        empty = not fields.get("messages") if chat else not fields.get("prompt")
        if empty and keep_alive_s == 0:
            self._runners.unload(model)
            return _json(lines.empty("unload"))
        _check_capabilities(fields, model, thinking=bool(thinking), chat=chat)
        asked.check_options(fields.get("options"))
        if empty:
            await self._only_load(model, fields)
            return _json(lines.empty("load"))
        if images and "vision" not in model.capabilities:
            await self._only_load(model, fields)
            raise Refusal(400, _runner_error(400, _NO_VISION, "invalid_request_error"))
        if fields.get("_debug_render_only"):
            await self._only_load(model, fields)
            return _json(lines.debug(_rendered(fields)))
        thinks = "thinking" in model.capabilities and thinking is not False
        behaviour = self._behaviour(model, once=True)
        job = Job(request, fields, model, behaviour, chat, thinks, keep_alive_s, fields["model"])
        return await self._run(job, lines)

    async def _run(self, job: Job, lines: Lines) -> web.StreamResponse:
        if job.behaviour.answer == "busy":
            raise Refusal(503, "server busy, please try again.  maximum pending requests exceeded")
        options = job.fields.get("options") or {}
        figures = Figures(job.request[EXCHANGE].began_ns)
        async with self._runners.lease(job.model, options, job.keep_alive_s, job.behaviour) as lease:
            figures.load_ns = lease.load_ns
            asked.check_format(job.fields.get("format"), streamed=job.streamed)
            first_ns = self._prefill(job, lease, figures)
            try:
                await _alive(lease, first_ns)
            except RunnerKilledError:
                raise Refusal(500, _RUNNER_ENDED, charset=not job.streamed) from None
            said = plan(
                job.model,
                job.behaviour,
                job.fields,
                thinking=job.thinking,
                template_path=not job.chat or job.model.go_template,
            )
            performance = _Performance(job, lease, said, figures, lines, first_ns, self._script.seed)
            return await (performance.stream() if job.streamed else performance.whole())

    def _prefill(self, job: Job, lease: Lease, figures: Figures) -> int:
        """Reckon the prompt, fill in its figures, and say when the first token is due."""
        tokens = tokens_of(_prompt(job.fields, chat=job.chat))
        count = job.behaviour.prompt_tokens or len(tokens) + prompt_overhead(job.fields)
        count = _fitted(job, count, lease.runner.num_ctx)
        cached = min(lease.runner.common(tokens), count - 1) if job.behaviour.prompt_cache else 0
        lease.runner.remember(tokens, self._script.num_parallel)
        spent = (count - cached) / job.behaviour.prefill_tps if job.behaviour.prefill_tps else 0.0
        if job.behaviour.ttft_s is not None:
            spent = job.behaviour.ttft_s
        figures.prompt_count, figures.prompt_ns = count, int(spent * 1e9)
        exchange = job.request[EXCHANGE]
        exchange.prompt_tokens, exchange.cached_tokens = count, cached
        return time.monotonic_ns() + figures.prompt_ns

    async def _only_load(self, model: Model, fields: Json) -> None:
        keep_alive_s = asked.keep_alive(fields.get("keep_alive"), self._script.keep_alive_s)
        behaviour = self._behaviour(model)
        async with self._runners.lease(model, fields.get("options") or {}, keep_alive_s, behaviour, slots=0):
            pass

    def _behaviour(self, model: Model, *, once: bool = False) -> Behaviour:
        if once and self._script.once:
            return self._script.once.pop(0)
        return model.behaviour or self._script

    def _named(self, fields: Json, *, chat: bool) -> Model:
        name = fields.get("model") or ""
        if not name:
            raise Refusal(400, "model is required") if chat else Refusal(404, "model '' not found")
        if display(name) is None:
            raise Refusal(400, "invalid model name")
        return self._model(fields, f"model '{name}' not found")

    def _model(self, fields: Json, missing: str) -> Model:
        name = str(fields.get("model") or "")
        model = self._store.find(name)
        if (model is not None and model.remote_model) or _is_cloud(name):
            raise Refusal(403, _NO_CLOUD)
        if model is None:
            raise Refusal(404, missing)
        return model


class _Performance:
    """The delivery of one planned answer."""

    def __init__(
        self, job: Job, lease: Lease, said: Plan, figures: Figures, lines: Lines, first_ns: int, seed: int
    ) -> None:
        self._job = job
        self._behaviour = job.behaviour
        self._lease = lease
        self._said = said
        self._figures = figures
        self._lines = lines
        self._schedule = Schedule(job.behaviour, first_ns, seed)
        self._wire = Wire(job.request, job.behaviour)
        self._exchange = job.request[EXCHANGE]

    async def whole(self) -> web.StreamResponse:
        """Generate to the end, then answer with one object."""
        try:
            for index in range(len(self._said.tokens)):
                await self._token_due(index)
        except RunnerKilledError:
            raise Refusal(500, _RUNNER_ENDED) from None
        if self._behaviour.ending == "runner_killed":
            raise Refusal(500, _RUNNER_ENDED)
        figures = self._measured()
        no_end = self._behaviour.ending == "no_final_line"
        return _json(self._lines.whole(self._said, None if no_end else figures))

    async def stream(self) -> web.StreamResponse:
        """Generate line by line."""
        try:
            if self._behaviour.fast:
                await self._stream_fast()
            else:
                await self._stream_tokens()
        except RunnerKilledError:
            await self._wire.write([line({"error": _RUNNER_ENDED})])
            await self._wire.finish()
        return self._wire.response

    async def _stream_fast(self) -> None:
        self._figures.token_ns = [time.monotonic_ns()]
        for block in blocks(self._lines, self._said, self._behaviour.fast_block_lines):
            await self._wire.write_block(block)
        self._figures.token_ns.append(time.monotonic_ns())
        await self._end()

    async def _stream_tokens(self) -> None:
        total = len(self._said.tokens)
        abnormal = self._behaviour.ending not in {"done", "no_final_line", "repeat"}
        stop = min(self._cut_at(), total) if abnormal else total
        waiting: list[bytes] = []
        text = ""
        for index, token in enumerate(self._said.tokens[:stop]):
            await self._token_due(index)
            text += token
            if (index + 1) % self._behaviour.tokens_per_line and index + 1 not in {stop, self._said.thoughts}:
                continue
            waiting.append(self._lines.token(text, thought=index < self._said.thoughts))
            text = ""
            if len(waiting) >= self._behaviour.lines_per_write or index + 1 == stop:
                await self._wire.write(waiting)
                waiting = []
        await (self._end_badly() if abnormal else self._end())

    def _cut_at(self) -> int:
        after = self._behaviour.ending_after
        return max(1, len(self._said.tokens) // 2) if after is None else after

    async def _token_due(self, index: int) -> None:
        due = self._schedule.due(index)
        await _alive(self._lease, due)
        self._figures.token_ns.append(due)
        self._exchange.token_ns.append(due)

    async def _end(self) -> None:
        if self._said.tool_call is not None:
            await self._wire.write([self._lines.tool_call(self._said.tool_call)])
        if self._behaviour.ending != "no_final_line" and self._said.reason is not None:
            await self._wire.write([self._lines.final(self._said.reason, self._measured())])
        await self._wire.finish()

    def _measured(self) -> Json:
        self._exchange.eval_tokens = self._said.counted
        return self._figures.of(self._said.counted)

    async def _end_badly(self) -> None:
        match self._behaviour.ending:
            case "error":
                await self._wire.write([line({"error": self._behaviour.error})])
                await self._wire.finish()
            case "runner_killed":
                self._lease.runner.killed.set()
                raise RunnerKilledError
            case "broken_line":
                await self._wire.write([b'{"model": this is no JSON\n'])
                await self._wire.finish()
            case "close":
                self._wire.close()
            case "cut":
                await self._wire.cut()
            case "reset":
                self._wire.reset()
            case _:
                await asyncio.Event().wait()  # silence, until the client or the stand-in goes


async def _alive(lease: Lease, until_ns: int) -> None:
    """Wait until a moment, or for the runner's death.

    Raises:
        RunnerKilledError: it died.
    """
    killed = lease.runner.killed
    if not killed.is_set() and until_ns > time.monotonic_ns():
        waiting = asyncio.ensure_future(killed.wait())
        try:
            await asyncio.wait([waiting], timeout=(until_ns - time.monotonic_ns()) / 1e9)
        finally:
            waiting.cancel()

    if killed.is_set():
        raise RunnerKilledError


def _fitted(job: Job, count: int, num_ctx: int) -> int:
    """The prompt's length in the context: half of it and a little when it had to be cut."""
    if count <= num_ctx:
        return count
    if job.fields.get("shift") is False:
        raise Refusal(400, _TOO_LONG)
    if job.fields.get("truncate") is False:
        room = f"the available context size ({num_ctx} tokens)"
        said = f"request ({count} tokens) exceeds {room}, try increasing it"
        figures = {"n_prompt_tokens": count, "n_ctx": num_ctx}
        message = _runner_error(400, said, "exceed_context_size_error", **figures)
        raise Refusal(400, message, charset=not job.streamed)
    return num_ctx // 2 + 3


_NO_VISION = "Multimodal data provided, but model does not support multimodal requests."


def _runner_error(code: int, message: str, kind: str, **figures: int) -> str:
    """An error of llama-server's, as Ollama passes it on: JSON in the string."""
    return encode({"error": {"code": code, "message": message, "type": kind} | figures}).decode()


def _check_capabilities(fields: Json, model: Model, *, thinking: bool, chat: bool) -> None:
    name = fields["model"]
    if not chat and fields.get("raw") and any(fields.get(key) for key in ("system", "template", "context")):
        raise Refusal(400, "raw mode does not support template, system, or context")
    if "completion" not in model.capabilities:
        raise Refusal(400, f'"{name}" does not support {"chat" if chat else "generate"}')
    if fields.get("suffix") and "insert" not in model.capabilities:
        raise Refusal(400, f"{qualified(model.name)} does not support insert")
    if fields.get("tools") and "tools" not in model.capabilities:
        raise Refusal(400, f"{qualified(model.name)} does not support tools")
    if thinking and "thinking" not in model.capabilities:
        raise Refusal(400, f'"{name}" does not support thinking')


def _prompt(fields: Json, *, chat: bool) -> str:
    if not chat:
        return f"{fields.get('system') or ''}{fields['prompt']}"
    said = [f"{message.get('role')}\n{message.get('content')}" for message in fields["messages"]]
    return "\n".join([*(str(tool) for tool in fields.get("tools") or ()), *said])


def _rendered(fields: Json) -> str:
    return f"<|im_start|>user\n{fields.get('prompt', '')}<|im_end|>\n<|im_start|>assistant\n"


def _inputs(value: Any) -> list[str]:
    match value:
        case None | "":
            return []
        case str():
            return [value]
        case list() if all(isinstance(part, str) for part in value):
            return list(value)
        case _:
            raise Refusal(400, "invalid input type")


def _vector(text: str, width: int) -> list[float]:
    """Numbers of length 1 together that depend on the text alone."""
    raw = hashlib.shake_128(text.encode()).digest(2 * width)
    parts = [int.from_bytes(raw[2 * n : 2 * n + 2], "big") / 32768 - 1 for n in range(width)]
    length = sum(part * part for part in parts) ** 0.5 or 1.0
    return [round(part / length, 8) for part in parts]


def _is_cloud(name: str) -> bool:
    return name.endswith((":cloud", "-cloud"))


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": "application/json; charset=utf-8"})
