"""Who the kit is when it plays an agent: ids and secrets, from files or enrolled for the occasion."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from obt_conformance import web

ENROLL_PATH = "/api/v1/agents/enroll"


class NoIdentity(Exception):
    """There is nothing to come with; the text says what to give."""


def uuid7() -> str:
    """A UUID of version 7, random but for that."""
    return str(uuid.UUID(int=uuid.uuid4().int & ~(0xF << 76) | (7 << 76)))


@dataclass
class KitIdentity:
    """An agent that a server knows. ``secret`` changes when a check rotates it."""

    agent_id: str
    secret: str = field(repr=False)
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)


def sha256(text: str) -> str:
    """Hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_credentials(text: str, agent_id: str | None) -> list[KitIdentity]:
    """Lines of ``AGENT_ID SECRET``, or one line ``SECRET`` where ``agent_id`` is given apart.

    Raises:
        NoIdentity: a line is neither.
    """
    found = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        words = line.split()
        if len(words) == 2:  # noqa: PLR2004 - id and secret
            found.append(KitIdentity(words[0], words[1]))
        elif len(words) == 1 and agent_id is not None:
            found.append(KitIdentity(agent_id, words[0]))
        else:
            raise NoIdentity("Each line of --token-file is AGENT_ID SECRET, or one SECRET with --agent-id.")
    return found


async def enrol(server_url: str, join_token: str, *, within_s: float) -> KitIdentity:
    """A new agent.

    Raises:
        NoIdentity: the server refused, or did not answer.
    """
    identity = KitIdentity(uuid7(), secrets.token_urlsafe(32))
    try:
        answer = await web.post(
            server_url.rstrip("/") + ENROLL_PATH,
            join_token,
            enrolment(identity.agent_id, identity.secret),
            within_s=within_s,
        )
    except OSError as error:
        raise NoIdentity(f"Enrolment failed: {error}") from error
    if answer.status != 200:  # noqa: PLR2004 - HTTP's word for success
        raise NoIdentity(f"The server answered the join token with {answer.status}: {answer.body}")
    return identity


def enrolment(agent_id: str, secret: str) -> dict[str, object]:
    """The body of an enrolment."""
    return {
        "agent": {"id": agent_id, "name": "conformance", "version": "1"},
        "secret_sha256": sha256(secret),
    }


class Pool:
    """Identities, each lent to one check at a time."""

    def __init__(self, identities: Iterable[KitIdentity]) -> None:
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
