"""Who the kit is when it plays an agent: ids and secrets, from files or newly enrolled."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from obt_agent.identity.uuid7 import uuid7
from obt_conformance import web

ENROLL_PATH = "/api/v1/agents/enroll"


class NoIdentity(Exception):
    """There is nothing to come with; the text says what to give."""


@dataclass
class KitIdentity:
    """An agent that a server knows; a new one unless the values are given.

    ``secret`` changes when a check rotates it. ``instance`` is that of one process.
    """

    agent_id: str = field(default_factory=lambda: str(uuid7()))
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)


def sha256(text: str) -> str:
    """Return the SHA-256 of the text's UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_credentials(text: str, agent_id: str | None) -> list[KitIdentity]:
    """Lines of ``AGENT_ID SECRET``, or one line ``SECRET`` where ``agent_id`` is given apart.

    Raises:
        NoIdentity: a line is neither.
    """
    found = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        words = line.split()
        # Never with the line in an error: it holds a secret.
        if len(words) == 2:  # noqa: PLR2004 - id and secret
            found.append(KitIdentity(words[0], words[1]))
        elif len(words) == 1 and agent_id is not None:
            found.append(KitIdentity(agent_id, words[0]))
        else:
            raise NoIdentity("Each line of --token-file is AGENT_ID SECRET, or one SECRET with --agent-id.")
    return found


async def enrol(server_url: str, join_token: str, *, within_s: float) -> KitIdentity:
    """Enrol a new agent.

    Raises:
        NoIdentity: the server refused, or did not answer.
    """
    identity = KitIdentity()
    try:
        answer = await post_enrolment(server_url, join_token, identity, within_s=within_s)
    except OSError as error:
        raise NoIdentity(f"Enrolment failed: {error}") from error
    if not answer.ok:
        raise NoIdentity(f"The server answered the join token with {answer.status}: {answer.body}")
    return identity


async def post_enrolment(
    server_url: str, token: str | None, identity: KitIdentity, *, within_s: float
) -> web.ApiResponse:
    """Send an enrolment.

    Raises:
        OSError: nothing answered.
    """
    body = {
        "agent": {"id": identity.agent_id, "name": "conformance", "version": "1"},
        # The server learns the secret's hash alone.
        "secret_sha256": sha256(identity.secret),
    }
    return await web.request("POST", server_url.rstrip("/") + ENROLL_PATH, token, body, within_s=within_s)


class Pool:
    """Identities, each lent to one check at a time."""

    def __init__(self, identities: Iterable[KitIdentity]) -> None:
        # Identities that no check holds; a check waits for one.
        self._free: asyncio.Queue[KitIdentity] = asyncio.Queue()
        for identity in identities:
            self._free.put_nowait(identity)
        self.size = self._free.qsize()

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncIterator[KitIdentity]:
        """One of them, once it is free."""
        identity = await self._free.get()
        try:
            yield identity
        finally:
            self._free.put_nowait(identity)
