"""The smallest useful OBT server, written from docs/reference/protocol.md. Needs only the package websockets.

    python minimal_server.py TOKEN_FILE [PORT [FOLDER]]

It admits the agent that shows the token, prints its models, streams one generation of the first that can,
starts one benchmark of it, and writes each result into FOLDER before it tells the agent that it has it. Names
in brackets are the document's rules. Left out: enrolment (the token is the credential, ``server.token_file``
in the agent's configuration), several agents, images, TLS; it listens on this machine's loopback alone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import sys
import time
import uuid
import zlib
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Json = dict[str, Any]

ALIVE_EVERY_S: Final = 5.0  # [LIFE-1]
SILENCE_S: Final = 18.0  # [LIFE-2]
HELLO_WITHIN_S: Final = 10.0  # [HELLO-1]
MOST_HELLO_BYTES: Final = 32 << 10
MOST_RESULT_BYTES: Final = 64 << 20
GZIP: Final = 16 + zlib.MAX_WBITS
SESSIONS: Final = itertools.count(time.time_ns() // 1_000_000)  # [HELLO-2] grows, also over restarts


class Session:
    """One admitted socket."""

    def __init__(self, socket: ServerConnection, folder: Path) -> None:
        self.socket, self.folder, self.ids = socket, folder, itertools.count(1)
        self.waiting: dict[int, tuple[asyncio.Future[Json], Callable[[Json], None]]] = {}
        self.pieces: dict[int, list[str]] = {}
        self.parts: dict[str, bytearray] = {}
        self.pages: list[Json] = []
        self.models: asyncio.Future[list[Json]] = asyncio.get_running_loop().create_future()

    async def send(self, **message: Any) -> None:
        """Send one frame."""
        await self.socket.send(json.dumps({"jsonrpc": "2.0", **message}))

    async def ask(self, method: str, params: Json, on_item: Callable[[Json], None] = print) -> Json:
        """Send a request, and wait for its one answer; items of a stream go to ``on_item`` meanwhile."""
        number = next(self.ids)
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self.waiting[number] = (answer, on_item)
        await self.send(id=number, method=method, params=params)
        return await answer

    async def stay(self) -> None:
        """Be heard."""
        while True:
            await self.send(method="link.alive", params={})
            await asyncio.sleep(ALIVE_EVERY_S)

    async def read(self) -> None:
        """Take every frame, until none came for too long."""
        while True:
            async with asyncio.timeout(SILENCE_S):
                frame = str(await self.socket.recv())
            await self.take(json.loads(frame), len(frame.encode()))

    async def take(self, message: Json, size: int) -> None:
        """One frame of ``size`` bytes, with credit for those that cost some [CREDIT-1, CREDIT-4]."""
        method, params = message.get("method"), message.get("params", {})
        if method is None:
            self.answered(message)
        elif method == "stream.data":
            self.stream_data(params)
            await self.send(method="stream.credit", params={"id": params["id"], "bytes": size})
            await self.send(method="link.credit", params={"bytes": size})
        elif "id" in message:
            await self.send(id=message["id"], result=self.answer(method, params))
            await self.send(method="link.credit", params={"bytes": size})

    def stream_data(self, params: Json) -> None:
        """Items go to whoever asked; a text in pieces waits until it is whole [STREAM-3]."""
        number = params["id"]
        if number not in self.waiting:
            return
        on_item = self.waiting[number][1]
        held = self.pieces.setdefault(number, [])
        if len(held) > 1 and held[-1] == "":  # a whole text, and more of the stream: it was an item
            on_item(json.loads("".join(held)))
            held.clear()
        for item in params.get("items", ()):
            on_item(item)
        if "part" in params:
            held.append(params["part"])
            if not params.get("more", False):
                held.append("")

    def answered(self, message: Json) -> None:
        """The one answer; a text that came before in pieces is the result if the answer holds its sha256."""
        if message["id"] not in self.waiting:
            return
        answer, on_item = self.waiting.pop(message["id"])
        text = "".join(self.pieces.pop(message["id"], ()))
        if text and message.get("result", {}).get("sha256") == hashlib.sha256(text.encode()).hexdigest():
            message["result"] = json.loads(text)
        elif text:
            on_item(json.loads(text))
        answer.set_result(message)

    def answer(self, method: str, params: Json) -> Json:
        """What the agent is told."""
        if method == "models.sync":
            page = params.get("page", {"index": 0, "last": True})
            self.pages = self.pages + params["models"] if page["index"] else params["models"]
            if page["last"] and self.pages and not self.models.done():
                self.models.set_result(self.pages)
        if method == "job.part":
            return self.job_part(params)
        if method == "job.finished":
            return self.job_finished(params)
        return {}

    def job_part(self, params: Json) -> Json:
        """A piece of a result [JOB-4]; the answer names the next offset."""
        if params["offset"] == 0:
            self.parts[params["job_id"]] = bytearray()
        parts = self.parts.setdefault(params["job_id"], bytearray())
        if params["offset"] == len(parts):
            gzipped = params.get("encoding") == "gzip"
            parts += base64.b64decode(params["data"]) if gzipped else params["data"].encode()
        return {"job_id": params["job_id"], "next_offset": len(parts)}

    def job_finished(self, params: Json) -> Json:
        """Hash, store, and only then acknowledge [JOB-5]."""
        job_id, text = params["job_id"], self.whole(params)
        digest = hashlib.sha256(text).hexdigest()
        if digest != params["sha256"]:
            return {"job_id": job_id, "resend_from": 0}
        with (self.folder / f"{digest}.json").open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        print(f"job {job_id} {params['state']}, stored as {digest}.json", flush=True)
        return {"job_id": job_id, "sha256": digest}

    def whole(self, params: Json) -> bytes:
        """The result's JSON text, unpacked to no more than was said."""
        if "result" in params:
            return str(params["result"]).encode()
        parts = bytes(self.parts.pop(params["job_id"], b""))
        if params.get("encoding") != "gzip":
            return parts
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(GZIP).decompress(parts, min(params["bytes"], MOST_RESULT_BYTES) + 1)
        return b""

    @staticmethod
    def show(item: Json) -> None:
        """One chunk of a generation."""
        print(item["chunk"]["response"], end="")

    async def use(self) -> None:
        """What this server wants of the agent."""
        models = await self.models
        print("models:", ", ".join(model["name"] for model in models), flush=True)
        name = next(model["name"] for model in models if "completion" in model["capabilities"])
        question = {"model": name, "prompt": "Why is the sky blue?"}
        answer = await self.ask("generate", question, self.show)
        print(f"\nanswer: {json.dumps(answer)}", flush=True)
        prompt = {"prompt_tokens": 128, "completion_tokens": 32}
        plan = {"model_name": name, "num_iterations": 10, "prompt_config": prompt}
        answer = await self.ask("run_benchmark", {"job_id": str(uuid.uuid4()), "plan": plan})
        print(f"benchmark: {json.dumps(answer)}", flush=True)


async def admit(socket: ServerConnection, folder: Path) -> None:
    """Answer the hello [HELLO-2], then serve until the socket ends."""
    try:
        async with asyncio.timeout(HELLO_WITHIN_S):
            frame = str(await socket.recv())
    except TimeoutError:
        return await socket.close(4408, "no hello came in time")  # [HELLO-1]
    if len(frame.encode()) > MOST_HELLO_BYTES:
        return await socket.close(1009, "a hello has at most 32 KiB")
    hello = json.loads(frame)
    if hello.get("method") != "agent.hello":
        return await socket.close(4400, "agent.hello comes first")
    if not hello["params"]["protocol"]["min"] <= 1 <= hello["params"]["protocol"]["max"]:
        return await socket.close(4426, "this server speaks version 1")
    session = Session(socket, folder)
    await session.send(id=hello["id"], result={"protocol": 1, "session": next(SESSIONS)})
    print("admitted:", hello["params"]["agent"]["name"], flush=True)
    try:
        async with asyncio.TaskGroup() as tasks:
            for part in (session.read(), session.stay(), session.use()):
                tasks.create_task(part)
    except* (ConnectionClosed, TimeoutError) as ended:
        print("ended:", *ended.exceptions, flush=True)
    socket.transport.abort()  # [LIFE-2] without a closing handshake, which a dead peer would not answer
    return None


async def main(token: str, port: int, folder: Path) -> None:
    """Serve until interrupted."""
    expected = f"Bearer {token}"

    def check(socket: ServerConnection, request: Request) -> Response | None:
        if request.path != "/api/v1/agents/connect":
            return socket.respond(HTTPStatus.NOT_FOUND, "Agents connect elsewhere.\n")
        shown = request.headers.get("Authorization", "")
        if not hmac.compare_digest(shown.encode(), expected.encode()):
            return socket.respond(HTTPStatus.UNAUTHORIZED, "Not a credential of this server.\n")
        return None

    async with serve(
        lambda socket: admit(socket, folder),
        "127.0.0.1",
        port,
        subprotocols=[Subprotocol("obt.v1")],
        process_request=check,
        compression=None,  # [TRANSPORT-1]
        ping_interval=None,  # [LIFE-2] a pong's timeout kills links that are slow and healthy
        max_size=1 << 20,
    ) as server:
        address, number = server.sockets[0].getsockname()[:2]
        print(f"listening on http://{address}:{number}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        token_file, port, folder = [*sys.argv[1:], *("", "8882", ".")[len(sys.argv) - 1 :]]
        asyncio.run(main(Path(token_file).read_text().strip(), int(port), Path(folder)))
