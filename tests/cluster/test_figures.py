"""What one of several servers shows of itself and the others, to Prometheus and in the database."""

import socket
from pathlib import Path

import pytest

from obt_server.app import version
from obt_server.bus.nats import NatsBus, NatsSettings
from obt_server.replica_storage import ReplicaState
from tests.cluster.nats import NatsServer
from tests.server import conftest as servers
from tests.server.conftest import Running, running
from tests.waiting import until


async def figures(server: Running) -> dict[str, float]:
    """Those without labels."""
    lines = (await server.http.get("/metrics")).text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in pairs}


async def test_two_servers_show_who_runs_who_leads_and_whether_nats_is_there(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "address_in", lambda folder: database)
    with NatsServer() as nats:
        async with (
            running(tmp_path / "1", bus=NatsBus(NatsSettings((nats.address,)))) as first,
            running(tmp_path / "1", bus=NatsBus(NatsSettings((nats.address,)))) as second,
        ):

            async def shown(name: str) -> tuple[float, float]:
                return (await figures(first))[name], (await figures(second))[name]

            async def both_run() -> bool:
                return await shown("obt_replicas") == (2, 2)

            await until(both_run)
            assert sorted(await shown("obt_replica_leading")) == [0, 1]
            assert await shown("obt_replica_epoch") == (1, 1)
            assert await shown("obt_bus_connected") == (1, 1)

            async def said() -> list[ReplicaState]:
                return [one.state for one in await first.parts.storage.replicas()]

            # Said with the next beat.
            async def all_connected() -> bool:
                return [one.bus_connected for one in await said()] == [True, True]

            await until(all_connected)
            assert {(one.host, one.version) for one in await said()} == {(socket.gethostname(), version())}
            nats.kill()

            async def none_connected() -> bool:
                return [one.bus_connected for one in await said()] == [False, False]

            await until(none_connected)
            assert await shown("obt_bus_connected") == (0, 0)
            assert await shown("obt_replicas") == (2, 2)
