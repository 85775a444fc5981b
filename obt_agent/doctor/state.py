"""The state folder: who holds it, who this agent is, what it may show, what waits, and free disk space."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from obt_agent.config.schema import Config
from obt_agent.daemon import status_file
from obt_agent.doctor.findings import Finding, failure, ok, skipped, warning
from obt_agent.errors import AgentError
from obt_agent.identity.credentials import AgentCredential, Credentials
from obt_agent.identity.folder import open_folder
from obt_agent.identity.owner import as_owner
from obt_agent.identity.provisioned import TokenError, read_token, token_file_seen
from obt_agent.identity.state_dir import peek
from obt_agent.jobs.store.job_store import DATABASE
from obt_agent.jobs.store.read_only import StoreReading
from obt_agent.jobs.store.salvage import set_aside_stores

_DAY_S = 86_400.0
# The daemon writes its status every 5 s at least.
_STALE_S = 30.0


@dataclass(frozen=True)
class StateFindings:
    """What later checks need: the credential to show, and the running agent's status."""

    credential: AgentCredential | None = None
    status: status_file.Status | None = None


def check(config: Config, environ: Mapping[str, str]) -> tuple[list[Finding], StateFindings]:
    """Check without locking, making or changing anything."""
    path = Path(config.agent.state_dir)
    if not path.exists():
        return [
            failure(
                "state.folder",
                f"{path} does not exist: no agent has run here",
                "sudo obt-agent service install, or obt-agent enroll",
            )
        ], StateFindings()
    if not os.access(path, os.R_OK | os.X_OK):
        return [
            skipped("state.folder", f"{path} may not be read by this user; sudo obt-agent check reads it")
        ], StateFindings()
    found: list[Finding] = []
    try:
        found += _identity(path)
        status = status_file.read_status(path).status
        found += _running(status, path)
        credential, credential_findings = _credential(config, path, environ)
        found += credential_findings
        found += _store(config, path)
        found += _disk_space(config, path)
    except AgentError as error:
        found.append(failure("state.folder", error.message, "Correct the cause; nothing was changed."))
        return found, StateFindings()
    return found, StateFindings(credential, status)


def _identity(path: Path) -> Iterator[Finding]:
    identity, holder = peek(path)
    if identity is None:
        yield warning("state.identity", f"{path} holds no identity yet", "It is made at the first start.")
    else:
        yield ok("state.identity", f"{identity.agent_id} in {path}")
    if holder is None:
        yield warning(
            "agent.running", "no agent runs with this state folder", "sudo systemctl start obt-agent"
        )
    else:
        yield ok("agent.running", str(holder))


def _running(status: status_file.Status | None, path: Path) -> Iterator[Finding]:
    if status is None:
        return
    # By the monotonic clock where the boot is the same: a clock that was set is no hanging agent.
    age_s = status.age_s(status_file.Clocks.now())
    if age_s > _STALE_S:
        yield failure(
            "agent.alive",
            f"its status in {path} is {age_s:.0f} s old: it may hang",
            "systemd's watchdog restarts it; else: sudo systemctl restart obt-agent",
        )
    elif status.link.state == "admitted":
        yield ok("agent.link", status_file.status_line(status))
    else:
        yield warning(
            "agent.link",
            status_file.status_line(status),
            "The checks of the server, below, name the cause.",
        )


def _credential(
    config: Config, path: Path, environ: Mapping[str, str]
) -> tuple[AgentCredential | None, list[Finding]]:
    provisioned = None
    # As the agent itself does at each dial, so that the same credential is shown.
    if file := token_file_seen(config.server.token_file, environ, path):
        try:
            provisioned = read_token(file)
        except TokenError as error:
            remedy = (
                "The agent ends with status 78 until it is put right; then: sudo systemctl restart obt-agent"
            )
            return None, [failure("state.credential", error.message, remedy)]
    # Without the lock, which the running agent keeps.
    folder = open_folder(path)
    try:
        credential = Credentials(folder, provisioned).for_next_dial()
    finally:
        folder.close()
    if credential is None:
        remedy = "sudo obt-agent service install --token-file FILE, or obt-agent enroll"
        return None, [
            failure("state.credential", "there is none: the server cannot admit this agent", remedy)
        ]
    words = {
        "stored": "enrolled",
        "candidate": "the candidate of a rotation",
        "provisioned": "from a token file",
    }
    return credential, [ok("state.credential", words[credential.source])]


def _store(config: Config, path: Path) -> Iterator[Finding]:
    if damaged := set_aside_stores(path / DATABASE):
        yield warning(
            "store.damaged",
            f"{len(damaged)} damaged job stores were set aside, the last one as {damaged[-1].name}",
            "Look at the disk (dmesg, smartctl). What could be read was saved; delete the file once nobody "
            "wants it.",
        )
    if not (path / DATABASE).is_file():
        yield ok("store.results", "no jobs yet")
        return
    # SQLite makes -shm and -wal files, which must not belong to root.
    with as_owner(path):
        store = StoreReading(path / DATABASE)
        try:
            waiting, used = store.waiting(), store.used_bytes() + store.reserved_bytes()
        finally:
            store.close()
    quota = config.storage.quota_bytes
    message = f"{len(waiting)} results wait, {used} of {quota} bytes used"
    limit = time.time() - config.storage.max_age_days * _DAY_S
    old = [job.job_id for job in waiting if (job.finished_at or job.accepted_at) < limit]
    # From nine tenths on the next job's reservation may not fit.
    if used > quota * 9 // 10:
        yield warning(
            "store.quota", message, "Let the server fetch what waits, or raise storage.quota_bytes."
        )
    elif old:
        yield warning(
            "store.old",
            f"{message}; {len(old)} for more than {config.storage.max_age_days:g} days",
            "If no server will ever want them: obt-agent results drop JOB",
        )
    else:
        yield ok("store.results", message)


def _disk_space(config: Config, path: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(path).free
    # A quota above the disk's size is no reason to warn for ever.
    if free < min(config.storage.quota_bytes, 1 << 28):
        yield warning(
            "state.disk",
            f"{free >> 20} MiB are free where {path} lies",
            "Free some space: a job reserves it before it starts.",
        )
    else:
        yield ok("state.disk", f"{free >> 20} MiB free")
