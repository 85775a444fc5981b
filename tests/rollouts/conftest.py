"""The server of the server's tests, for rollouts."""

from tests.server.conftest import server

__all__ = ["server"]
