"""The unit: whether it runs, and whether its sandbox hides what is measured (an override, a late device)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from obt_agent.daemon.status_file import Status
from obt_agent.doctor.findings import Finding, failure, ok, skipped, warning
from obt_agent.hardware.gpu.registry import VENDORS
from obt_agent.service.state import describe_ending
from obt_agent.service.system import ServiceError, System

_WITHIN_S: Final = 10.0
# First what hides something from the agent, then how the service is.
_PROPERTIES: Final = (
    *("LoadState", "ProtectProc", "ProcSubset", "PrivateDevices", "PrivateNetwork", "DeviceAllow"),
    *("DropInPaths", "NeedDaemonReload", "ActiveState", "UnitFileState", "Result"),
    *("ExecMainStatus", "StatusText", "NRestarts"),
)
# A start that fails now and then is the business of systemd; from so many on something is wrong.
_MANY_RESTARTS: Final = 5
_CONFIG_STATUS: Final = 78
_GPU_NODES: Final = sorted({node for vendor in VENDORS for node in vendor.device_nodes})
_GPU_CLASSES: Final = tuple(allowed.split()[0] for vendor in VENDORS for allowed in vendor.device_classes)


def properties() -> dict[str, str] | None:
    """Properties of the unit; None where systemd cannot be asked."""
    try:
        return System(timeout_s=_WITHIN_S).properties(*_PROPERTIES)
    except ServiceError:
        return None


def check(unit: Mapping[str, str] | None, status: Status | None, root: Path = Path("/")) -> Iterator[Finding]:
    """Check the unit as systemd has it, and the devices as the running agent sees them."""
    if unit is None or unit.get("LoadState") != "loaded":
        yield skipped("service.unit", "obt-agent.service is not installed, or systemd does not run here")
        return
    yield from _state(unit)
    tight = list(_too_tight(unit))
    yield from tight
    if not tight:
        yield ok("service.unit", "the sandbox lets the agent read what it measures")
    yield from _late_devices(status, root)
    yield from _unread(status)


def _state(unit: Mapping[str, str]) -> Iterator[Finding]:
    """Whether systemd keeps it running, and after the next boot too."""
    active = unit.get("ActiveState", "")
    # "activating" after a failure is the wait before the next start.
    if active == "failed" or (active == "activating" and unit.get("Result") != "success"):
        status = int(unit.get("ExecMainStatus") or 0)
        yield failure(
            "service.state",
            f"it ended with {describe_ending(unit.get('Result', ''), status, unit.get('StatusText', ''))}",
            "Put that right, then: sudo systemctl restart obt-agent"
            if status == _CONFIG_STATUS
            else "the log has more: journalctl -u obt-agent; systemd starts it again, unless it was stopped",
        )
    elif active == "active" and int(unit.get("NRestarts") or 0) >= _MANY_RESTARTS:
        yield warning(
            "service.state",
            f"it runs, and systemd had to start it again {unit['NRestarts']} times",
            "its log has the reason: journalctl -u obt-agent -p err",
        )
    elif active == "active":
        yield ok("service.state", "it runs")
    if unit.get("UnitFileState") == "disabled":
        yield warning(
            "service.enabled", "it does not start when the machine does", "sudo systemctl enable obt-agent"
        )


def _too_tight(unit: Mapping[str, str]) -> Iterator[Finding]:
    where = unit.get("DropInPaths") or "the unit"
    undo = f"Take it out of {where} (systemctl edit obt-agent), then restart the service."
    # The unit that is shipped hides no process and no network, and allows GPUs beside PrivateDevices=: what
    # is found here is an owner's change.
    if unit.get("ProtectProc") not in {"", "default", None}:
        yield warning("service.sandbox", f"ProtectProc={unit['ProtectProc']} hides Ollama's processes", undo)
    if unit.get("ProcSubset") == "pid":
        yield warning("service.sandbox", "ProcSubset=pid hides memory, load and network figures", undo)
    if unit.get("PrivateNetwork") == "yes":
        yield failure(
            "service.sandbox", "PrivateNetwork=yes keeps the agent from its server and from Ollama", undo
        )
    if unit.get("PrivateDevices") == "yes" and not any(
        allowed in unit.get("DeviceAllow", "") for allowed in _GPU_CLASSES
    ):
        yield warning(
            "service.sandbox", "PrivateDevices=yes hides the GPUs, and no DeviceAllow= shows them", undo
        )
    if unit.get("NeedDaemonReload") == "yes":
        yield warning(
            "service.reload",
            "the unit's files changed since systemd read them",
            "sudo systemctl daemon-reload",
        )


def _unread(status: Status | None) -> Iterator[Finding]:
    """What the running agent itself cannot read: it may see less than this command does."""
    for provider in status.providers if status else ():
        if provider.status not in {"ok", "absent"}:
            why = provider.reason or "no reason given"
            yield warning(
                "service.reads",
                f"the running agent reads {provider.name}: {provider.status} ({why})",
                "If it is well in this list, the service's sandbox or an earlier start is the cause: "
                "sudo systemctl restart obt-agent",
            )


def _late_devices(status: Status | None, root: Path) -> Iterator[Finding]:
    """Nodes that are newer than the agent's process are not in its own /dev."""
    if status is None:
        return
    # The sandbox binds nodes at its start; one that is made later never appears in it.
    late = sorted(
        f"/dev/{node.relative_to(root / 'dev')}"
        for pattern in _GPU_NODES
        for node in (root / "dev").glob(pattern)
        if not node.is_dir() and node.stat().st_ctime > status.started_at
    )
    if late:
        yield warning(
            "service.devices",
            f"{', '.join(late)} came after the service started, which cannot see it",
            "sudo systemctl restart obt-agent",
        )
