"""Remote control, for a stand-in that runs as a process of its own: change the script, read log and load.

``GET`` and ``POST /_standin/script``, ``GET /_standin/log``, ``GET /_standin/load``, ``POST
/_standin/kill-runner``. Ollama has no such paths, and nothing that speaks to an Ollama asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from obt_standin.log import LoggedExchange
from obt_standin.runner import Runners
from obt_standin.script import Script
from obt_standin.store import Store

PREFIX = "/_standin/"


def routes(
    script: Script, store: Store, runners: Runners, exchanges: Iterable[LoggedExchange]
) -> list[web.RouteDef]:
    """The routes that control one stand-in."""

    async def show_script(_request: web.Request) -> web.Response:
        return _answer(script)

    async def change_script(request: web.Request) -> web.Response:
        try:
            # Checked as a whole before anything changes: a wrong field must not leave half a script.
            changes = msgspec.json.decode(await request.read(), type=dict[str, Any])
            wanted = msgspec.convert({**msgspec.to_builtins(script), **changes}, Script)
        except msgspec.MsgspecError as error:
            return web.json_response({"error": str(error)}, status=400)
        # In place: every part of the stand-in holds this very script.
        for name in changes.keys() & set(Script.__struct_fields__):
            setattr(script, name, getattr(wanted, name))
        # The script is only what is installed at the start; the store is what is there now.
        if "models" in changes:
            store.install(script.models)
        return _answer(script)

    async def show_log(_request: web.Request) -> web.Response:
        return _answer([_shown(exchange) for exchange in exchanges])

    async def show_load(_request: web.Request) -> web.Response:
        size_vram = sum(model["size_vram"] for model in runners.ps()["models"])
        generating = sum(runner.in_use for runner in runners.loaded())
        return _answer({"generating": generating, "size_vram": size_vram})

    async def kill_runner(_request: web.Request) -> web.Response:
        runners.kill()
        return _answer({})

    return [
        web.get(f"{PREFIX}script", show_script),
        web.post(f"{PREFIX}script", change_script),
        web.get(f"{PREFIX}log", show_log),
        web.get(f"{PREFIX}load", show_load),
        web.post(f"{PREFIX}kill-runner", kill_runner),
    ]


def _shown(exchange: LoggedExchange) -> dict[str, Any]:
    # Without the bytes, which may be megabytes: of each write when and how many.
    shown = {
        name: value for name, value in vars(exchange).items() if name not in {"body", "writes", "headers"}
    }
    return shown | {"writes": [(at_ns, len(data)) for at_ns, data in exchange.writes]}


def _answer(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
