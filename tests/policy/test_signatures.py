"""Requests that run only with a signature of a key that the server does not hold."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from obt_agent.errors import AgentError, ConfigError, NotPermitted
from obt_agent.policy.signatures import SignatureCheck, public_key
from obt_agent.policy.signing import sign
from tests.dispatcher.doubles import FakeSession, permissive, request
from tests.dispatcher.test_dispatcher import command, dispatcher

KEY = Ed25519PrivateKey.generate()
AGENT = "0190-agent"
NOW = 1_000_000.0
BENCH = {"job_id": "j1", "plan": {"model_name": "m"}}
DELETE = {"model": "m"}


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def signature(method: str, params: dict[str, Any], **more: Any) -> dict[str, str]:
    values: dict[str, Any] = {"key": KEY, "agent_id": AGENT, "now": NOW + 1, "seconds": 60.0} | more
    return sign(method=method, params=params, **values)


SIGNERS = (signature("run_benchmark", BENCH)["key"],)


def checked(check: SignatureCheck, method: str, params: dict[str, Any], signers: Any = SIGNERS) -> Any:
    return json.loads(bytes(check.params_of(method, msgspec.Raw(json.dumps(params).encode()), signers)))


@pytest.fixture
def check() -> SignatureCheck:
    clock = Clock()
    made = SignatureCheck(AGENT, clock)
    clock.now = NOW + 2
    return made


def test_without_signers_a_request_passes_as_it_is(check: SignatureCheck) -> None:
    assert checked(check, "run_benchmark", BENCH, ()) == BENCH


def test_what_runs_is_what_was_signed_whatever_else_the_request_says(check: SignatureCheck) -> None:
    forged = {"job_id": "x", "plan": {"model_name": "other"}, "signature": signature("run_benchmark", BENCH)}
    assert checked(check, "run_benchmark", forged) == BENCH


def test_commands_that_neither_change_nor_run_for_long_need_none(check: SignatureCheck) -> None:
    assert checked(check, "list_models", {}) == {}


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("run_benchmark", None),
        ("run_benchmark", signature("run_benchmark", BENCH, key=Ed25519PrivateKey.generate())),
        ("run_benchmark", signature("run_benchmark", BENCH) | {"value": signature("x", BENCH)["value"]}),
        ("run_benchmark", signature("run_benchmark", BENCH) | {"value": "no base64"}),
        ("run_benchmark", signature("pull_model", BENCH)),
        ("run_benchmark", signature("run_benchmark", BENCH, agent_id="another")),
        ("run_benchmark", signature("run_benchmark", BENCH, now=NOW - 100)),
        ("run_benchmark", signature("run_benchmark", BENCH, now=NOW + 100)),
        ("delete_model", signature("delete_model", DELETE, now=NOW - 10)),
    ],
    ids=[
        "none",
        "unlisted",
        "of another text",
        "garbage",
        "method",
        "agent",
        "late",
        "early",
        "before start",
    ],
)
def test_anything_else_is_refused_with_the_policys_key(
    check: SignatureCheck, method: str, given: dict[str, str] | None
) -> None:
    params = BENCH if given is None else {**BENCH, "signature": given}
    with pytest.raises(NotPermitted) as error:
        checked(check, method, params)
    assert error.value.detail["policy_key"] == "policy.signers"


def test_a_deletion_runs_once_for_each_signature(check: SignatureCheck) -> None:
    request_ = {**DELETE, "signature": signature("delete_model", DELETE)}
    assert checked(check, "delete_model", request_) == DELETE
    with pytest.raises(NotPermitted, match="used already"):
        checked(check, "delete_model", request_)


def test_a_changed_byte_of_the_text_is_refused(check: SignatureCheck) -> None:
    made = signature("run_benchmark", BENCH)
    made["text"] = made["text"].replace('"m"', '"n"')
    with pytest.raises(NotPermitted, match="wrong"):
        checked(check, "run_benchmark", {**BENCH, "signature": made})


def test_a_key_that_is_none_is_refused_in_the_configuration() -> None:
    for text in ("", "x", "AAAA", "-" * 44):
        with pytest.raises(ConfigError):
            public_key(text)
    with pytest.raises(AgentError, match=r"policy\.signers"):
        permissive(signers=["AAAA"])


async def test_the_dispatcher_runs_nothing_unsigned() -> None:
    ran: list[Any] = []

    async def run(params: Any, context: Any) -> Any:
        ran.append(params)
        return msgspec.Raw(b"{}")

    session = FakeSession()
    owner = permissive(signers=list(SIGNERS), allow_changes=["delete_model"])
    desk = dispatcher(command("delete_model", run), policy=owner)
    desk.on_request(session, request(1, "delete_model", model="m"))
    error = await session.error(1)
    assert error.data is not None
    assert error.data.detail["policy_key"] == "policy.signers"
    now = signature("delete_model", DELETE, agent_id="", now=time.time())
    desk.on_request(session, request(2, "delete_model", model="other", signature=now))
    await session.result(2)
    assert [params.model for params in ran] == ["m"], "what was signed, and nothing else"
