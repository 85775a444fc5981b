"""The tiny server's faults, each with the rule that it breaks, and the kit against it."""

from __future__ import annotations

import asyncio
import dataclasses

from obt_conformance.checks import CheckResult, by_rule, rule_verdict
from obt_conformance.cli import KEPT_TOKENS
from obt_conformance.identity import KitIdentity, Pool, sha256
from obt_conformance.report import as_text
from obt_conformance.run import check_server, select_checks
from obt_conformance.server_rules import CHECKS
from tests.conformance.times import SHORT
from tests.conformance.tiny_server import TinyDriver, TinyServer

FAULTS = {
    "no subprotocol": "TRANSPORT-1",
    "nobody needs a credential": "TRANSPORT-1",
    "small frames only": "TRANSPORT-2",
    "batches are ignored": "TRANSPORT-2",
    "an id works once": "TRANSPORT-3",
    "ids become numbers": "TRANSPORT-3",
    "unknown methods are our fault": "TRANSPORT-4",
    "unknown fields are refused": "TRANSPORT-4",
    "lists pass for parameters": "TRANSPORT-4",
    "errors guess an id": "TRANSPORT-5",
    "bad frames are borne": "TRANSPORT-5",
    "binary frames are taken": "TRANSPORT-5",
    "it asks at once": "HELLO-1",
    "anything may come first": "HELLO-1",
    "hellos may be long": "HELLO-1",
    "hellos may take for ever": "HELLO-1",
    "sessions have no number": "HELLO-2",
    "any version will do": "HELLO-3",
    "any id will do": "HELLO-4",
    "a second process replaces": "HELLO-5",
    "the first one stays for ever": "HELLO-5",
    "redials pile up": "HELLO-5",
    "stores are not compared": "HELLO-6",
    "sessions begin anew": "HELLO-2",
    "the first page is the list": "SYNC-1",
    "answers come twice": "CMD-1",
    "no model is named": "CMD-2",
    "messages are vague": "CMD-3",
    "busy gives no time": "CMD-4",
    "cancel names both": "CMD-5",
    "calls hold up reading": "CMD-6",
    "holes pass": "STREAM-1",
    "errors pass": "STREAM-2",
    "pieces are not known": "STREAM-3",
    "hashes are not compared": "STREAM-3",
    "streams are granted nothing": "CREDIT-1",
    "nobody may overdraw": "CREDIT-2",
    "the link is granted fourfold": "CREDIT-1",
    "credit comes unread": "CREDIT-4",
    "lost calls pass": "ALIVE-1",
    "lost calls are replayed": "ALIVE-1",
    "no stream is alive": "ALIVE-2",
    "all jobs have one id": "JOB-1",
    "a start comes again otherwise": "JOB-2",
    "lost starts are forgotten": "JOB-2",
    "starts are not stored": "JOB-2",
    "only completed jobs count": "JOB-3",
    "failed is stored as completed": "JOB-3",
    "pieces are joined as they come": "JOB-4",
    "gzip is not unpacked": "JOB-4",
    "hashes are believed": "JOB-5",
    "repeats are not known": "JOB-5",
    "results are not kept": "JOB-5",
    "results are held in memory": "JOB-5",
    "the last result wins": "JOB-6",
    "lost jobs stay lost": "JOB-6",
    "nothing is said when idle": "LIFE-1",
    "silence is borne": "LIFE-2",
    "pongs are asked for": "LIFE-2",
    "pongs are life": "LIFE-2",
    "heartbeats are refused": "LIFE-3",
    "a goodbye is an error": "LIFE-4",
    "a join token works twice": "ENROL-1",
    "an enrolled id is taken over": "ENROL-1",
    "no secret is kept": "ENROL-2",
    "the old credential goes at once": "ROTATE-1",
    "the old credential stays": "ROTATE-1",
}


def verdicts(results: list[CheckResult], verdict: str) -> set[str]:
    return {rule for rule, found in by_rule(results).items() if rule_verdict(found) == verdict}


async def checked(server: TinyServer, *, slow_rules: set[str], answer_s: float) -> list[CheckResult]:
    """All quick checks, and the slow ones of those rules."""
    deadlines = dataclasses.replace(SHORT, answer_s=answer_s)
    async with server.running(), asyncio.timeout(300):
        identities = [KitIdentity() for _ in range(8)]
        server.secrets = {sha256(one.secret): one.agent_id for one in identities}
        tokens = [f"join-{number}" for number in range(KEPT_TOKENS)]
        server.joins = dict.fromkeys(tokens)
        checks = [
            check for check in select_checks(CHECKS, ()) if not check.takes_s or check.rule in slow_rules
        ]
        return await check_server(
            checks,
            Pool(identities),
            server.url,
            deadlines=deadlines,
            driver=TinyDriver(server),
            join_tokens=tokens,
        )


def faults_of(*groups: str) -> dict[str, str]:
    """Those whose rule is of one of these groups. In files of their own, for each file is one worker's."""
    return {fault: rule for fault, rule in FAULTS.items() if rule.partition("-")[0] in groups}


async def turns_red_alone(fault: str, rule: str) -> None:
    """The fault breaks that rule and no other."""
    results = await checked(TinyServer(fault), slow_rules={rule}, answer_s=3.0)
    assert verdicts(results, "fail") == {rule}, as_text(results)
