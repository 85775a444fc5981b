"""An import that would cost each command time, and the daemon memory for as long as it runs."""

from __future__ import annotations

import sys


def import_structlog_alone() -> None:
    """Import structlog without rich and greenlet, which it loads where they are installed.

    rich draws tracebacks in colour, which the agent never prints: sixty modules, 3.4 MB. greenlet is
    the server's.
    """
    if "structlog" in sys.modules:
        return
    kept_out = [name for name in ("rich", "greenlet") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(kept_out))  # type: ignore[arg-type]  # None: what importlib takes for "not there"
    import structlog  # noqa: F401, PLC0415 - it must be imported between the two: RssAnon of the daemon 31.3 MB, else 34.7 MB

    for name in kept_out:
        del sys.modules[name]
