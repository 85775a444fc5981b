from __future__ import annotations

import pytest

from obt_agent.errors import ModelNotFound, OllamaError, OllamaUnavailable
from obt_agent.ollama import failures


@pytest.mark.parametrize(
    "wording",
    [
        "model 'llama3' not found",
        'model "llama3" not found, try pulling it first',
        'model "llama3" not found',
    ],
)
def test_each_wording_of_a_missing_model_says_how_to_pull_it(wording: str) -> None:
    error = failures.from_message(wording, 404)
    assert isinstance(error, ModelNotFound)
    assert error.message.endswith("ollama pull llama3")
    assert error.detail == {"status": 404, "ollama_message": wording, "model": "llama3"}


def test_a_request_that_names_no_model_is_answered_so() -> None:
    assert "names no model" in failures.from_message("model '' not found", 404).message


def test_the_runners_own_error_is_taken_out_of_the_string_it_comes_in() -> None:
    error = failures.from_message('{"error":{"code":400,"message":"too long","type":"x"}}', 400)
    assert error.message == "Ollama answers: too long"


@pytest.mark.parametrize("wording", ["{not json", '{"other":1}', "[1]"])
def test_what_only_looks_nested_is_shown_as_it_is(wording: str) -> None:
    assert failures.from_message(wording, 500).message == f"Ollama answers: {wording}"


@pytest.mark.parametrize(
    ("wording", "shown"),
    [
        ("open /usr/share/ollama/x: no such file", "open (a file of the host): no such file"),
        ('open "/home/me/.ollama/x"', 'open "(a file of the host)"'),
        ("pull https://registry.example/v2/library/x: no", "pull https://registry.example/v2/library/x: no"),
        ("library/llama3 is here", "library/llama3 is here"),
        ("and/or a/b", "and/or a/b"),
    ],
)
def test_paths_of_the_host_do_not_leave_it(wording: str, shown: str) -> None:
    assert failures.shown(wording) == shown


def test_a_message_is_bounded() -> None:
    assert len(failures.shown("x" * 5000)) == failures.MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    "wording",
    [
        "CUDA error: out of memory",
        "cudaMalloc failed: out of memory",
        "model requires more system memory (9 GiB) than is available (3 GiB)",
        "llama runner process has terminated: signal: killed",
        "llama-server process has terminated: error:unable to allocate CUDA0 buffer",
    ],
)
def test_a_lack_of_memory_says_what_to_choose(wording: str) -> None:
    error = failures.from_message(wording, 500)
    assert "num_ctx" in error.message
    assert not error.retryable


RUNNER_ENDED = "an error was encountered while running the model: unexpected EOF"


@pytest.mark.parametrize(
    ("wording", "status", "retryable"),
    [
        (RUNNER_ENDED, 500, True),
        (RUNNER_ENDED, 200, True),
        ("unexpected EOF", 500, True),
        ("unexpected EOF", 400, False),  # of the request's body
        ('POST predict: Post "http://127.0.0.1:4/completion": read tcp: connection reset by peer', 500, True),
    ],
)
def test_the_runners_end_is_retryable_unless_the_request_was_at_fault(
    wording: str, status: int, retryable: bool
) -> None:
    assert failures.from_message(wording, status).retryable == retryable


# Ollama's error for a tool call that is no JSON quotes what the model wrote (langchain#34746).
@pytest.mark.parametrize(
    "written",
    [
        '{"name":"page","arguments":{"text":"pod killed: out of memory',
        "server busy, please try again",
        "llama runner process has terminated: signal: killed",
        "model 'x' not found",
    ],
)
@pytest.mark.parametrize("status", [200, 500])
def test_what_a_model_wrote_never_decides_the_diagnosis(written: str, status: int) -> None:
    wording = f"error parsing tool call: raw='{written}', err=unexpected end of JSON input"
    error = failures.from_message(wording, status)
    assert error.message == f"Ollama could not parse the model's tool call: {failures.shown(wording)}"
    assert type(error) is OllamaError
    assert not error.retryable
    for quoting in (f'{{"error":{{"message":"Failed to parse: {written}"}}}}', f"Failed to parse: {written}"):
        error = failures.from_message(quoting, status)
        assert error.message.startswith("Ollama answers: ")
        assert not error.retryable
    wrapped = failures.from_message(f"{RUNNER_ENDED} {{{written} out of memory", 200)
    assert wrapped.message.startswith("The process that runs the model ended")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 521, 522, 523, 524, 530])
@pytest.mark.parametrize("kind", ["text/html", "text/plain", ""])
def test_a_proxy_whose_ollama_restarts_is_asked_again(status: int, kind: str) -> None:
    page = b"<html><head><title>502 Bad Gateway</title></head><body><hr><center>nginx</center></body></html>"
    error = failures.refused(status, kind, page)
    if status == 500 and kind != "text/html":
        assert not error.retryable
        return
    assert isinstance(error, OllamaUnavailable)
    assert error.retryable
    assert error.message == f"Something in front of Ollama answers {status}; is Ollama running?"


@pytest.mark.parametrize(("status", "words"), [(401, "password"), (407, "password"), (413, "size")])
def test_a_proxy_that_refuses_is_not_taken_for_another_program(status: int, words: str) -> None:
    error = failures.refused(status, "text/html", b"<html></html>")
    assert "not Ollama" not in error.message
    assert words in error.message


def test_a_full_queue_is_known_by_its_status() -> None:
    assert failures.from_message("maximum pending requests exceeded", 503).retryable
    assert failures.from_message('{"error":"x"}', 502).retryable


def test_every_refusal_is_an_ollama_error_whatever_its_body() -> None:
    for status in range(300, 600):
        for body in (b"", b"\xff", b"[" * 100_000, b'{"error":1}', b'{"error":"x"}'):
            assert isinstance(failures.refused(status, "", body), OllamaError)


def test_a_missing_models_name_is_bounded_too() -> None:
    error = failures.from_message(f"model '{'x' * 900_000}' not found", 404)
    assert len(error.message) + sum(len(str(value)) for value in error.detail.values()) < 5000
