"""What one key demands of another, and what a type cannot say. Pure: works on settings, looks at no file."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from typing import Final, get_args

from obt_agent.config import urls
from obt_agent.config.command_names import READ_AND_RUN, ChangeCommand
from obt_agent.config.problems import shown
from obt_agent.config.schema import Config, PolicyConfig, ServerConfig
from obt_agent.spelling import nearest

# From, which is never 24:00, and to.
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)", re.ASCII)
# With the patterns of a shell, and a port if need be.
_HOST: Final = re.compile(r"[A-Za-z0-9*?.\-]+(:[0-9*]+)?|\[[0-9A-Fa-f:]+\](:[0-9*]+)?", re.ASCII)
_CHANGES: Final[tuple[str, ...]] = get_args(ChangeCommand)

_NOT_ENCRYPTED: Final = (
    "is not encrypted: token, prompts and answers could be read on the way; use https://, "
    "or set server.allow_insecure: true if the network itself is trusted"
)

# A key, and what is wrong with its value.
Broken = tuple[str, str]


def broken(config: Config) -> Iterator[Broken]:
    """All rules that the configuration breaks. Its addresses are in their final form."""
    yield from _server(config.server)
    yield from _policy(config.policy)
    hardware = config.hardware
    if hardware.min_interval_s > hardware.active_interval_s:
        yield (
            "hardware.min_interval_s",
            f"found {hardware.min_interval_s:g}, expected no more than hardware.active_interval_s",
        )


def _server(server: ServerConfig) -> Iterator[Broken]:
    if server.client_key_file and not server.client_cert_file:
        yield (
            "server.client_key_file",
            "is set without server.client_cert_file; name the certificate that it belongs to",
        )
    if server.url is None:
        return
    # Addresses are in their final form here: http has become ws.
    plain = server.url.startswith("ws://")
    if plain and not urls.is_loopback(server.url) and not server.allow_insecure:
        yield "server.url", _NOT_ENCRYPTED
    if plain and (server.ca_file or server.client_cert_file):
        yield "server.url", "is not encrypted, but a certificate is configured for it; use https://"


def _policy(policy: PolicyConfig) -> Iterator[Broken]:
    for key, names in (("allow", policy.commands.allow), ("deny", policy.commands.deny)):
        for name in names:
            if text := _command(name, allow=key == "allow"):
                yield f"policy.commands.{key}", text
    for hours in policy.quiet_hours:
        if not _HOURS.fullmatch(hours):
            yield "policy.quiet_hours", f'found {shown(hours)}, expected times of day such as "22:00-07:00"'
    for host in policy.registries:
        if not _HOST.fullmatch(host):
            yield "policy.registries", f"found {shown(host)}, expected a host such as registry.ollama.ai"


def _command(name: str, *, allow: bool) -> str | None:
    """What is wrong with a command's name or shell pattern."""
    if fnmatch.filter(READ_AND_RUN, name):
        return None
    # Denying such a command is right, though it is not allowed anyway: allow_changes may come later.
    if fnmatch.filter(_CHANGES, name):
        return f"{name} changes what is installed; allow it in policy.allow_changes" if allow else None
    return f"found {shown(name)}, which is no command{nearest(name, READ_AND_RUN + _CHANGES)}"
