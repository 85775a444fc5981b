"""Reading requests as Ollama does, where the recordings show no example."""

from __future__ import annotations

import pytest

from obt_standin import request_body
from obt_standin.clock import expiry, rfc3339
from obt_standin.names import display, qualified
from obt_standin.request_body import ErrorAnswer


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 300.0),
        (0, 0.0),
        (30, 30.0),
        (1.5, 1.5),
        (-1, None),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("-1m", None),
    ],
)
def test_keep_alive_takes_seconds_and_gos_durations(value: object, seconds: float | None) -> None:
    assert request_body.keep_alive(value, 300.0) == seconds


@pytest.mark.parametrize("value", [True, "soon", [], "5 m"])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ErrorAnswer, match="invalid duration"):
        request_body.keep_alive(value, 300.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b'{"a":', "unexpected EOF"),
        (b"hello", "invalid character 'h' looking for beginning of value"),
        (b'{"a":1}x', "invalid character 'x' after top-level value"),
        (b"[" * 100_000, "exceeded max depth"),
        (b"5", "json: cannot unmarshal number into Go value of type api.GenerateRequest"),
        (
            b'{"options":[]}',
            (
                "json: cannot unmarshal array into Go struct field GenerateRequest.options of type "
                "map[string]interface {}"
            ),
        ),
    ],
)
def test_bodies_are_refused_in_gos_words(body: bytes, message: str) -> None:
    with pytest.raises(ErrorAnswer) as caught:
        request_body.read(body, "GenerateRequest")
    assert (caught.value.status, caught.value.message) == (400, message)


def test_options_of_a_wrong_type_are_refused_and_unknown_ones_pass() -> None:
    assert request_body.check_options({"nosuch": [], "num_ctx": None, "top_p": 1}) == {
        "nosuch": [],
        "num_ctx": None,
        "top_p": 1,
    }
    with pytest.raises(ErrorAnswer, match="top_p"):
        request_body.check_options({"top_p": "x"})


def test_names_are_shown_as_lists_show_them() -> None:
    assert display("Tiny") == "tiny:latest"
    assert display("registry.ollama.ai/library/tiny") == "tiny:latest"
    assert display("library/tiny") == "tiny:latest"
    assert display("me/tiny:1") == "me/tiny:1"
    assert display("registry.ollama.ai/me/tiny") == "me/tiny:latest"
    assert display("http://127.0.0.1:5055/library/tiny") == "127.0.0.1:5055/library/tiny:latest"
    assert display("bad name!") is None
    assert display("") is None
    assert qualified("tiny:latest") == "registry.ollama.ai/library/tiny:latest"
    assert qualified("me/tiny:latest") == "me/tiny:latest"


def test_times_are_written_as_go_writes_them() -> None:
    assert rfc3339(1_795_355_330_000_000_000) == "2026-11-22T13:48:50Z"
    assert rfc3339(1_795_355_330_002_320_000) == "2026-11-22T13:48:50.00232Z"
    assert expiry(None).startswith("2319-")
