import copy
import json
import logging
import pickle
import sys

import msgspec
import pytest

from obt_agent.identity.credentials import AgentCredential
from obt_agent.identity.secret import Secret

CANARY = "canary-4f1c"


def test_nothing_shows_a_secret_by_accident(capsys: pytest.CaptureFixture[str]) -> None:
    secret = Secret(CANARY)
    texts = [
        repr(secret),
        str(secret),
        f"{secret} {secret!r} {secret:>30}",
        "%s %r" % (secret, secret),  # noqa: UP031 - the very form that logging uses
        repr(AgentCredential(secret, "stored")),
        repr([secret, {"a": secret}]),
        str(ValueError(secret)),
    ]
    sys.stdout.write(f"{texts} {secret}")
    logging.getLogger("x").warning("%s", secret)
    assert not [text for text in texts if CANARY in text]
    assert CANARY not in "".join(capsys.readouterr())


def test_what_would_store_or_send_a_secret_fails() -> None:
    for attempt in (
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        msgspec.json.encode,
        msgspec.to_builtins,
    ):
        with pytest.raises(TypeError) as caught:
            attempt(Secret(CANARY))
        assert CANARY not in str(caught.value)
    assert not hasattr(Secret(CANARY), "__dict__")


def test_a_secret_is_given_out_only_when_asked_for_by_name() -> None:
    assert Secret(CANARY).reveal() == CANARY


def test_equal_texts_are_equal_secrets_and_no_text_is() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a")
    assert not Secret("")


def test_a_new_secret_is_long_and_its_own() -> None:
    assert Secret.new() != Secret.new()
    assert len(Secret.new().reveal()) >= 43


def test_the_hash_is_that_of_the_text() -> None:
    assert Secret("abc").sha256() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
