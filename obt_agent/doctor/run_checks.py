"""All looks, in order. Each is bounded in time, and one that breaks does not keep the others away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from obt_agent.config.load import Loaded
from obt_agent.doctor import configuration, machine, ollama, sandbox, server, state
from obt_agent.doctor.findings import CheckReport, Finding, failure, skipped
from obt_agent.errors import AgentError
from obt_agent.version import full_version

LOOK_WITHIN_S: Final = 60.0


async def examine(loaded: Loaded, environ: Mapping[str, str]) -> CheckReport:
    """Look at everything.

    Args:
        loaded: the configuration; valid, for a wrong one is a report of its own.
        environ: the environment, which may name systemd's credentials.
    """
    config = loaded.config
    findings = list(configuration.of_loaded(loaded))
    seen = state.StateFindings()
    if loaded.unread:
        findings.append(skipped("state.folder", "where it is stands in a file that may not be read"))
    else:
        seen_findings, seen = await asyncio.to_thread(state.look, config, environ)
        findings += seen_findings
    if config.server.url is None:
        findings.append(skipped("server.address", "no server is named"))
    else:
        secret = seen.credential.secret if seen.credential else None
        findings += await taken("server", server.look(config.server, secret))
    findings += await taken("ollama", ollama.look(config.ollama))
    findings += await taken("hardware", machine.look(config))
    unit = await asyncio.to_thread(sandbox.properties)
    findings += sandbox.look(unit, seen.status)
    return CheckReport(
        version=full_version(), findings=tuple(findings), configuration=configuration.values(loaded)
    )


async def taken(
    name: str, looks: AsyncIterator[Finding], *, within_s: float = LOOK_WITHIN_S
) -> list[Finding]:
    """What a look finds within ``within_s``; what it found before it broke counts."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(within_s):
            async for finding in looks:
                found.append(finding)  # noqa: PERF401 - what came before a failure counts
    except TimeoutError:
        found.append(
            failure(
                f"{name}.time",
                f"no answer within {within_s:g} s",
                "Try again; then look at its network.",
            )
        )
    except (AgentError, OSError) as error:
        found.append(failure(f"{name}.look", str(error), "Put right what it says, then check again."))
    return found
