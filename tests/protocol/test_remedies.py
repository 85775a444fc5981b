"""A refusal says which line of the configuration would allow it, in one place for all."""

from __future__ import annotations

import pytest

from obt_agent.errors import Busy, NotPermitted, Scalar
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.remedies import remedy


@pytest.mark.parametrize(
    ("detail", "line"),
    [
        (
            {"policy_key": "policy.allow_changes", "command": "pull_model"},
            "policy.allow_changes: [pull_model]",
        ),
        ({"policy_key": "policy.commands.allow", "command": "embed"}, "policy.commands.allow: [embed]"),
        ({"policy_key": "policy.models.allow", "model": "a:7b"}, 'policy.models.allow: ["a:7b"]'),
        (
            {"policy_key": "policy.models.deny", "model": "a:7b"},
            "policy.models.deny: nothing that matches a:7b",
        ),
        ({"policy_key": "policy.registries", "host": "hf.co"}, 'policy.registries: ["hf.co"]'),
        ({"policy_key": "policy.max_prompt_bytes", "asked": 1 << 30}, "policy.max_prompt_bytes: 1073741824"),
        ({"policy_key": "policy.max_seconds", "asked": 7200.0}, "policy.max_seconds: 7200"),
        ({"policy_key": "policy.options.keep_alive_s", "asked": None}, "policy.options.keep_alive_s: null"),
        ({"policy_key": "policy.max_jobs", "allowed": 32}, "policy.max_jobs: more than 32"),
    ],
)
def test_the_line_is_the_key_with_what_has_to_stand_there(detail: dict[str, Scalar], line: str) -> None:
    error = NotPermitted("no")
    error.detail |= detail
    data = to_wire(error).data
    assert data is not None
    assert data.detail == detail | {"remedy": line}


def test_what_no_line_allows_has_no_remedy() -> None:
    """A field that no server may use, and a signature that is missing."""
    assert remedy("policy.registries", {"field": "params.insecure"}) is None
    assert remedy("policy.signers", {}) is None
    data = to_wire(Busy("later")).data
    assert data is not None
    assert data.detail == {}
