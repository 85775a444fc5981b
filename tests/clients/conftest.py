"""The client libraries, in an environment of their own, at the gateway of ``tests.gateway``."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.gateway.conftest import Here, gateway_server, here, token

__all__ = ["gateway_server", "here"]


@dataclass(frozen=True)
class Address:
    """What a person copies into a client's settings."""

    ollama: str
    openai: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@pytest.fixture
async def address(here: Here, monkeypatch: pytest.MonkeyPatch) -> Address:
    # The libraries would send requests to this machine through a proxy of the environment.
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    base = f"{here.server.url}/ollama/box"
    return Address(base, f"{base}/v1", await token(here.server))
