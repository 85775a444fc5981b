"""aiohttp, imported without the authorities that it loads meanwhile: each context of ours loads its own.

While it is imported aiohttp makes two contexts for ``https`` and reads the system's authorities into both; a
daemon mostly speaks ``http`` to Ollama. OpenSSL's own variable names their file; it is set for the import.
"""

from __future__ import annotations

import os
from typing import Final

_VARIABLE: Final = "SSL_CERT_FILE"

_before = os.environ.get(_VARIABLE)
os.environ[_VARIABLE] = os.devnull
try:
    import aiohttp
    from aiohttp.client_proto import ResponseHandler
finally:
    if _before is None:
        del os.environ[_VARIABLE]
    else:
        os.environ[_VARIABLE] = _before

__all__ = ["ResponseHandler", "aiohttp"]
