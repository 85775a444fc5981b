"""What a check of a server has at hand: an identity, sockets, and a way to provoke it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from obt_agent.protocol.admission import AgentIdentity, HelloParams, VersionRange
from obt_agent.protocol.limits import LINK_CREDIT_BYTES, STREAM_CREDIT_BYTES, Close
from obt_conformance.admitted_socket import ON_LINK_CREDIT, AdmittedSocket
from obt_conformance.checks import CheckRegistry, RuleBroken, Untested, require
from obt_conformance.deadlines import Deadlines
from obt_conformance.dialling import UpgradeRefused, dial, socket_url
from obt_conformance.drivers import NO_TRIGGER, Caller, Driver
from obt_conformance.frames import Frame, JsonObject
from obt_conformance.identity import KitIdentity
from obt_conformance.lateness import Lateness
from obt_conformance.wire import RawSocket

# What the server was made to do; its result is whether the server's caller got a whole answer.
Call = asyncio.Task[bool]


class AgentConnection(AdmittedSocket):
    """An admitted socket of the agent that the kit plays.

    Args:
        wire: the socket.
        result: the answer to its hello.
    """

    def __init__(self, wire: RawSocket, result: JsonObject) -> None:
        super().__init__(wire, result)
        # What a stream opens with.
        self.stream_credit = int(result.get("stream_credit_bytes", STREAM_CREDIT_BYTES))
        # Of the last models.sync: each is newer than the one before.
        self._revision = 0
        # Bytes granted so far, by method and stream; counted as they come, for a long stream asks often.
        self._granted: Counter[tuple[str, str]] = Counter()
        for frame in wire.frames:
            self._count(frame)
        wire.on_frame = self._count

    def _count(self, frame: Frame) -> None:
        if frame.method in ("stream.credit", "link.credit"):
            size = frame.params.get("bytes", 0)
            key = frame.method, repr(frame.params.get("id"))
            self._granted[key] += size if isinstance(size, int) else 0

    @property
    def link_credit(self) -> int:
        """What the link opened with, and what was granted since."""
        opened_with = int(self.introduction.get("link_credit_bytes", LINK_CREDIT_BYTES))
        return opened_with + self.granted("link.credit")

    @property
    def link_spent(self) -> int:
        """Bytes that were sent and cost credit of the link."""
        return sum(self.wire.sent_bytes[method] for method in ON_LINK_CREDIT)

    def granted(self, method: str, request_id: Any = None) -> int:
        """Bytes granted so far: to the link, or to one stream."""
        return self._granted[method, repr(request_id)]

    def models_sync(self, *, padding: int = 0, **extra: Any) -> JsonObject:
        """Parameters of a ``models.sync``; ``padding`` bytes go into a model's unknown field."""
        self._revision += 1
        model = {
            "name": "conformance:1b",
            "digest": "0" * 64,
            "size_bytes": 1,
            "x_conformance": "x" * padding,
        }
        return {
            "revision": self._revision,
            "page": {"index": 0, "last": True},
            "ollama": {"reachable": True, "version": "0.5.0"},
            "list_digest": "0" * 64,
            "models": [model],
            **extra,
        }

    def good_request(self) -> tuple[str, JsonObject]:
        """See ``AdmittedSocket``."""
        return "models.sync", self.models_sync()


@dataclass
class ServerHarness:
    """One check's view of the server.

    Args:
        url: the server's address.
        identity: lent for this check.
        deadlines: how long to wait.
        driver: the way in besides the agents' door; one that knows none when omitted.
        join_tokens: unused ones; a check may take some.
        lateness: of the whole run.
    """

    url: str
    identity: KitIdentity
    deadlines: Deadlines
    driver: Driver = field(default_factory=Driver)
    join_tokens: list[str] = field(default_factory=list)
    lateness: Lateness = field(default_factory=Lateness)

    @property
    def slack_s(self) -> float:
        """What a time of the protocol may be exceeded by; it grows while the machine is busy."""
        return self.deadlines.slack_s + self.lateness.allowance_s

    def dial(
        self, token: str | None, *, pongs: bool = True
    ) -> contextlib.AbstractAsyncContextManager[RawSocket]:
        """Dial with any credential, or none; see ``dialling.dial``."""
        times = self.deadlines
        return dial(
            socket_url(self.url),
            token,
            within_s=times.dial_s,
            answer_within_s=times.answer_s,
            pongs=pongs,
        )

    @contextlib.asynccontextmanager
    async def socket(self, *, pongs: bool = True) -> AsyncIterator[RawSocket]:
        """An open socket, before its hello.

        Raises:
            RuleBroken: the server refused the upgrade.
        """
        try:
            async with self.dial(self.identity.secret, pongs=pongs) as wire:
                yield wire
        except UpgradeRefused as refusal:
            raise RuleBroken(f"the upgrade was refused: {refusal}") from refusal

    def hello(self, **changes: Any) -> JsonObject:
        """Parameters of a hello; ``agent`` is merged, the rest replaces."""
        identity = self.identity
        hello = HelloParams(
            protocol=VersionRange(min=1, max=1),
            agent=AgentIdentity(
                id=identity.agent_id, name="conformance", version="1", instance=identity.instance
            ),
            store_id=f"store-{identity.agent_id}",
            capabilities=("list_models", "generate", "chat", "embed", "run_benchmark", "cancel"),
        )
        params: JsonObject = msgspec.to_builtins(hello)
        return {**params, **changes, "agent": {**params["agent"], **changes.get("agent", {})}}

    @staticmethod
    def jobs_sync(store_id: str) -> JsonObject:
        """Parameters of the ``jobs.sync`` of an agent without jobs."""
        return {"revision": 1, "page": {"index": 0, "last": True}, "store_id": store_id, "jobs": []}

    @contextlib.asynccontextmanager
    async def admitted(self, *, pongs: bool = True, **changes: Any) -> AsyncIterator[AgentConnection]:
        """An admitted agent that answers ``state.request`` and says that it is alive.

        Raises:
            RuleBroken: it was not admitted.
        """
        async with self.socket(pongs=pongs) as wire:
            # A server may ask for states right after it has answered the hello.
            wire.handlers["state.request"] = lambda _: {}
            result = await wire.ask_ok("agent.hello", self.hello(**changes))
            # Twice as often as the rule asks, so that a late one is not missed.
            wire.send_alive_every(self.deadlines.alive_s / 2)
            yield AgentConnection(wire, result)

    @contextlib.asynccontextmanager
    async def provoked(
        self, agent: AgentConnection, method: str, caller: Caller | None = None
    ) -> AsyncIterator[tuple[Call, Frame]]:
        """The server made to send ``method`` for ``caller``: the call, and the request that came.

        Raises:
            Untested: there is no trigger.
            RuleBroken: the request did not come.
        """
        # At once, and not when the request has not come for a while.
        if not self.driver.triggers:
            raise Untested(NO_TRIGGER)
        before = len(agent.wire.of(method))
        work = self.driver.call(method, self.identity.agent_id, caller or Caller())
        call = agent.wire.spawn(work, f"conformance {method}")
        try:
            frame = await agent.wire.expect(method, count=before + 1)
            require(frame.is_request, f"{method} came as a notification")
            yield call, frame
        except RuleBroken:
            # A trigger that is missing or cannot run says more than that nothing came.
            if call.done() and not call.cancelled():
                call.result()
            raise
        finally:
            await self.stop(call)

    async def refusal(self, secret: str | None) -> str | None:
        """Dial with a credential; return how it was refused (before the upgrade, or with 4401), or None."""
        try:
            async with self.dial(secret) as wire:
                hello = await wire.post("agent.hello", self.hello())
                await wire.until(
                    lambda: wire.closed is not None or bool(wire.answers(hello)),
                    "agent.hello was not answered",
                    open_=False,
                )
                if wire.closed is None and wire.answers(hello)[0].error_code is None:
                    return None
                return await wire.closed_with(Close.CREDENTIAL_REFUSED)
        except UpgradeRefused as refusal:
            # 429: a server may hold up addresses that guess.
            require(refusal.status in (401, 403, 429), f"answered with {refusal}, not 401 or 403")
            return str(refusal)

    async def restart(self) -> None:
        """Restart the server, and wait until it takes agents.

        Raises:
            Untested: it cannot be restarted.
            RuleBroken: it did not come back.
        """
        await self.driver.restart()
        until = time.monotonic() + self.deadlines.restart_s
        while True:
            try:
                async with self.dial(self.identity.secret):
                    return
            except (UpgradeRefused, TimeoutError) as error:
                require(time.monotonic() < until, f"the server did not come back after its restart: {error}")
            # It is starting: nothing tells when it is ready but trying.
            await asyncio.sleep(0.2)

    async def stop(self, call: Call) -> None:
        """Let the server's caller go away."""
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def succeeded(self, call: Call) -> bool:
        """Wait for the end of a call; return whether the server's caller got a whole answer.

        Raises:
            RuleBroken: it did not end.
        """
        try:
            # Shielded: the call goes on, until its check is over.
            return await asyncio.wait_for(asyncio.shield(call), self.deadlines.answer_s)
        except TimeoutError:
            raise RuleBroken("the server's caller got no end of its call") from None


# The checks of a server.
CHECKS: Final[CheckRegistry[ServerHarness]] = CheckRegistry()
