"""What the relay keeps of an exchange, however the bytes come."""

from __future__ import annotations

import json

import pytest

from tests.real_ollama.__main__ import latest
from tests.real_ollama.tap import Exchange, Tap

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
REQUEST = b"GET /api/tags HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("cut", [10, len(HEAD), len(HEAD) + 1, len(HEAD) + 20])
def test_while_a_later_answer_comes_the_newest_is_the_one_before_it(cut: int) -> None:
    def answer(name: str) -> bytes:
        return HEAD + json.dumps({"models": [{"name": name}]}).encode()

    tap = Tap("http://127.0.0.1:9")
    before, later = Exchange(request=REQUEST), Exchange(request=REQUEST)
    tap.exchanges += [before, later]
    before.answered(answer("before"), 1)
    later.answered(answer("later")[:cut], 2)
    assert latest(tap, "/api/tags") == {"models": [{"name": "before"}]}
    later.answered(answer("later")[cut:], 3)
    assert latest(tap, "/api/tags") == {"models": [{"name": "later"}]}
