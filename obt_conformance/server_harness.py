"""What a check of a server has at hand: an identity, sockets, and a way to provoke it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from obt_agent.protocol.limits import LINK_CREDIT_BYTES, STREAM_CREDIT_BYTES
from obt_conformance.checks import RuleBroken, Untested
from obt_conformance.deadlines import Deadlines
from obt_conformance.dialling import UpgradeRefused, dial, socket_url
from obt_conformance.drivers import Driver, Provoked
from obt_conformance.identity import KitIdentity
from obt_conformance.wire import Frame, JsonObject, RawSocket

MODELS = [{"name": "conformance:1b", "digest": "0" * 64, "size_bytes": 1}]


@dataclass
class AgentConnection:
    """An admitted socket of the agent that the kit plays."""

    wire: RawSocket
    identity: KitIdentity
    hello: Frame
    revision: int = 0

    @property
    def admission(self) -> JsonObject:
        """The result of the hello."""
        return self.hello.result if isinstance(self.hello.result, dict) else {}

    @property
    def stream_credit(self) -> int:
        """What a stream opens with."""
        return int(self.admission.get("stream_credit_bytes", STREAM_CREDIT_BYTES))

    @property
    def link_credit(self) -> int:
        """What the link opened with, and what was granted since."""
        return int(self.admission.get("link_credit_bytes", LINK_CREDIT_BYTES)) + self.granted("link.credit")

    def granted(self, method: str, request_id: Any = None) -> int:
        """Bytes granted so far."""
        frames = self.wire.of(method)
        return sum(
            int(frame.params.get("bytes", 0))
            for frame in frames
            if method == "link.credit" or frame.params.get("id") == request_id
        )

    def models_sync(self, *, padding: int = 0, page: JsonObject | None = None, **extra: Any) -> JsonObject:
        """Parameters of a ``models.sync``; ``padding`` bytes go into a model's unknown field."""
        if page is None or page["index"] == 0:
            self.revision += 1
        models = [{**MODELS[0], "x_conformance": "x" * padding}]
        return {
            "revision": self.revision,
            "page": page or {"index": 0, "last": True},
            "ollama": {"reachable": True, "version": "0.5.0"},
            "list_digest": "0" * 64,
            "models": models,
            **extra,
        }

    async def check_responsive(self) -> None:
        """A request is still answered.

        Raises:
            RuleBroken: it is not.
        """
        answer = await self.wire.ask("models.sync", self.models_sync())
        if answer.error_code is not None:
            raise RuleBroken(f"a good models.sync was then answered with error {answer.error_code}")


@dataclass
class ServerHarness:
    """One check's view of the server.

    Args:
        url: the server's address.
        identity: lent for this check.
        deadlines: how long to wait.
        driver: None when the server cannot be provoked.
        join_tokens: unused ones; a check may take one.
    """

    url: str
    identity: KitIdentity
    deadlines: Deadlines
    driver: Driver | None = None
    join_tokens: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def socket(self, token: str | None = "", **options: Any) -> AsyncIterator[RawSocket]:
        """An open socket, before its hello.

        Raises:
            RuleBroken: the server refused the upgrade.
        """
        secret = self.identity.secret if token == "" else token
        try:
            async with dial(
                socket_url(self.url), secret, answer_within_s=self.deadlines.answer_s, **options
            ) as wire:
                yield wire
        except UpgradeRefused as refusal:
            raise RuleBroken(f"the upgrade was refused: {refusal}") from refusal

    def hello(self, **changes: Any) -> JsonObject:
        """Parameters of a hello; ``agent`` is merged, the rest replaces."""
        agent = {
            "id": self.identity.agent_id,
            "name": "conformance",
            "version": "1",
            "instance": self.identity.instance,
            "boot_id": None,
            **changes.pop("agent", {}),
        }
        return {
            "protocol": {"min": 1, "max": 1},
            "agent": agent,
            "store_id": f"store-{self.identity.agent_id}",
            "capabilities": ["list_models", "generate", "chat", "embed", "run_benchmark", "cancel"],
            "limits": {"max_frame_bytes": 1 << 20, "max_streams": 16, "max_jobs": 32},
            "jobs": {"open": 0, "finished_unacknowledged": 0},
            "outbox": {"entries": 0, "bytes": 0},
            **changes,
        }

    @contextlib.asynccontextmanager
    async def agent(self, *, pongs: bool = True, **changes: Any) -> AsyncIterator[AgentConnection]:
        """An admitted agent that answers ``state.request`` and says that it is alive.

        Raises:
            RuleBroken: it was not admitted.
        """
        async with self.socket(pongs=pongs) as wire:
            wire.handlers["state.request"] = _empty
            hello = await wire.ask("agent.hello", self.hello(**changes))
            if hello.error_code is not None:
                raise RuleBroken(f"agent.hello was answered with error {hello.error_code}")
            wire.send_alive_every(self.deadlines.alive_s / 2)
            yield AgentConnection(wire, self.identity, hello)

    @contextlib.asynccontextmanager
    async def provoked(self, agent: AgentConnection, method: str) -> AsyncIterator[tuple[Provoked, Frame]]:
        """The server made to send ``method``: the call, and the request that came.

        Raises:
            Untested: there is no trigger.
            RuleBroken: the request did not come.
        """
        if self.driver is None:
            raise Untested("the server must be made to act: give --trigger")
        seen = len(agent.wire.of(method))
        async with self.driver.provoke(method, agent.identity.agent_id) as call:
            frame = await agent.wire.expect(method, count=seen + 1)
            if not frame.is_request:
                raise RuleBroken(f"{method} came as a notification")
            yield call, frame

    def fresh_instance(self) -> str:
        """Of another process."""
        return uuid.uuid4().hex


async def _empty(_: Frame) -> JsonObject:
    return {}
