"""Faults of a server in commands, streams and credit: each turns its rule red."""

from __future__ import annotations

import pytest

from tests.conformance.server_faults import faults_of, turns_red_alone

pytestmark = pytest.mark.slow

CALLS = ("CMD", "STREAM", "CREDIT", "ALIVE")


@pytest.mark.parametrize(("fault", "rule"), faults_of(*CALLS).items(), ids=faults_of(*CALLS))
async def test_a_fault_of_calls_turns_its_rule_red_and_no_other(fault: str, rule: str) -> None:
    await turns_red_alone(fault, rule)
