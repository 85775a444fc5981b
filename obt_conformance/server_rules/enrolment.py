"""[ENROL], [ROTATE]: join tokens, credentials, and their exchange."""

from __future__ import annotations

import secrets
from typing import Any

from obt_conformance import web
from obt_conformance.checks import RuleBroken, Untested
from obt_conformance.dialling import UpgradeRefused, dial, socket_url
from obt_conformance.identity import ENROLL_PATH, KitIdentity, enrolment, sha256, uuid7
from obt_conformance.server_harness import ServerHarness
from obt_conformance.server_rules.registry import CHECKS

OK = 200


async def _enrol(harness: ServerHarness, token: str | None, body: dict[str, Any]) -> web.ApiResponse:
    try:
        return await web.post(
            harness.url.rstrip("/") + ENROLL_PATH, token, body, within_s=harness.deadlines.answer_s
        )
    except OSError as error:
        raise RuleBroken(f"the enrolment was not answered: {error}") from error


def _join_token(harness: ServerHarness) -> str:
    if not harness.join_tokens:
        raise Untested("an unused join token is needed: give --join-token-file")
    return harness.join_tokens.pop()


@CHECKS.check(
    "ENROL-1", "a join token is needed and works once; a repeat with the same hash repeats the answer"
)
async def enrolled_once(harness: ServerHarness) -> str:
    """A lost reply burns nothing; another secret is refused."""
    body = enrolment(uuid7(), secrets.token_urlsafe(32))
    for wrong in (None, "obt-conformance-wrong"):
        if (answer := await _enrol(harness, wrong, body)).status < 400:  # noqa: PLR2004 - HTTP's border of errors
            raise RuleBroken(f"enrolled without a join token: {answer.status}")
    token = _join_token(harness)
    first, again = await _enrol(harness, token, body), await _enrol(harness, token, body)
    if first.status != OK or again != first:
        raise RuleBroken(f"answered {first.status} {first.body}, then {again.status} {again.body}"[:300])
    if not isinstance(first.body, dict) or first.body.get("agent_id") != body["agent"]["id"]:  # type: ignore[index] # our own
        raise RuleBroken(f"answered {first.body}"[:300])
    other = await _enrol(harness, token, enrolment(uuid7(), secrets.token_urlsafe(32)))
    if other.status < 400:  # noqa: PLR2004 - HTTP's border of errors
        raise RuleBroken("a used join token enrolled another agent")
    return f"enrolled; repeated; another secret: {other.status}"


@CHECKS.check("ENROL-2", "the agent's own secret is its credential")
async def own_secret(harness: ServerHarness) -> str:
    """And the join token is none."""
    token, identity = _join_token(harness), KitIdentity(uuid7(), secrets.token_urlsafe(32))
    answer = await _enrol(harness, token, enrolment(identity.agent_id, identity.secret))
    if answer.status != OK:
        raise RuleBroken(f"the join token was answered with {answer.status} {answer.body}"[:300])
    fresh = ServerHarness(harness.url, identity, harness.deadlines)
    async with fresh.agent() as agent:
        await agent.check_responsive()
    try:
        async with dial(socket_url(harness.url), token, answer_within_s=harness.deadlines.answer_s) as wire:
            hello = await wire.post("agent.hello", fresh.hello())
            await wire.until_closed()
            if any(found.result is not None for found in wire.answers(hello)):
                raise RuleBroken("the join token was taken for a credential")
            return "admitted"
    except UpgradeRefused as refusal:
        return f"admitted; the join token as a credential: {refusal}"


@CHECKS.check("ROTATE-1", "the old credential works until a hello with the new one was answered")
async def rotation(harness: ServerHarness) -> str:
    """Then the new one stays."""
    candidate = secrets.token_urlsafe(32)
    async with harness.agent() as agent, harness.provoked(agent, "credentials.rotate") as (_, request):
        rotation_id = request.params.get("rotation_id")
        if not isinstance(rotation_id, str) or not 1 <= len(rotation_id) <= 64:  # noqa: PLR2004 - the rule's bound
            raise RuleBroken(f"rotation_id is {rotation_id!r}"[:200])
        result = {"rotation_id": rotation_id, "sha256": sha256(candidate)}
        await agent.wire.send({"jsonrpc": "2.0", "id": request.id, "result": result})
        await agent.check_responsive()
    async with harness.agent() as agent:
        await agent.check_responsive()
    harness.identity.secret = candidate
    for _ in range(2):
        async with harness.agent() as agent:
            await agent.check_responsive()
    return "old, then new, then new again"
