"""A server of another make, as small as the protocol allows, with one fault switched on at a time."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import itertools
import json
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSMsgType, web

from obt_conformance.drivers import EXAMPLES, Caller, Driver, ServerJob
from tests.conformance.times import SHORT

KNOWN_METHODS = {"models.sync", "hardware.sync", "jobs.sync", "job.part", "job.finished"}
FIELDS = {"revision", "page", "ollama", "list_digest", "models", "running", "stale", "store_id", "jobs"}
STREAM_CREDIT, LINK_CREDIT = 32 << 10, 128 << 10


def digest(text: bytes | str) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


class Call:
    """A request of the server in flight, and its stream."""

    def __init__(
        self, session: Session, number: int, method: str, params: dict[str, Any], caller: Caller
    ) -> None:
        self.session, self.number, self.method, self.params = session, number, method, params
        self.caller = caller
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.seq = 0
        self.pieces = ""
        self.joined: str | None = None
        self.broken = False
        self.balance = STREAM_CREDIT
        self.grants: set[asyncio.Task[None]] = set()

    async def grant(self, size: int) -> None:
        """Give credit back once the caller has read what came."""
        if "credit comes unread" not in self.session.server.faults:
            await self.caller.may_read.wait()
        self.balance += size
        await self.session.notify("stream.credit", {"id": self.number, "bytes": size})

    def end(self, *, good: bool) -> None:
        for task in self.grants:
            task.cancel()
        if not self.ended.done():
            self.ended.set_result(good)

    async def succeeded(self) -> bool:
        return await asyncio.shield(self.ended)

    async def stop(self) -> None:
        if self.ended.done():
            return
        params: dict[str, Any] = {"id": self.number}
        if "cancel names both" in self.session.server.faults:
            params["job_id"] = "j"
        await self.session.request("cancel", params)
        self.end(good=False)


class Session:
    """One socket."""

    def __init__(self, server: TinyServer, socket: web.WebSocketResponse, agent_id: str | None) -> None:
        self.server, self.socket, self.agent_id = server, socket, agent_id
        self.instance = ""
        self.admitted = False
        self.heard = time.monotonic()
        self.bad = 0
        self.serial = next(server.numbers)
        self.last_pong = time.monotonic()
        self.syncs = 0
        self.link = LINK_CREDIT
        self.calls: dict[int, Call] = {}
        self.pages: list[str] = []
        self.seen_ids: set[str] = set()
        self.ids = itertools.count(1)

    async def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):
            await self.socket.send_str(json.dumps({"jsonrpc": "2.0", **message}))

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        await self.send({"method": method, "params": params})

    async def request(self, method: str, params: dict[str, Any]) -> int:
        number = next(self.ids)
        await self.send({"id": number, "method": method, "params": params})
        return number

    async def error(self, id_: Any, code: int, text: str = "no", **data: Any) -> None:
        await self.send({"id": id_, "error": {"code": code, "message": text, "data": {"kind": "x", **data}}})

    async def close(self, code: int) -> None:
        await self.socket.close(code=code, message=b"")


class TinyServer:
    """Everything that the rules ask, but the named fault."""

    def __init__(self, *faults: str) -> None:
        self.faults = set(faults)
        self.secrets: dict[str, str] = {}
        self.joins: dict[str, tuple[str, str] | None] = {}
        self.sessions: dict[str, Session] = {}
        self.stores: dict[str, str] = {}
        self.numbers = itertools.count(1)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.models: dict[str, list[str]] = {}
        self.parts: dict[str, bytes] = {}
        self.lost_calls: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self.candidates: dict[str, str] = {}
        self.url = ""

    def __contains__(self, fault: str) -> bool:
        return fault in self.faults

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[TinyServer]:
        app = web.Application()
        app.router.add_get("/api/v1/agents/connect", self.connect)
        app.router.add_post("/api/v1/agents/enroll", self.enroll)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            for session in list(self.sessions.values()):
                await session.close(1001)
            await runner.cleanup()

    async def restart(self) -> None:
        """Lose what is in memory alone."""
        for session in list(self.sessions.values()):
            await session.close(1012)
        self.parts.clear()
        if "sessions begin anew" in self:
            self.numbers = itertools.count(1)
        if "starts are not stored" in self:
            self.jobs = {id_: job for id_, job in self.jobs.items() if job["state"] != "starting"}
        if "results are held in memory" in self:
            for job in self.jobs.values():
                job.pop("result", None)

    # Enrolment.

    async def enroll(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        body = await request.json()
        wanted = (body["agent"]["id"], body["secret_sha256"])
        if token not in self.joins or (
            self.joins[token] not in (None, wanted) and "a join token works twice" not in self
        ):
            return web.json_response({"error": {"message": "refused"}}, status=401)
        known = wanted[0] in self.secrets.values() and self.joins[token] != wanted
        if known and "an enrolled id is taken over" not in self:
            return web.json_response({"error": {"message": "enrolled already"}}, status=409)
        self.joins[token] = wanted
        # By a key of each agent's own: a later enrolment must not make the server forget this one's id.
        kept = digest(f"- {wanted[0]}") if "no secret is kept" in self else wanted[1]
        self.secrets[kept] = wanted[0]
        return web.json_response({"agent_id": wanted[0], "server": {"name": "tiny", "version": "1"}})

    # The socket.

    async def connect(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        agent_id = self.secrets.get(digest(token)) if token else None
        if agent_id is None and (token or "nobody needs a credential" not in self):
            return web.Response(status=401)
        socket = web.WebSocketResponse(
            protocols=() if "no subprotocol" in self else ("obt.v1",),
            compress=False,
            autoping=False,
            max_msg_size=(48 << 10) if "small frames only" in self else (1 << 20) + 1,
        )
        await socket.prepare(request)
        session = Session(self, socket, agent_id)
        watch = asyncio.create_task(self._watch(session))
        try:
            await self._read(session, digest(token))
        finally:
            watch.cancel()
            for call in session.calls.values():
                if call.method == "generate" and not call.ended.done():
                    self.lost_calls.setdefault(session.agent_id or "", []).append((call.method, call.params))
                call.end(good="lost calls pass" in self)
            if self.sessions.get(session.agent_id or "") is session:
                del self.sessions[session.agent_id or ""]
        return socket

    async def _watch(self, session: Session) -> None:
        started = time.monotonic()
        while not session.socket.closed:
            await asyncio.sleep(SHORT.alive_s / 2)
            now = time.monotonic()
            if not session.admitted:
                if now - started > SHORT.hello_s and "hellos may take for ever" not in self:
                    await session.close(4408)
                continue
            if "nothing is said when idle" not in self:
                await session.notify("link.alive", {})
            if "pongs are asked for" in self:
                await session.socket.ping()
                if now - session.last_pong > SHORT.silence_s:
                    await session.close(1011)
            if session.calls:
                ids = [] if "no stream is alive" in self else [*session.calls]
                await session.notify("streams.alive", {"ids": ids})
            if now - session.heard > SHORT.silence_s and "silence is borne" not in self:
                transport = session.socket._req.transport  # type: ignore[union-attr] # noqa: SLF001 - no other way
                if transport is not None:
                    transport.abort()

    async def _read(self, session: Session, secret: str) -> None:
        if "it asks at once" in self:
            await session.request("state.request", {"kinds": ["models"]})
        async for message in session.socket:
            if message.type is WSMsgType.PING:
                await session.socket.pong(message.data)
            if message.type is WSMsgType.PONG:
                session.last_pong = time.monotonic()
            if message.type is not WSMsgType.PONG or "pongs are life" in self:
                session.heard = time.monotonic()
            if message.type is WSMsgType.BINARY:
                if "binary frames are taken" in self:
                    continue
                await session.close(1003)
            elif message.type is WSMsgType.TEXT:
                await self._frame(session, message.data, secret)

    async def _frame(self, session: Session, text: str, secret: str) -> None:
        try:
            frame = json.loads(text)
        except (ValueError, RecursionError):
            await self._bad(session, -32700)
            return
        if isinstance(frame, list) and "batches are ignored" in self:
            return
        if not isinstance(frame, dict) or depth(frame) > 64:
            await self._bad(session, -32600)
            return
        if not session.admitted:
            await self._hello(session, frame, len(text), secret)
        elif "method" not in frame:
            await self._answer(session, frame)
        elif "id" in frame:
            await self._request(session, frame, len(text))
        else:
            await self._notification(session, frame, len(text))

    async def _bad(self, session: Session, code: int) -> None:
        await session.error(5 if "errors guess an id" in self else None, code)
        session.bad += 1
        if session.bad >= 10 and "bad frames are borne" not in self:
            await session.close(4400)

    # Opening.

    async def _hello(self, session: Session, frame: dict[str, Any], size: int, secret: str) -> None:
        params = frame.get("params", {})
        if frame.get("method") != "agent.hello" and "anything may come first" in self:
            await session.send({"id": frame.get("id"), "result": {}})
            return
        code = self._refusal(session, frame, size)
        if code is None:
            session.instance = params["agent"]["instance"]
            if await self._replace_old_session(session):
                await self._admit(session, frame, params, secret)
                return
        await session.close(code or 4409)

    def _refusal(self, session: Session, frame: dict[str, Any], size: int) -> int | None:
        """The close code for a first frame that admits nobody."""
        params = frame.get("params", {})
        if size > 32 << 10 and "hellos may be long" not in self:
            return 1009
        if frame.get("method") != "agent.hello" or "store_id" not in params:
            return 4400
        if params["protocol"]["min"] > 1 and "any version will do" not in self:
            return 4426
        own = session.agent_id in (None, params["agent"]["id"]) or "any id will do" in self
        return None if own else 4401

    async def _replace_old_session(self, session: Session) -> bool:
        old = self.sessions.get(session.agent_id or "")
        if old is None:
            return True
        if old.instance != session.instance and "a second process replaces" not in self:
            before = max(old.heard, old.last_pong)
            with contextlib.suppress(ConnectionError, RuntimeError):
                await old.socket.ping()  # it may be due to speak only just after the probe
            await asyncio.sleep(SHORT.probe_s)
            if max(old.heard, old.last_pong) > before or "the first one stays for ever" in self:
                return False
        if "redials pile up" not in self:
            asyncio.get_running_loop().create_task(old.close(1001))
        return True

    async def _admit(
        self, session: Session, frame: dict[str, Any], params: dict[str, Any], secret: str
    ) -> None:
        agent_id = session.agent_id or ""
        session.admitted = True
        self.sessions[agent_id] = session
        store = params["store_id"]
        if self.stores.setdefault(agent_id, store) != store and "stores are not compared" not in self:
            for job in self.jobs.values():
                if job["agent"] == agent_id and "sha256" not in job:
                    job["state"] = "lost"
        self.stores[agent_id] = store
        if self.candidates.get(agent_id) == secret and "the old credential stays" not in self:
            self.secrets = {one: whose for one, whose in self.secrets.items() if whose != agent_id}
            self.secrets[secret] = agent_id
        number = 1 if "sessions have no number" in self else next(self.numbers)
        await session.send({"id": frame["id"], "result": {"protocol": 1, "session": number}})
        if "lost calls are replayed" in self:
            for method, lost in self.lost_calls.pop(agent_id, []):
                await session.request(method, lost)

    # What agents say.

    async def _notification(self, session: Session, frame: dict[str, Any], size: int) -> None:
        if frame["method"] == "stream.data":
            await self._data(session, frame["params"], size)
        if frame["method"] == "agent.goodbye" and "a goodbye is an error" in self:
            await session.close(4400)
        if frame["method"] == "heartbeat" and "heartbeats are refused" in self:
            await session.error(None, -32601)

    async def _data(self, session: Session, params: dict[str, Any], size: int) -> None:
        await self._give_link(session, size)
        call = session.calls.get(params["id"])
        if call is None:
            return
        call.balance -= size
        if size > 20 << 10 and "nobody may overdraw" in self:
            await session.close(4429)
        if params["seq"] != call.seq and "holes pass" not in self:
            call.broken = True
        call.seq = params["seq"] + 1
        if "part" in params:
            call.pieces += params["part"]
            if not params.get("more"):
                call.joined, call.pieces = call.pieces, ""
            if "pieces are not known" in self:
                call.broken = True
        if "streams are granted nothing" not in self:
            task = asyncio.create_task(call.grant(size))
            call.grants.add(task)
            task.add_done_callback(call.grants.discard)

    async def _give_link(self, session: Session, size: int) -> None:
        if "the link is granted nothing" not in self:
            times = 4 if "the link is granted fourfold" in self else 1
            await session.notify("link.credit", {"bytes": times * size})

    async def _answer(self, session: Session, frame: dict[str, Any]) -> None:
        call = session.calls.pop(frame.get("id", -1), None) if isinstance(frame.get("id"), int) else None
        if call is None:
            return
        if "error" in frame:
            call.end(good="errors pass" in self)
            return
        result = frame["result"]
        good = not call.broken
        if isinstance(result, dict) and "sha256" in result and call.method == "embed":
            good = good and (
                "hashes are not compared" in self or digest(call.joined or "") == result["sha256"]
            )
        if call.method == "credentials.rotate":
            agent_id = session.agent_id or ""
            self.candidates[agent_id] = result["sha256"]
            if "the old credential goes at once" in self:
                self.secrets = {one: whose for one, whose in self.secrets.items() if whose != agent_id}
            self.secrets[result["sha256"]] = agent_id
        call.end(good=good)

    async def _request(self, session: Session, frame: dict[str, Any], size: int) -> None:
        method, params, id_ = frame["method"], frame.get("params", {}), frame["id"]
        if method in KNOWN_METHODS:
            await self._give_link(session, size)
        if id_ == "twice" and "an id works once" in self:
            if id_ in session.seen_ids:
                return
            session.seen_ids.add(id_)
        if id_ == "1" and "ids become numbers" in self:
            id_ = 1
        if method not in KNOWN_METHODS:
            await session.error(id_, -32603 if "unknown methods are our fault" in self else -32601)
            return
        if not isinstance(params, dict):
            if "lists pass for parameters" in self:
                await session.send({"id": id_, "result": {}})
            else:
                await session.error(id_, -32602)
            return
        await self._known(session, method, params, id_)

    async def _known(self, session: Session, method: str, params: dict[str, Any], id_: Any) -> None:
        if method == "job.part":
            await self._part(session, params, id_)
        elif method == "job.finished":
            await self._finished(session, params, id_)
        else:
            await self._sync(session, method, params, id_)

    async def _sync(self, session: Session, method: str, params: dict[str, Any], id_: Any) -> None:
        session.syncs += 1
        if not isinstance(params.get("revision"), int):
            await session.error(id_, -32602, "params.revision: not a number")
            return
        if "unknown fields are refused" in self and set(params) - FIELDS:
            await session.error(id_, -32602, "params: unknown field")
            return
        if "busy gives no time" in self and session.syncs > 64:
            await session.error(id_, -32003)
            return
        if "calls hold up reading" in self and session.calls and session.syncs > 50:
            return
        if method == "models.sync":
            self._models_came(session, params)
        await session.send({"id": id_, "result": {}})
        if "answers come twice" in self and method == "models.sync":
            await session.send({"id": id_, "result": {}})
        if method == "jobs.sync":
            await self._start_again(session)

    def _models_came(self, session: Session, params: dict[str, Any]) -> None:
        page = params["page"]
        pages = session.pages if page["index"] else []
        session.pages = pages + [model["name"] for model in params["models"]]
        first_alone = "the first page is the list" in self and page["index"] == 0
        if first_alone or (page["last"] and "the first page is the list" not in self):
            self.models[session.agent_id or ""] = session.pages

    # Jobs.

    async def _start_again(self, session: Session) -> None:
        for job in list(self.jobs.values()):
            if "lost starts are forgotten" in self:
                return
            if job["agent"] == session.agent_id and job["state"] == "starting":
                params = dict(job["params"])
                if "a start comes again otherwise" in self:
                    params["plan"] = {**params["plan"], "num_iterations": 9}
                await self.call(session, "run_benchmark", params)

    async def _part(self, session: Session, params: dict[str, Any], id_: Any) -> None:
        job_id, data = params["job_id"], params["data"]
        piece = base64.b64decode(data) if params["encoding"] == "gzip" else data.encode()
        held = b"" if params["offset"] == 0 else self.parts.get(job_id, b"")
        if params["offset"] == len(held) or "pieces are joined as they come" in self:
            held = self.parts[job_id] = held + piece
        await session.send({"id": id_, "result": {"job_id": job_id, "next_offset": len(held)}})

    async def _finished(self, session: Session, params: dict[str, Any], id_: Any) -> None:
        missing = {"job_id", "kind", "state", "bytes", "sha256"} - set(params)
        if missing:
            named = "a field" if "messages are vague" in self else missing.pop()
            await session.error(id_, -32602, f"params: {named} is missing")
            return
        if params["state"] != "completed" and "only completed jobs count" in self:
            await session.error(id_, -32602, "params.state")
            return
        await session.send({"id": id_, "result": self._verdict(session, params)})

    def _verdict(self, session: Session, params: dict[str, Any]) -> dict[str, Any]:
        job_id = params["job_id"]
        job = self.jobs.setdefault(job_id, {"agent": session.agent_id, "state": "running", "params": {}})
        if job["state"] == "lost" and "lost jobs stay lost" in self:
            return {"job_id": job_id, "conflict": True}
        stored = job.get("sha256")
        if stored is not None and stored != params["sha256"] and "the last result wins" not in self:
            return {"job_id": job_id, "conflict": True}
        other = job.setdefault("session", session.serial) != session.serial
        if other and stored == params["sha256"] and "repeats are not known" in self:
            return {"job_id": job_id, "conflict": True}
        believed = stored is not None or "hashes are believed" in self
        text = self._text(params)
        if not believed and digest(text) != params["sha256"]:
            return {"job_id": job_id, "resend_from": 0}
        failed_too = "failed is stored as completed" in self
        job["sha256"], job["state"] = params["sha256"], "completed" if failed_too else params["state"]
        if "results are not kept" not in self:
            job["result"] = text
        return {"job_id": job_id, "sha256": params["sha256"]}

    def _text(self, params: dict[str, Any]) -> bytes:
        if "result" in params:
            return str(params["result"]).encode()
        held = self.parts.get(params["job_id"], b"")
        if params.get("encoding") == "gzip" and "gzip is not unpacked" not in self:
            with contextlib.suppress(OSError, EOFError, zlib.error):
                held = gzip.decompress(held)
        return held

    # What the server asks.

    async def call(
        self, session: Session, method: str, params: dict[str, Any], caller: Caller | None = None
    ) -> Call:
        number = await session.request(method, params)
        call = session.calls[number] = Call(session, number, method, params, caller or Caller())
        if method == "run_benchmark":
            call.ended.add_done_callback(lambda done: self._note_start(params["job_id"], good=done.result()))
        return call

    def _note_start(self, job_id: str, *, good: bool) -> None:
        if good and self.jobs[job_id]["state"] == "starting":
            self.jobs[job_id]["state"] = "queued"


class TinyDriver(Driver):
    """The way into a tiny server: its own methods."""

    triggers = queries = True

    def __init__(self, server: TinyServer) -> None:
        self._server = server
        self._jobs = itertools.count(1)

    async def call(self, method: str, agent_id: str, caller: Caller) -> bool:
        server = self._server
        call = await server.call(server.sessions[agent_id], method, self._params(method, agent_id), caller)
        try:
            return await call.succeeded()
        finally:
            await call.stop()

    def _params(self, method: str, agent_id: str) -> dict[str, Any]:
        params = dict(EXAMPLES[method])
        if method == "generate" and "no model is named" in self._server:
            del params["model"]
        if method == "credentials.rotate":
            return {"rotation_id": "r1"}
        if method == "run_benchmark":
            same = "all jobs have one id" in self._server
            number = self._server.sessions[agent_id].serial if same else next(self._jobs)
            job_id = f"job-{agent_id}-{number}"
            params = {"job_id": job_id, "plan": params}
            self._server.jobs[job_id] = {"agent": agent_id, "state": "starting", "params": params}
        return params

    async def job(self, agent_id: str, job_id: str) -> ServerJob | None:
        del agent_id
        job = self._server.jobs.get(job_id)
        if job is None:
            return None
        return ServerJob(job["state"], json.loads(job["result"]) if "result" in job else None)

    async def models(self, agent_id: str) -> list[str]:
        return self._server.models.get(agent_id, [])

    async def restart(self) -> None:
        await self._server.restart()
