"""[ENROL], [ROTATE]: join tokens, credentials, and their exchange."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import replace
from http import HTTPStatus

from obt_conformance import web
from obt_conformance.checks import RuleBroken, Untested, require
from obt_conformance.identity import KitIdentity, post_enrolment, sha256
from obt_conformance.server_harness import CHECKS, ServerHarness

MAX_ROTATION_ID_CHARS = 64


async def _enrol(harness: ServerHarness, token: str | None, identity: KitIdentity) -> web.ApiResponse:
    try:
        return await post_enrolment(harness.url, token, identity, within_s=harness.deadlines.answer_s)
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
    """Enrol with no token, a wrong one, and a good one twice; then another agent with that."""
    identity = KitIdentity()
    for wrong in (None, "obt-conformance-wrong"):
        answer = await _enrol(harness, wrong, identity)
        require(not answer.ok, f"enrolled without a join token: {answer.status}")
    token = _join_token(harness)
    # A lost reply must burn nothing.
    first, again = await _enrol(harness, token, identity), await _enrol(harness, token, identity)
    repeated = first.ok and again == first
    require(repeated, f"answered {first.status} {first.body}, then {again.status} {again.body}")
    named = isinstance(first.body, dict) and first.body.get("agent_id") == identity.agent_id
    require(named, f"answered {first.body}")
    other = await _enrol(harness, token, KitIdentity())
    require(not other.ok, "a used join token enrolled another agent")
    return f"enrolled; repeated; another secret: {other.status}"


@CHECKS.check("ENROL-1", "a fresh join token does not take an enrolled id over")
async def identity_kept(harness: ServerHarness) -> str:
    """Enrol the id of an agent with another secret: whoever holds a join token could become any machine."""
    # Of this check's own: a server that lets it be taken over has locked that agent out.
    owner = KitIdentity()
    tokens = [_join_token(harness), _join_token(harness)]
    answer = await _enrol(harness, tokens[0], owner)
    require(answer.ok, f"the join token was answered with {answer.status} {answer.body}")
    thief = KitIdentity(owner.agent_id)
    answer = await _enrol(harness, tokens[1], thief)
    require(not answer.ok, "another secret was enrolled for an id that has a credential")
    require(answer.status == HTTPStatus.CONFLICT, f"answered with {answer.status}, not 409")
    refused = await replace(harness, identity=owner).refusal(thief.secret)
    require(refused, "the secret that was refused is a credential")
    return f"{answer.status}; the other secret as a credential: {refused}"


@CHECKS.check("ENROL-2", "the agent's own secret is its credential")
async def own_secret(harness: ServerHarness) -> str:
    """Dial with the secret, and with the join token, which is none."""
    # The kit's own: the identities of the pool are enrolled already.
    token, identity = _join_token(harness), KitIdentity()
    answer = await _enrol(harness, token, identity)
    require(answer.ok, f"the join token was answered with {answer.status} {answer.body}")
    fresh = replace(harness, identity=identity)
    async with fresh.admitted() as agent:
        await agent.check_responsive()
    refused = await fresh.refusal(token)
    require(refused, "the join token was taken for a credential")
    return f"admitted; the join token as a credential: {refused}"


@CHECKS.check(
    "ROTATE-1", "the old credential works until a hello with the new one was answered, and no longer"
)
async def rotation(harness: ServerHarness) -> str:
    """Answer a rotation, and dial with the old credential, then with the new one, which stays."""
    old, candidate = harness.identity.secret, secrets.token_urlsafe(32)
    async with harness.admitted() as agent, harness.provoked(agent, "credentials.rotate") as (_, request):
        rotation_id = request.params.get("rotation_id")
        named = isinstance(rotation_id, str) and 1 <= len(rotation_id) <= MAX_ROTATION_ID_CHARS
        require(named, f"rotation_id is {rotation_id!r}")
        await agent.wire.reply(request, {"rotation_id": rotation_id, "sha256": sha256(candidate)})
        await agent.check_responsive()
    # A server that dropped the old one at the answer would lock out an agent whose answer was lost.
    try:
        for secret in (old, candidate, candidate):
            harness.identity.secret = secret
            async with harness.admitted() as agent:
                await agent.check_responsive()
        refused = await _refused_in_time(harness, old)
    except Exception:
        await _go_on_with_either(harness, candidate, old)
        raise
    return f"old, then new, then new again; old at last: {refused}"


async def _go_on_with_either(harness: ServerHarness, *credentials: str) -> None:
    """Leave the identity with one that is taken: the next check that has it is about something else."""
    for harness.identity.secret in credentials:
        with contextlib.suppress(Exception):
            if await harness.refusal(harness.identity.secret) is None:
                return


async def _refused_in_time(harness: ServerHarness, secret: str) -> str:
    """How a credential was refused that may be good for a moment still."""
    until = time.monotonic() + harness.deadlines.answer_s
    while (refused := await harness.refusal(secret)) is None:
        require(time.monotonic() < until, "the old credential was still taken after a hello with the new one")
        # A server may drop it after its answer: nothing tells when but trying.
        await asyncio.sleep(0.2)
    return refused
