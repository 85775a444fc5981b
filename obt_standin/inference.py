"""The routes that use a model: generate, chat, embed."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from typing import Any

import msgspec
from aiohttp import web

from obt_standin import faults, request_body
from obt_standin.checks import check_capabilities, fitted, no_vision
from obt_standin.delivery import RUNNER_ENDED, Delivery, GenerationJob, alive
from obt_standin.generation import AnswerLines, Figures, Schedule, encode, plan, prompt_overhead
from obt_standin.names import display, is_cloud
from obt_standin.request_body import ErrorAnswer, Json
from obt_standin.runner import Lease, RunnerKilledError, Runners
from obt_standin.script import Behaviour, Model, Script
from obt_standin.store import Store
from obt_standin.text import tokens_of
from obt_standin.wire import EXCHANGE, json_answer

_NO_CLOUD = "ollama cloud is disabled: remote model is unavailable"


class Inference:
    """Generates, with the models of a store, on runners of its own."""

    def __init__(self, script: Script, store: Store, runners: Runners) -> None:
        self._script = script
        self._store = store
        self._runners = runners
        # Seeded, so that a test sees the same spread each time.
        self._random = random.Random(script.seed)  # noqa: S311 - the spread protects nothing

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/generate``."""
        return await self._answer(request, await request.read(), chat=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/chat``."""
        return await self._answer(request, await request.read(), chat=True)

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/embed``."""
        fields = request_body.read(await request.read(), "EmbedRequest")
        inputs = _inputs(fields.get("input"))
        model = self._model(fields, f'model "{fields.get("model")}" not found, try pulling it first')
        if "embedding" not in model.capabilities:
            raise ErrorAnswer(501, "This server does not support embeddings. Start it with `--embeddings`")
        # The model's first and last token come on top.
        counts = [len(tokens_of(text)) + 2 for text in inputs]
        if fields.get("truncate") is False and max(counts, default=0) > model.context_length:
            raise ErrorAnswer(400, "the input length exceeds the context length")
        answer: Json = {"model": fields["model"]}
        width = int(fields.get("dimensions") or model.embedding_length)
        if not inputs:
            await self._only_load(model, fields)
            return json_answer(encode(answer | {"embeddings": []}))
        began = time.monotonic_ns()
        keep_alive_s = request_body.keep_alive(fields.get("keep_alive"), self._script.keep_alive_s)
        behaviour = self._behaviour(model)
        async with self._runners.lease(model, fields.get("options") or {}, keep_alive_s, behaviour) as lease:
            total = sum(min(count, model.context_length) for count in counts)
            await asyncio.sleep(total / behaviour.prefill_tps if behaviour.prefill_tps else 0)
        answer["embeddings"] = [_vector(text, width) for text in inputs]
        answer |= {"total_duration": time.monotonic_ns() - began, "load_duration": max(lease.load_ns, 1000)}
        return json_answer(encode(answer | {"prompt_eval_count": total}))

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/embeddings``, the older form."""
        fields = request_body.read(await request.read(), "EmbedRequest")
        model = self._model(fields, f'model "{fields.get("model")}" not found, try pulling it first')
        await self._only_load(model, fields)
        return json_answer(encode({"embedding": _vector(str(fields.get("prompt")), model.embedding_length)}))

    async def _answer(self, request: web.Request, body: bytes, *, chat: bool) -> web.StreamResponse:
        fields = request_body.read(body, "ChatRequest" if chat else "GenerateRequest")
        thinking = request_body.think(fields.get("think"))
        keep_alive_s = request_body.keep_alive(fields.get("keep_alive"), self._script.keep_alive_s)
        images = request_body.check_images(fields.get("images"))
        model = self._named(fields, chat=chat)
        lines = AnswerLines(fields["model"], fields, chat=chat)
        empty = not fields.get("messages") if chat else not fields.get("prompt")
        # Before the checks of what a model can: Ollama unloads any.
        if empty and keep_alive_s == 0:
            self._runners.unload(model)
            return json_answer(lines.empty("unload"))
        check_capabilities(fields, model, thinking=bool(thinking), chat=chat)
        request_body.check_options(fields.get("options"))
        if empty:
            await self._only_load(model, fields)
            return json_answer(lines.empty("load"))
        if images and "vision" not in model.capabilities:
            await self._only_load(model, fields)
            raise no_vision()
        if fields.get("_debug_render_only"):
            await self._only_load(model, fields)
            return json_answer(lines.debug(_rendered(fields)))
        thinks = "thinking" in model.capabilities and thinking is not False
        # Only now: a request that is refused does not use up a behaviour that is meant for once.
        behaviour = self._slowed(self._behaviour(model, once=True))
        job = GenerationJob(request, fields, model, behaviour, chat, thinks, keep_alive_s)
        return await self._run(job, lines)

    async def _run(self, job: GenerationJob, lines: AnswerLines) -> web.StreamResponse:
        special = await faults.special_answer(job.request, job.behaviour.answer)
        if special is not None:
            return special
        if job.behaviour.answer == "busy":
            raise ErrorAnswer(503, "server busy, please try again.  maximum pending requests exceeded")
        options = job.fields.get("options") or {}
        figures = Figures(EXCHANGE.get().began_ns)
        async with self._runners.lease(job.model, options, job.keep_alive_s, job.behaviour) as lease:
            figures.load_ns = lease.load_ns
            # As late as this: Ollama hands the format to the runner, and reports it once the model is loaded.
            request_body.check_format(job.fields.get("format"), streamed=job.streamed)
            try:
                first_ns = await self._prefill(job, lease, figures)
                await alive(lease, first_ns)
            except RunnerKilledError:
                raise ErrorAnswer(500, RUNNER_ENDED, charset=not job.streamed) from None
            content = plan(
                job.model,
                job.behaviour,
                job.fields,
                thinking=job.thinking,
                template_path=not job.chat or job.model.go_template,
            )
            schedule = Schedule(job.behaviour, first_ns, self._script.seed)
            delivery = Delivery(job, lease, content, figures, lines, schedule)
            return await (delivery.stream() if job.streamed else delivery.whole())

    async def _prefill(self, job: GenerationJob, lease: Lease, figures: Figures) -> int:
        """Count the prompt, fill in its figures, and return when the first token is due.

        Raises:
            RunnerKilledError: the runner died while it saved the prompt before.
        """
        tokens = tokens_of(_prompt(job.fields, chat=job.chat))
        count = job.behaviour.prompt_tokens or len(tokens) + prompt_overhead(job.fields)
        count = fitted(job.fields, count, lease.runner.num_ctx)
        # Ollama reads at least the last token again, to have something to go on from.
        cached = min(lease.runner.common(tokens), count - 1) if job.behaviour.prompt_cache else 0
        await self._save_slot(job, lease, tokens)
        lease.runner.remember(tokens, self._script.num_parallel)
        spent = (count - cached) / job.behaviour.prefill_tps if job.behaviour.prefill_tps else 0.0
        if job.behaviour.ttft_s is not None:
            spent = job.behaviour.ttft_s
        figures.prompt_count, figures.prompt_ns = count, int(spent * 1e9)
        exchange = EXCHANGE.get()
        exchange.prompt_tokens, exchange.cached_tokens = count, cached
        return time.monotonic_ns() + figures.prompt_ns

    async def _save_slot(self, job: GenerationJob, lease: Lease, tokens: list[str]) -> None:
        """Save the prompt whose slot this one takes: its time and its memory are in no counter."""
        runner = lease.runner
        if not self._script.prompt_cache_limit_mb or not runner.must_save(tokens, self._script.num_parallel):
            return
        if runner.memory is not None and job.behaviour.prompt_cache_mb:
            await runner.memory.keep_prompt(job.behaviour.prompt_cache_mb)
        if job.behaviour.slot_save_s:
            await alive(lease, time.monotonic_ns() + int(job.behaviour.slot_save_s * 1e9))

    async def _only_load(self, model: Model, fields: Json) -> None:
        keep_alive_s = request_body.keep_alive(fields.get("keep_alive"), self._script.keep_alive_s)
        behaviour = self._behaviour(model)
        # No slot: loading does not wait for generations that run.
        async with self._runners.lease(model, fields.get("options") or {}, keep_alive_s, behaviour, slots=0):
            pass

    def _behaviour(self, model: Model, *, once: bool = False) -> Behaviour:
        if once and self._script.once:
            return self._script.once.pop(0)
        return model.behaviour or self._script

    def _slowed(self, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour of one generation: a machine is not equally fast every time."""
        if not behaviour.spread:
            return behaviour
        share = 1 - self._random.uniform(0, behaviour.spread)
        rates = {name: getattr(behaviour, name) for name in ("prefill_tps", "decode_tps")}
        return msgspec.structs.replace(
            behaviour, **{name: rate * share for name, rate in rates.items() if rate is not None}
        )

    def _named(self, fields: Json, *, chat: bool) -> Model:
        name = fields.get("model") or ""
        if not name:
            raise ErrorAnswer(400, "model is required") if chat else ErrorAnswer(404, "model '' not found")
        if display(name) is None:
            raise ErrorAnswer(400, "invalid model name")
        return self._model(fields, f"model '{name}' not found")

    def _model(self, fields: Json, missing: str) -> Model:
        name = str(fields.get("model") or "")
        model = self._store.find(name)
        if (model is not None and model.remote_model) or is_cloud(name):
            raise ErrorAnswer(403, _NO_CLOUD)
        if model is None:
            raise ErrorAnswer(404, missing)
        return model


def _prompt(fields: Json, *, chat: bool) -> str:
    if not chat:
        return f"{fields.get('system') or ''}{fields['prompt']}"
    messages = [f"{message.get('role')}\n{message.get('content')}" for message in fields["messages"]]
    return "\n".join([*(str(tool) for tool in fields.get("tools") or ()), *messages])


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
            raise ErrorAnswer(400, "invalid input type")


def _vector(text: str, width: int) -> list[float]:
    """Numbers of length 1 together that depend on the text alone."""
    # The same text has the same vector, so that a test can compare.
    raw = hashlib.shake_128(text.encode()).digest(2 * width)
    parts = [int.from_bytes(raw[2 * n : 2 * n + 2], "big") / 32768 - 1 for n in range(width)]
    length = sum(part * part for part in parts) ** 0.5 or 1.0
    return [round(part / length, 8) for part in parts]
