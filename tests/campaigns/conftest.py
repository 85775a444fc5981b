"""The server of the server's tests, for campaigns."""

from tests.server.conftest import server

__all__ = ["server"]
