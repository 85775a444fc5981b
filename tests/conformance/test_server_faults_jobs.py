"""Faults of a server in jobs, signs of life, enrolment and rotation: each turns its rule red."""

from __future__ import annotations

import asyncio

import pytest

from obt_conformance.identity import KitIdentity, Pool, sha256
from obt_conformance.report import as_text
from obt_conformance.run import check_server, select_checks
from obt_conformance.server_rules import CHECKS
from tests.conformance.server_faults import faults_of, turns_red_alone
from tests.conformance.times import SHORT
from tests.conformance.tiny_server import TinyDriver, TinyServer

pytestmark = pytest.mark.slow

JOBS = ("JOB", "LIFE", "ENROL", "ROTATE")


@pytest.mark.parametrize(("fault", "rule"), faults_of(*JOBS).items(), ids=faults_of(*JOBS))
async def test_a_fault_of_jobs_turns_its_rule_red_and_no_other(fault: str, rule: str) -> None:
    await turns_red_alone(fault, rule)


async def test_an_identity_whose_rotation_failed_is_good_for_the_next_check() -> None:
    server, identity = TinyServer("the old credential goes at once"), KitIdentity()
    checks = select_checks(CHECKS, ("ROTATE-1", "CMD-1"))
    async with server.running(), asyncio.timeout(60):
        server.secrets = {sha256(identity.secret): identity.agent_id}
        pool, driver = Pool([identity]), TinyDriver(server)
        # In that order: both have the one identity.
        for rule, verdict in (("ROTATE-1", "fail"), ("CMD-1", "pass")):
            chosen = [check for check in checks if check.rule == rule]
            results = await check_server(
                chosen, pool, server.url, deadlines=SHORT, driver=driver, join_tokens=[]
            )
            assert {one.verdict for one in results} == {verdict}, as_text(results)
