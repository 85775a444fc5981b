"""The kit, the protocol's document and the golden frames know the same rules and methods."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from obt_agent.protocol import codec
from obt_agent.protocol.envelope import ErrorResponse, Notification, Request, Response
from obt_agent.protocol.methods import METHODS
from obt_conformance.agent_rules import CHECKS as AGENT_CHECKS
from obt_conformance.golden import Golden, conversations
from obt_conformance.rules import NOT_OF_AGENTS, NOT_OF_SERVERS, RULES
from obt_conformance.server_rules import CHECKS as SERVER_CHECKS

DOCS = Path(__file__).parents[2] / "docs"
FRAMES = [frame for frames in conversations().values() for frame in frames]
LARGE = {"embed"}
"""Methods whose golden result went in pieces."""


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
def test_a_golden_frame_is_what_the_codec_takes_and_of_the_types(golden: Golden) -> None:
    message = codec.decode(golden.frame)
    method = METHODS[golden.method] if golden.method is not None else None
    if isinstance(message, Request | Notification):
        assert method is not None
        assert golden.sender == method.sender or golden.method == "link.alive"
        assert isinstance(message, Request) == (golden.what == "request")
        refused = any(one.what == "error" and one.method == golden.method for one in FRAMES)
        if not refused:
            codec.convert(message.params, method.params)
    elif isinstance(message, Response):
        assert method is not None
        if golden.method not in LARGE:
            codec.convert(message.result, method.result, where="result")
    else:
        assert isinstance(message, ErrorResponse)
        assert golden.what == "error"


def test_a_line_of_the_files_holds_the_very_bytes_of_the_frame() -> None:
    for name, frames in conversations().items():
        lines = (DOCS / "golden" / f"{name}.jsonl").read_bytes().splitlines()
        assert len(lines) == len(frames)
        for line, golden in zip(lines, frames, strict=True):
            assert line.endswith(b'"frame":' + golden.frame + b"}")
            assert json.loads(line)["from"] == golden.sender
