"""Faults of a server in jobs, signs of life, enrolment and rotation: each turns its rule red."""

from __future__ import annotations

import pytest

from tests.conformance.server_faults import faults_of, turns_red_alone

pytestmark = pytest.mark.slow

JOBS = ("JOB", "LIFE", "ENROL", "ROTATE")


@pytest.mark.parametrize(("fault", "rule"), faults_of(*JOBS).items(), ids=faults_of(*JOBS))
async def test_a_fault_of_jobs_turns_its_rule_red_and_no_other(fault: str, rule: str) -> None:
    await turns_red_alone(fault, rule)
