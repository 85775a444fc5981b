"""All checks, in order. Each is bounded in time, and one that breaks does not keep the others away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from obt_agent.config.load import LoadedConfig
from obt_agent.doctor import configuration, machine, ollama, sandbox, server, state
from obt_agent.doctor.findings import CheckReport, Finding, failure, skipped
from obt_agent.errors import AgentError
from obt_agent.version import full_version

CHECK_TIMEOUT_S: Final = 60.0


async def run_all(loaded: LoadedConfig, environ: Mapping[str, str]) -> CheckReport:
    """Run every check.

    Args:
        loaded: the configuration; valid, for a wrong one is a report of its own.
        environ: the environment, which may name systemd's credentials.
    """
    config = loaded.config
    # In the order in which one would mend things: nothing works without what comes before.
    findings = list(configuration.from_loaded(loaded))
    # Later checks need what the state folder holds: the credential, and the running agent's status.
    known = state.StateFindings()
    if loaded.unread:
        findings.append(skipped("state.folder", "where it is stands in a file that may not be read"))
    else:
        state_findings, known = await asyncio.to_thread(state.check, config, environ)
        findings += state_findings
    if config.server.url is None:
        findings.append(skipped("server.address", "no server is named"))
    else:
        shown = known.credential
        secret, pins = (shown.secret, shown.pins) if shown else (None, ())
        findings += await collect("server", server.check(config.server, secret, pins=pins))
    findings += await collect("ollama", ollama.check(config.ollama))
    findings += await collect("hardware", machine.check(config))
    # Systemd and SQLite block, and the deadline of a check must hold on this loop.
    unit = await asyncio.to_thread(sandbox.properties)
    findings += sandbox.check(unit, known.status)
    return CheckReport(
        version=full_version(), findings=tuple(findings), configuration=configuration.values(loaded)
    )


async def collect(
    name: str, checks: AsyncIterator[Finding], *, within_s: float = CHECK_TIMEOUT_S
) -> list[Finding]:
    """Return the findings of a check within ``within_s``; those before a failure count."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(within_s):
            async for finding in checks:
                found.append(finding)  # noqa: PERF401 - what came before a failure counts
    except TimeoutError:
        found.append(
            failure(
                f"{name}.timeout",
                f"no answer within {within_s:g} s",
                "Try again; then check its network.",
            )
        )
    except (AgentError, OSError) as error:
        found.append(failure(f"{name}.failed", str(error), "Correct the cause, then check again."))
    return found
