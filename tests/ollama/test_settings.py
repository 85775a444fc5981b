from __future__ import annotations

from obt_agent.ollama.client import OllamaClient, OllamaSettings


def test_the_client_uses_the_normal_form_of_an_address_also_below_a_path() -> None:
    assert OllamaClient(OllamaSettings(url="0.0.0.0:8080/base/")).url == "http://127.0.0.1:8080/base"
