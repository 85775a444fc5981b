"""The daemon that runs beside Ollama and serves one OBT server over a socket that it opened itself."""

# The distribution takes its version from here when it is built. Asking the installed distribution's metadata
# instead would cost each start of a command about 60 ms, and the daemon memory for parts of the standard
# library that it needs for nothing else.
__version__ = "0.1.0"
