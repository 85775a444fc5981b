"""The conformance kit against replicas behind each proxy: it meets them as agents and programs do."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from obt_conformance.rules import NOT_OF_SERVERS, RULES
from tests.proxy.before_replicas import behind, by_caddy, by_haproxy, by_nginx
from tests.proxy.programs import Command, Proxy
from tests.proxy.replicas import Replicas
from tests.server.process import stop

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

KIT = "import sys; from obt_conformance.cli import main; sys.exit(main())"


async def verdicts(proxy: Proxy, token: Path) -> dict[str, str]:
    """What the kit says of each rule, with all the time that rules take; of one that is broken, in full."""
    words = ("server", proxy.url, "--obt-server-api-token-file", str(token), "--json")
    kit = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KIT, *words),
        env={**os.environ, "SSL_CERT_FILE": str(proxy.certificate)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await kit.communicate()
    finally:
        await stop(kit)
    assert kit.returncode in {0, 1}, errors.decode()
    rules = json.loads(output)["rules"]
    return {
        rule: found["verdict"] if found["verdict"] != "fail" else str(found["checks"])
        for rule, found in rules.items()
    }


async def test_every_rule_is_kept_behind_each_proxy(tmp_path: Path, replicas: Replicas) -> None:
    token = tmp_path / "token"
    token.write_text(replicas.token)

    async def others_than_kept(command: Command) -> dict[str, str]:
        folder = tmp_path / command.__name__
        folder.mkdir()
        async with behind(folder, command, replicas) as proxy:
            found = await verdicts(proxy, token)
        return {rule: found[rule] for rule in set(RULES) - set(NOT_OF_SERVERS) if found[rule] != "pass"}

    # Beside each other: most of it is waiting.
    found = await asyncio.gather(*(others_than_kept(one) for one in (by_haproxy, by_nginx, by_caddy)))
    assert found == [{}] * 3
