"""Ways of meeting a request that no Ollama has."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from obt_standin.script import Answer
from obt_standin.wire import reset

_HTML: Final = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>It works!</body></html>"
_BAD_GATEWAY: Final = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    "<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


async def special_answer(request: web.Request, answer: Answer) -> web.Response | None:
    """Return the answer that the script wants in place of Ollama's; None for Ollama's own."""
    match answer:
        case "html":
            return web.Response(text=_HTML, content_type="text/html")
        case "bad_gateway":
            return web.Response(status=502, text=_BAD_GATEWAY, content_type="text/html")
        case "hang":
            # Silence, until the client or the stand-in goes.
            await asyncio.Event().wait()
        case "reset":
            reset(request)
            return web.Response()
        case "garbage":
            # Past aiohttp, which writes nothing but HTTP.
            if request.transport is not None:
                request.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n")
                request.transport.close()
            return web.Response()
    return None
