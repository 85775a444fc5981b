from __future__ import annotations

import pytest

from obt_agent.errors import ModelNotFound, OllamaError
from obt_agent.ollama import failures


@pytest.mark.parametrize(
    "said",
    [
        "model 'llama3' not found",
        'model "llama3" not found, try pulling it first',
        'model "llama3" not found',
    ],
)
def test_each_wording_of_a_missing_model_says_how_to_pull_it(said: str) -> None:
    error = failures.explained(said, 404)
    assert isinstance(error, ModelNotFound)
    assert error.message.endswith("ollama pull llama3")
    assert error.detail == {"status": 404, "ollama_message": said, "model": "llama3"}


def test_a_request_that_names_no_model_is_told_so() -> None:
    assert "names no model" in failures.explained("model '' not found", 404).message


def test_the_runners_own_error_is_taken_out_of_the_string_it_comes_in() -> None:
    error = failures.explained('{"error":{"code":400,"message":"too long","type":"x"}}', 400)
    assert error.message == "Ollama answers: too long"


@pytest.mark.parametrize("said", ["{not json", '{"other":1}', "[1]"])
def test_what_only_looks_nested_is_shown_as_it_is(said: str) -> None:
    assert failures.explained(said, 500).message == f"Ollama answers: {said}"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("open /usr/share/ollama/x: no such file", "open (a file of the host): no such file"),
        ('open "/home/me/.ollama/x"', 'open "(a file of the host)"'),
        ("pull https://registry.example/v2/library/x: no", "pull https://registry.example/v2/library/x: no"),
        ("library/llama3 is here", "library/llama3 is here"),
        ("and/or a/b", "and/or a/b"),
    ],
)
def test_paths_of_the_host_do_not_leave_it(said: str, shown: str) -> None:
    assert failures.shown(said) == shown


def test_a_message_is_bounded() -> None:
    assert len(failures.shown("x" * 5000)) == failures.MAX_MESSAGE_CHARS


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "model requires more system memory (9 GiB)"])
def test_a_lack_of_memory_says_what_to_choose(said: str) -> None:
    error = failures.explained(said, 500)
    assert "num_ctx" in error.message
    assert not error.retryable


@pytest.mark.parametrize(("status", "retryable"), [(500, True), (200, True), (400, False)])
def test_an_unexpected_eof_is_the_runners_end_unless_the_request_was_at_fault(
    status: int, retryable: bool
) -> None:
    assert failures.explained("unexpected EOF", status).retryable == retryable


def test_every_refusal_is_an_ollama_error_whatever_its_body() -> None:
    for status in range(300, 600):
        for body in (b"", b"\xff", b"[" * 100_000, b'{"error":1}', b'{"error":"x"}'):
            assert isinstance(failures.refused(status, "", body), OllamaError)


def test_a_missing_models_name_is_bounded_too() -> None:
    error = failures.explained(f"model '{'x' * 900_000}' not found", 404)
    assert len(error.message) + sum(len(str(value)) for value in error.detail.values()) < 5000
