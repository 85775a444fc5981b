"""From how an attempt ended to when the next one starts. The one owner of redialling's delays."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

import structlog

from obt_agent.backoff import Backoff, BackoffSettings, RefusedCredential, with_jitter
from obt_agent.errors import AdmissionRefused, AgentError
from obt_agent.identity.credentials import AgentCredential, Credentials
from obt_agent.link.disconnect import DisconnectReason, NextDial

log = structlog.get_logger(__name__)

ENROL_ANEW: Final = (
    "Enrol this agent anew: sudo obt-agent service install --enroll-again --token-file FILE; "
    "without the system's service: obt-agent enroll."
)


class ReconnectPolicy:
    """Keeps what went wrong, and decides how long to wait.

    Args:
        credentials: where admissions and refusals are noted.
        settings: numbers of the delays.
    """

    def __init__(
        self,
        credentials: Credentials,
        settings: BackoffSettings,
    ) -> None:
        self._credentials = credentials
        self._settings = settings
        self._backoff = Backoff(clock=time.monotonic, random=random.random, settings=settings)
        # By the credential's hash: each has a schedule of its own, and an admission clears all of them.
        self._refusals: dict[str, RefusedCredential] = {}
        # Hashes that a server took in this process. The disk may have failed to keep that.
        self._admitted_here: set[str] = set()
        # An admission that could not be written, and what came with it; tried again after each disconnect.
        self._unnoted: tuple[AgentCredential, Sequence[str]] | None = None
        # The last reason and how often it came in a row: the first is logged as a warning, repeats are not.
        self._kind = ""
        self._count = 0

    async def admitted(self, credential: AgentCredential, announced: Sequence[str] = ()) -> None:
        """A hello was answered. That is noted for later processes, and known in this one at any rate.

        ``announced`` are the pins of the server's present and next keys.
        """
        self._backoff.admitted()
        self._refusals.clear()
        self._kind = ""
        self._admitted_here.add(credential.sha256)
        await self._note(credential, announced)

    async def _note(self, credential: AgentCredential, announced: Sequence[str]) -> None:
        try:
            await asyncio.to_thread(self._credentials.admitted, credential, announced)
        except AgentError as error:  # a full disk is no reason to be away
            self._unnoted = (credential, announced)
            log.warning("link.admission_not_noted", reason=error.message)
        else:
            self._unnoted = None

    async def delay_s(self, credential: AgentCredential, ending: DisconnectReason) -> float:
        """Seconds until the next dial.

        Raises:
            AdmissionRefused: there is no use in another.
        """
        self._backoff.ended()
        self._say(ending)
        if self._unnoted is not None:
            await self._note(*self._unnoted)
        if ending.next is NextDial.REFUSED:
            return await self._after_refusal(credential, ending)
        cap_s = self._settings.maximum_s if ending.next is NextDial.MAX_BACKOFF else 0.0
        return self._backoff.delay(max(cap_s, ending.floor_s))

    async def _after_refusal(self, credential: AgentCredential, ending: DisconnectReason) -> float:
        try:
            await asyncio.to_thread(self._credentials.refused, credential, revoked=ending.revoked)
        except AgentError as error:
            log.warning("link.refusal_not_noted", reason=error.message)
        refusal = (await self._counter(credential)).refused(revoked=ending.revoked)
        # A refused candidate gives way to the credential that was good before it: ordinary delays.
        if credential.source == "candidate":
            log.warning("link.candidate_refused", count=refusal.count)
            return self._backoff.delay(ending.floor_s)
        if refusal.give_up:
            message = f"{ending.message} {ENROL_ANEW}"
            raise AdmissionRefused(message, retryable=False, revoked=ending.revoked)
        return max(refusal.delay_s, with_jitter(ending.floor_s, random.random))

    async def _counter(self, credential: AgentCredential) -> RefusedCredential:
        counter = self._refusals.get(credential.sha256)
        if counter is None:
            known = await self._ever_admitted(credential)
            counter = self._refusals[credential.sha256] = RefusedCredential(
                admitted_before=known, clock=time.monotonic, random=random.random, settings=self._settings
            )
        return counter

    async def _ever_admitted(self, credential: AgentCredential) -> bool:
        """Whether it was ever good; where that cannot be known, giving up would be the worse mistake."""
        if credential.sha256 in self._admitted_here:
            return True
        try:
            return await asyncio.to_thread(self._credentials.ever_admitted, credential)
        except AgentError as error:
            log.warning("link.admissions_unknown", reason=error.message)
            return True

    def _say(self, ending: DisconnectReason) -> None:
        """The first of a kind loudly, repeats quietly with their count."""
        self._count = self._count + 1 if self._kind == ending.kind else 1
        self._kind = ending.kind
        say = log.warning if self._count == 1 else log.debug
        say("link.down", kind=ending.kind, reason=ending.message, count=self._count)
