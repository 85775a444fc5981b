"""``obt-agent legacy``: appear in the lists of an OBT server that knows nothing of agents.

It registers this machine and sends a heartbeat every 5 s, as OBT's own client does. Such a server shows the
machine, its hardware and the models that the policy lets a server see, and nothing more: it has no way to
send a prompt or a benchmark here. No credential is made or sent. Runs until it is interrupted; the daemon
does none of this.
"""

from __future__ import annotations

import argparse
import asyncio
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from obt_agent import __version__
from obt_agent.cli import exit_codes
from obt_agent.cli.common import load_config, to_stderr
from obt_agent.cli.options import add_config_options
from obt_agent.config.schema import Config
from obt_agent.errors import AgentError
from obt_agent.hardware.legacy import legacy_hardware_info
from obt_agent.hardware.service import HardwareService
from obt_agent.link.address import Address, parse_address
from obt_agent.link.disconnect import DialFailed
from obt_agent.link.enroll import post_json
from obt_agent.link.timings import LinkTimings
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.policy import Policy
from obt_agent.printable import printable

BEAT_S: Final = 5.0
"""OBT takes a client for gone after 15 s."""
_OK: Final = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("url", metavar="URL", help="the OBT server, for example http://obt.lan:8881")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Register and send heartbeats until Ctrl-C."""
    setattr(args, "key:server.url", args.url)
    config = load_config(args, need_server=True).config
    asyncio.run(stay_listed(config))
    return exit_codes.OK


async def stay_listed(config: Config, *, beat_s: float = BEAT_S) -> None:
    """Register, and send heartbeats; say on standard error what changes. Does not return.

    Raises:
        ConfigError: the address cannot be used; without TLS it needs ``server.allow_insecure``.
    """
    server = config.server
    address = parse_address(server.url or "", allow_insecure=server.allow_insecure)
    policy, shown = Policy(config.policy), ""
    hardware = HardwareService(config.hardware, ollama_url=config.ollama.url)
    registered = False
    try:
        async with OllamaClient(config.ollama, attempts=1) as ollama:
            while True:
                models = await _models(ollama, policy)
                available = "false" if models is None else "true"
                try:
                    if not registered:
                        info = legacy_hardware_info(await hardware.inventory(), await _version(ollama))
                        await _post(address, config, "register", {"hardware": info})
                    await _post(address, config, "heartbeat", {"models": models or []}, available=available)
                except AgentError as error:
                    # It keeps clients in memory alone: after a restart it needs the hardware again.
                    registered, message = False, error.message
                else:
                    registered, message = True, _listed(address, config, models)
                if message != shown:
                    to_stderr(message)
                    shown = message
                await asyncio.sleep(beat_s)
    finally:
        await hardware.close()


def _listed(address: Address, config: Config, models: list[dict[str, Any]] | None) -> str:
    what = "its Ollama does not answer" if models is None else f"models: {len(models)}"
    return f"{address.authority} lists this machine as {config.agent.name}; {what}."


async def _models(ollama: OllamaClient, policy: Policy) -> list[dict[str, Any]] | None:
    """The models that the owner lets a server see, in OBT's form; None while Ollama does not answer."""
    try:
        installed, _ = await ollama.installed()
    except AgentError:
        return None
    return [_model(model) for model in policy.visible(installed)]


def _model(model: InstalledModel) -> dict[str, Any]:
    try:
        modified = datetime.fromisoformat(model.modified_at or "").timestamp()
    except ValueError:
        modified = 0.0
    # From the right: the name of a registry may hold a port.
    name, colon, tag = model.name.rpartition(":")
    return {
        "name": model.name,
        "tags": [tag] if name and colon else [],
        "size": model.size_bytes,
        "modified": modified,
        "version": model.digest[:12] or "unknown",
        "digest": model.digest,
    }


async def _version(ollama: OllamaClient) -> str | None:
    try:
        return await ollama.version()
    except AgentError:
        return None


async def _post(address: Address, config: Config, what: str, body: dict[str, Any], **query: str) -> None:
    """One request of OBT's own client.

    Raises:
        AgentError: nothing answered, or the server refused it.
    """
    query = {"client_id": config.agent.name, "version": __version__, **query}
    path = address.api_path(f"/api/v1/models/{what}?{urlencode(query)}")
    try:
        answer = await post_json(address, path, msgspec.json.encode(body), config.server, LinkTimings())
    except DialFailed as failed:
        raise AgentError(failed.ending.message) from failed
    if answer.status != _OK:
        reason = printable(answer.body.decode(errors="replace"), 200)
        raise AgentError(f"{address.authority} refused this machine (HTTP {answer.status}): {reason}")
