from __future__ import annotations

import pytest

from obt_agent.errors import ConfigError
from obt_agent.ollama.client import OllamaClient, OllamaSettings
from obt_agent.ollama.settings import normal_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("http://127.0.0.1:11434/", "http://127.0.0.1:11434"),
        ("gpu-box:8080", "http://gpu-box:8080"),
        ("gpu-box", "http://gpu-box:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104 - it is read here, and turned into loopback
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        ("[::1]", "http://[::1]:11434"),
        ("https://ollama.example", "https://ollama.example:443"),
        ("http://ollama.example/behind/proxy/", "http://ollama.example:80/behind/proxy"),
        ("  127.0.0.1  ", "http://127.0.0.1:11434"),
    ],
)
def test_every_usual_form_of_the_address_becomes_one_url(text: str, url: str) -> None:
    assert normal_url(text) == url
    assert normal_url(url) == url


@pytest.mark.parametrize(
    "text",
    [
        "ftp://x",
        "http://user:secret@x",
        "http://x:99999",
        "http://x:abc",
        "http://x/?q=1",
        "http://a b",
        "http://[x",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:11434"):
        normal_url(text)


def test_a_password_in_the_address_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        normal_url("http://user:hunter2@host")
    assert "hunter2" not in caught.value.message


def test_the_client_uses_the_normal_form_also_below_a_path() -> None:
    assert OllamaClient(OllamaSettings(url="0.0.0.0:8080/base/")).url == "http://127.0.0.1:8080/base"
