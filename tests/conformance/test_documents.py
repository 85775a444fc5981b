"""The kit, the protocol's document and the golden frames know the same rules and methods."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from obt_agent.protocol import codec
from obt_agent.protocol.envelope import ErrorResponse, Request, Response
from obt_agent.protocol.methods import METHODS
from obt_conformance.agent_rules import CHECKS as AGENT_CHECKS
from obt_conformance.rules import NOT_OF_AGENTS, NOT_OF_SERVERS, RULES
from obt_conformance.server_rules import CHECKS as SERVER_CHECKS

DOCS = Path(__file__).parents[2] / "docs"
WRONG = b'"num_ctx":"many"'
"""Parameters that are shown being refused."""
PASSED_ON = {"generate", "chat", "embed"}
"""Methods whose parameters are Ollama's: the types name but some of them."""


class Golden(msgspec.Struct, rename={"sender": "from"}, forbid_unknown_fields=True):
    """One line of a file in ``docs/golden``."""

    sender: Literal["agent", "server"]
    what: Literal["request", "notification", "result", "error"]
    method: str | None
    frame: msgspec.Raw


FRAMES = [
    msgspec.json.decode(line, type=Golden)
    for path in sorted((DOCS / "golden").glob("*.jsonl"))
    for line in path.read_bytes().splitlines()
]


def test_the_kit_knows_every_rule_of_the_document_and_no_other() -> None:
    named = re.findall(r"^- \[([A-Z]+-\d+)\]", (DOCS / "reference" / "protocol.md").read_text(), re.MULTILINE)
    assert tuple(named) == RULES


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_tried_or_said_to_be_untestable_on_both_sides(rule: str) -> None:
    assert (rule in {check.rule for check in SERVER_CHECKS.checks}) != (rule in NOT_OF_SERVERS)
    assert (rule in {check.rule for check in AGENT_CHECKS.checks}) != (rule in NOT_OF_AGENTS)
    assert f"| {rule} |" in (DOCS / "reference" / "conformance.md").read_text()


def test_no_check_has_a_rule_that_does_not_exist() -> None:
    assert {check.rule for check in SERVER_CHECKS.checks} <= set(RULES)
    assert {check.rule for check in AGENT_CHECKS.checks} <= set(RULES)


def test_every_method_and_the_result_of_every_request_has_a_golden_frame() -> None:
    asked = {frame.method for frame in FRAMES if frame.what in ("request", "notification")}
    answered = {frame.method for frame in FRAMES if frame.what == "result"}
    assert asked == set(METHODS)
    assert answered == {name for name, method in METHODS.items() if method.shape != "notification"}


@pytest.mark.parametrize("golden", FRAMES, ids=lambda one: f"{one.method}-{one.what}")
def test_a_golden_frame_is_the_bytes_that_the_types_are_sent_as(golden: Golden) -> None:
    message = codec.decode(bytes(golden.frame))
    method = METHODS[golden.method] if golden.method is not None else None
    match message:
        case ErrorResponse():
            assert golden.what == "error"
            again = codec.encode_error(message.id, message.error)
        case Response():
            assert method is not None
            assert golden.what == "result"
            # A receiver of a sync may answer with an empty object.
            empty = bytes(message.result) == b"{}"
            result = message.result if empty else codec.convert(message.result, method.result)
            again = codec.encode_result(message.id, result)
        case _:
            assert method is not None
            assert golden.sender == method.sender or golden.method == "link.alive"
            assert (golden.what == "request") == isinstance(message, Request)
            if WRONG in bytes(message.params):
                return
            params = codec.convert(message.params, method.params)
            body = message.params if golden.method in PASSED_ON else params
            again = (
                codec.encode_request(message.id, message.method, body)
                if isinstance(message, Request)
                else codec.encode_notification(message.method, body)
            )
    assert again == bytes(golden.frame)
