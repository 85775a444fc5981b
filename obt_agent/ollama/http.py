"""aiohttp, imported without the authorities of TLS. The rooms of Ollama's client import it from here.

At its import it makes two TLS contexts and loads into each every authority that the system trusts: 2 MB for
as long as the agent runs, and Ollama nearly always answers in the clear on the same machine. They are made
empty here, so that whoever used one by mistake would trust nobody; an ``https`` address gets ``trusting``.
"""

from __future__ import annotations

import ssl


def _trust_nobody(_context: ssl.SSLContext) -> None:
    """In the place of ``SSLContext.set_default_verify_paths`` while aiohttp is imported."""


_LOADS = "set_default_verify_paths"

setattr(ssl.SSLContext, _LOADS, _trust_nobody)
try:
    import aiohttp
    from aiohttp.client_proto import ResponseHandler
finally:
    delattr(ssl.SSLContext, _LOADS)  # uncovers the one that it inherits

__all__ = ["ResponseHandler", "aiohttp", "trusting"]


def trusting() -> ssl.SSLContext:
    """A context that trusts the system's authorities, as aiohttp's own would."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context
