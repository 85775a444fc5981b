"""The configuration: valid or not, which file, and what its owner should know."""

from __future__ import annotations

from collections.abc import Iterator

from obt_agent.config.describe import for_owner
from obt_agent.config.load import LoadedConfig
from obt_agent.config.problems import WrongConfig
from obt_agent.doctor.findings import Finding, Value, failure, ok, warning


def from_problems(error: WrongConfig) -> Iterator[Finding]:
    """Every fault, with its place."""
    for problem in error.problems:
        yield failure("config.valid", str(problem), "Correct it there; obt-agent config check confirms it.")


def from_loaded(loaded: LoadedConfig) -> Iterator[Finding]:
    """A valid configuration."""
    if loaded.unread:
        yield warning(
            "config.unread",
            f"{loaded.unread} may not be read by this user: the service is checked from outside only",
            "sudo obt-agent check reads all of it",
        )
    # A key that a file repeats with its default counts as set: its owner wrote it.
    changed = sum(origin.kind != "default" for origin in loaded.origins.values())
    where = str(loaded.path) if loaded.path else "no file; defaults, environment and flags"
    yield ok("config.valid", f"{where}: {changed} values set, {len(loaded.origins) - changed} defaults")
    for notice in () if loaded.unread else loaded.notices:
        yield warning("config.notice", notice, "obt-agent config show prints the value in force.")
    if loaded.config.server.url is None and not loaded.unread:
        yield failure(
            "config.server",
            "no server is named",
            "Write server.url into the configuration file, or: sudo obt-agent service install --server URL",
        )
    if loaded.config.server.allow_insecure:
        yield warning(
            "config.allow_insecure",
            "server.allow_insecure is on: token, prompts and answers may travel in clear text",
            "Give the server a certificate, use https:// and take the key out.",
        )


def values(loaded: LoadedConfig) -> tuple[Value, ...]:
    """Every key, its value with secrets masked, and its origin."""
    return tuple(Value(key=one.key, value=one.value, origin=str(one.origin)) for one in for_owner(loaded))
