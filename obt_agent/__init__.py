"""The daemon that runs beside Ollama and serves one OBT server over a socket that it opened itself."""

from importlib.metadata import version as _version

__version__ = _version("obt-agent")
"""The version of the installed distribution, for example ``0.1.0``."""
