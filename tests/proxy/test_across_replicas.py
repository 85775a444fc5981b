"""A page at one replica, events from another, an agent at a third, behind each proxy: as if they were one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proxy.before_replicas import behind, by_caddy, by_haproxy, by_nginx
from tests.proxy.programs import Command
from tests.proxy.replicas import Replicas
from tests.proxy.test_proxies import works

pytestmark = pytest.mark.timeout(900)  # whole programs, on a machine that may be busy

each = pytest.mark.parametrize("command", [by_haproxy, by_nginx, by_caddy])


@each
async def test_page_events_and_agents_work_whichever_replica_each_meets(
    tmp_path: Path, replicas: Replicas, command: Command
) -> None:
    async with behind(tmp_path, command, replicas) as proxy:
        await works(proxy)


@each
async def test_they_work_under_a_path_of_another_site(
    tmp_path: Path, replicas: Replicas, command: Command
) -> None:
    async with behind(tmp_path, command, replicas, "/obt") as proxy:
        await works(proxy, "/obt/")
        async with proxy.client() as client:
            assert (await client.get(proxy.url, follow_redirects=True)).url.path == "/obt/"
