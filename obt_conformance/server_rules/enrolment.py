"""[ENROL], [ROTATE]: join tokens, credentials, and their exchange."""

from __future__ import annotations

import secrets
from typing import Any

from obt_conformance import web
from obt_conformance.dialling import Refusal, dial, socket_url
from obt_conformance.identity import ENROLL_PATH, Identity, enrolment, sha256, uuid7
from obt_conformance.server_rules.book import BOOK
from obt_conformance.stage import Stage
from obt_conformance.verdict import Failed, Untested

OK = 200


async def _enrol(stage: Stage, token: str | None, body: dict[str, Any]) -> web.Answer:
    try:
        return await web.post(
            stage.url.rstrip("/") + ENROLL_PATH, token, body, within_s=stage.deadlines.answer_s
        )
    except OSError as error:
        raise Failed(f"the enrolment was not answered: {error}") from error


def _join_token(stage: Stage) -> str:
    if not stage.join_tokens:
        raise Untested("an unused join token is needed: give --join-token-file")
    return stage.join_tokens.pop()


@BOOK.check(
    "ENROL-1", "a join token is needed and works once; a repeat with the same hash repeats the answer"
)
async def enrolled_once(stage: Stage) -> str:
    """A lost reply burns nothing; another secret is refused."""
    body = enrolment(uuid7(), secrets.token_urlsafe(32))
    for wrong in (None, "obt-conformance-wrong"):
        if (answer := await _enrol(stage, wrong, body)).status < 400:  # noqa: PLR2004 - HTTP's border of errors
            raise Failed(f"enrolled without a join token: {answer.status}")
    token = _join_token(stage)
    first, again = await _enrol(stage, token, body), await _enrol(stage, token, body)
    if first.status != OK or again != first:
        raise Failed(f"answered {first.status} {first.body}, then {again.status} {again.body}"[:300])
    if not isinstance(first.body, dict) or first.body.get("agent_id") != body["agent"]["id"]:  # type: ignore[index] # our own
        raise Failed(f"answered {first.body}"[:300])
    other = await _enrol(stage, token, enrolment(uuid7(), secrets.token_urlsafe(32)))
    if other.status < 400:  # noqa: PLR2004 - HTTP's border of errors
        raise Failed("a used join token enrolled another agent")
    return f"enrolled; repeated; another secret: {other.status}"


@BOOK.check("ENROL-2", "the agent's own secret is its credential")
async def own_secret(stage: Stage) -> str:
    """And the join token is none."""
    token, identity = _join_token(stage), Identity(uuid7(), secrets.token_urlsafe(32))
    answer = await _enrol(stage, token, enrolment(identity.agent_id, identity.secret))
    if answer.status != OK:
        raise Failed(f"the join token was answered with {answer.status} {answer.body}"[:300])
    fresh = Stage(stage.url, identity, stage.deadlines)
    async with fresh.agent() as agent:
        await agent.still_works()
    try:
        async with dial(socket_url(stage.url), token, answer_within_s=stage.deadlines.answer_s) as wire:
            hello = await wire.post("agent.hello", fresh.hello())
            await wire.until_closed()
            if any(found.result is not None for found in wire.answers(hello)):
                raise Failed("the join token was taken for a credential")
            return "admitted"
    except Refusal as refusal:
        return f"admitted; the join token as a credential: {refusal}"


@BOOK.check("ROTATE-1", "the old credential works until a hello with the new one was answered")
async def rotation(stage: Stage) -> str:
    """Then the new one stays."""
    candidate = secrets.token_urlsafe(32)
    async with stage.agent() as agent, stage.provoked(agent, "credentials.rotate") as (_, request):
        rotation_id = request.params.get("rotation_id")
        if not isinstance(rotation_id, str) or not 1 <= len(rotation_id) <= 64:  # noqa: PLR2004 - the rule's bound
            raise Failed(f"rotation_id is {rotation_id!r}"[:200])
        result = {"rotation_id": rotation_id, "sha256": sha256(candidate)}
        await agent.wire.send({"jsonrpc": "2.0", "id": request.id, "result": result})
        await agent.still_works()
    async with stage.agent() as agent:
        await agent.still_works()
    stage.identity.secret = candidate
    for _ in range(2):
        async with stage.agent() as agent:
            await agent.still_works()
    return "old, then new, then new again"
