"""The daemon that runs beside Ollama and serves one OBT server over a socket that it opened itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    """The version of the installed distribution, for example ``0.1.0``."""
else:

    def __getattr__(name: str) -> str:
        """Look ``__version__`` up when it is asked for: reading it takes longer than starting a command."""
        if name != "__version__":
            raise AttributeError(f"module 'obt_agent' has no attribute {name!r}")
        from importlib.metadata import version  # noqa: PLC0415 - the very import that is put off

        return version("obt-agent")
