"""The routes about models: lists, show, copy, delete, pull, create, blobs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from obt_standin import request_body, store
from obt_standin.downloads import Downloads, PullError
from obt_standin.generation import encode, line
from obt_standin.names import display, is_cloud
from obt_standin.request_body import ErrorAnswer, Json
from obt_standin.runner import Runners
from obt_standin.script import Model, Script
from obt_standin.store import Store
from obt_standin.wire import StreamedBody, json_answer

_NO_CLOUD = "ollama cloud is disabled: remote model details are unavailable"
_LAYERS = ("config", "template", "parameters")


class ModelRoutes:
    """Answers from a store."""

    def __init__(self, script: Script, installed: Store, runners: Runners) -> None:
        self._script = script
        self._store = installed
        self._runners = runners
        self._downloads = Downloads(script, installed)
        # Digests of the blobs that were uploaded to this stand-in.
        self._blobs: set[str] = set()

    async def version(self, _request: web.Request) -> web.StreamResponse:
        """``GET /api/version``."""
        return await self._delayed({"version": self._script.version})

    async def status(self, _request: web.Request) -> web.StreamResponse:
        """``GET /api/status``."""
        return await self._delayed({"cloud": {"disabled": not self._script.cloud, "source": "env"}})

    async def tags(self, _request: web.Request) -> web.StreamResponse:
        """``GET /api/tags``."""
        return await self._delayed(self._store.tags())

    async def ps(self, _request: web.Request) -> web.StreamResponse:
        """``GET /api/ps``."""
        return await self._delayed(self._runners.ps())

    async def openai(self, _request: web.Request) -> web.StreamResponse:
        """``GET /v1/models``."""
        body = encode(self._store.openai()) + b"\n"
        return web.Response(body=body, headers={"Content-Type": "application/json"})

    async def me(self, _request: web.Request) -> web.StreamResponse:
        """``POST /api/me``."""
        raise ErrorAnswer(503, "account unavailable")

    async def show(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/show``."""
        fields = request_body.read(await request.read(), "ShowRequest")
        name = fields.get("model") or fields.get("name") or ""
        if not name:
            raise ErrorAnswer(400, "model is required")
        model = self._store.find(name)
        if is_cloud(name) or (model is not None and model.remote_model):
            raise ErrorAnswer(403, _NO_CLOUD)
        if model is None:
            raise ErrorAnswer(404, f"model '{display(name) or name}' not found")
        return await self._delayed(store.show(model, verbose=bool(fields.get("verbose"))))

    async def copy(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/copy``."""
        fields = request_body.read(await request.read(), "CopyRequest")
        source, destination = fields.get("source", ""), fields.get("destination", "")
        for which, name in (("source", source), ("destination", destination)):
            if display(name) is None:
                raise ErrorAnswer(400, f'{which} "{name}" is invalid')
        model = self._store.find(source)
        if model is None:
            raise ErrorAnswer(404, f'model "{source}" not found')
        self._store.add(msgspec.structs.replace(model, name=destination, modified_at=""))
        return web.Response()

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """``DELETE /api/delete``."""
        fields = request_body.read(await request.read(), "DeleteRequest")
        name = fields.get("model") or fields.get("name") or ""
        if not name:
            raise ErrorAnswer(400, "model is required")
        model = self._store.find(name)
        if model is None:
            raise ErrorAnswer(404, f"model '{name}' not found")
        # What is loaded stays so: Ollama's handler removes files, and asks no scheduler (server/routes.go).
        self._store.remove(name)
        return web.Response()

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/pull``."""
        fields = request_body.read(await request.read(), "PullRequest")
        name = fields.get("model") or fields.get("name") or ""
        if display(name) is None:
            raise ErrorAnswer(400, "invalid model name")
        return await self._steps(
            request, fields, self._downloads.pull(name, insecure=bool(fields.get("insecure")))
        )

    async def push(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/push``."""
        fields = request_body.read(await request.read(), "PullRequest")
        return await self._steps(request, fields, self._pushed(fields.get("model") or ""))

    async def create(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/create``."""
        fields = request_body.read(await request.read(), "CreateRequest")
        if display(fields.get("model") or "") is None:
            raise ErrorAnswer(400, "invalid model name")
        if not fields.get("from") and not fields.get("files"):
            raise ErrorAnswer(400, "neither 'from' or 'files' was specified", charset=False)
        return await self._steps(request, fields, self._created(fields))

    async def has_blob(self, request: web.Request) -> web.StreamResponse:
        """``HEAD /api/blobs/DIGEST``."""
        if self._has(request.match_info["digest"]):
            return web.Response()
        headers = {"Content-Type": "application/json; charset=utf-8", "X-Keep-Type": "yes"}
        return web.Response(status=404, headers=headers)

    async def put_blob(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/blobs/DIGEST``."""
        wanted = request.match_info["digest"]
        if self._has(wanted):
            return web.Response()
        found = f"sha256:{hashlib.sha256(await request.read()).hexdigest()}"
        if found != wanted:
            raise ErrorAnswer(400, f'digest mismatch, expected "{wanted}", got "{found}"')
        self._blobs.add(found)
        return web.Response(status=201)

    async def _delayed(self, answer: Json) -> web.Response:
        await asyncio.sleep(self._script.latency_s)
        return json_answer(encode(answer))

    async def _steps(
        self, request: web.Request, fields: Json, steps: AsyncIterator[Json]
    ) -> web.StreamResponse:
        """Stream the steps, an error among them with status 200; or the last one alone."""
        if fields.get("stream") is False:
            return await _last(steps)
        wire = StreamedBody(request, self._script)
        try:
            async for step in steps:
                await wire.write([line(step)])
        except PullError as error:
            # The status went out with the first step.
            await wire.write([line({"error": str(error)})])
        await wire.finish()
        return wire.response

    async def _pushed(self, name: str) -> AsyncIterator[Json]:
        yield {"status": "retrieving manifest"}
        blob = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        # Whatever the name: the stand-in reaches no registry, and the words are those of such a machine.
        raise PullError(
            f'Head "https://registry.ollama.ai/v2/library/{name}/blobs/{blob}": dial tcp: lookup '
            "registry.ollama.ai on 127.0.0.53:53: no such host"
        )

    async def _created(self, fields: Json) -> AsyncIterator[Json]:
        base = await self._base(fields)
        if base is None:
            # All of a pull's lines, its "success" among them: more lines follow that one.
            async for step in self._downloads.pull(fields["from"], insecure=False):
                yield step
            base = self._store.find(fields["from"])
            if base is None:
                raise PullError(f"model '{fields['from']}' not found")
        elif fields.get("files"):
            yield {"status": "parsing GGUF"}
            self._need_blobs(fields["files"])
            yield {"status": "verifying conversion"}
        for layer in ("weights", *(name for name in _LAYERS if name == "config" or fields.get(name))):
            digest = hashlib.sha256(f"{base.name}{layer}{fields.get(layer)}".encode()).hexdigest()
            yield {"status": f"creating new layer sha256:{digest}"}
        yield {"status": "writing manifest"}
        self._store.add(_derived(base, fields))
        yield {"status": "success"}

    async def _base(self, fields: Json) -> Model | None:
        """What a new model is made from; None when that is not here."""
        if fields.get("files"):
            return Model(name=fields["model"])
        if fields.get("remote_host"):
            remote = {"remote_model": fields["from"], "remote_host": fields["remote_host"]}
            return Model(name=fields["model"], size=196, **remote)
        return self._store.find(fields["from"])

    def _has(self, digest: str) -> bool:
        known = digest in self._blobs or digest in self._store.blobs
        return known or digest in self._script.blobs or "*" in self._script.blobs

    def _need_blobs(self, files: dict[str, str]) -> None:
        for digest in files.values():
            if not self._has(digest):
                raise PullError(f"open {store.blob_path(digest)}: no such file or directory")


async def _last(steps: AsyncIterator[Json]) -> web.Response:
    last: Json = {}
    headers = {"Content-Type": "application/json"}
    try:
        async for step in steps:
            last = step
    except PullError as error:
        return web.Response(status=500, body=encode({"error": str(error)}), headers=headers)
    return web.Response(body=encode(last), headers=headers)


def _derived(base: Model, fields: Json) -> Model:
    template = fields.get("template") or base.template
    gained = [name for word, name in ((".Tools", "tools"), (".Think", "thinking")) if word in template]
    return msgspec.structs.replace(
        base,
        name=fields["model"],
        template=template,
        system=fields.get("system") or base.system,
        capabilities=tuple(dict.fromkeys((*base.capabilities, *gained))),
        parent_model=base.name if fields.get("from") else "",
        num_predict=(fields.get("parameters") or {}).get("num_predict", base.num_predict),
        # Filled in when it is installed: it is another model than its base.
        digest="",
        modified_at="",
    )
