"""An Ollama whose ``/api/embed`` and ``/api/show`` answer with as many bytes as a test wants, made once.

It generates, too: a few tokens, so that an honest request and a benchmark come to their end.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

from aiohttp import web

MODEL = "large:latest"
TOKENS, MS = 8, 1_000_000
AT = "2026-01-01T00:00:00Z"
_TAGS = {"models": [{"name": MODEL, "model": MODEL, "size": 1, "digest": "d" * 64, "details": {}}]}


@contextlib.asynccontextmanager
async def large_ollama(answer_bytes: int) -> AsyncIterator[str]:
    """Listen on a port of its own; yields the address."""
    numbers = ",".join(["0.0123456789"] * (answer_bytes // 13))
    embeddings = f'{{"model":"{MODEL}","embeddings":[[{numbers}]]}}'.encode()
    able = '"capabilities":["embedding","completion"]'
    shown = f'{{"details":{{}},"model_info":{{"tokens":[{numbers}]}},{able}}}'.encode()

    async def big(request: web.Request) -> web.Response:
        body = await request.json()
        small = request.path == "/api/show" and not body.get("verbose")
        text = f'{{"details":{{}},{able}}}'.encode() if small else None
        whole = embeddings if request.path == "/api/embed" else shown
        return web.Response(body=text or whole, content_type="application/json")

    def fixed(value: object) -> web.Response:
        return web.Response(text=json.dumps(value), content_type="application/json")

    async def generate(_: web.Request) -> web.Response:
        lines = [{"model": MODEL, "response": "x", "done": False}] * TOKENS
        counts = {"total_duration": 2 * MS, "load_duration": 1, "prompt_eval_count": 4, "eval_count": TOKENS}
        times = {"prompt_eval_duration": MS, "eval_duration": MS}
        last = {"model": MODEL, "response": "", "done": True, "done_reason": "stop", **counts, **times}
        text = "".join(json.dumps({**line, "created_at": AT}) + "\n" for line in [*lines, last])
        return web.Response(text=text, content_type="application/x-ndjson")

    async def tags(_: web.Request) -> web.Response:
        return fixed(_TAGS)

    async def running(_: web.Request) -> web.Response:
        return fixed({"models": []})

    async def version(_: web.Request) -> web.Response:
        return fixed({"version": "0.12.0"})

    app = web.Application(client_max_size=1 << 30)
    app.add_routes(
        [web.get("/api/tags", tags), web.get("/api/ps", running), web.get("/api/version", version)]
    )
    app.add_routes([web.post("/api/embed", big), web.post("/api/show", big)])
    app.add_routes([web.post("/api/generate", generate)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
