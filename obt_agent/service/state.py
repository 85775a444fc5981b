"""What systemd says of the service, in a few facts."""

from __future__ import annotations

from dataclasses import dataclass

from obt_agent.service.paths import ServicePaths
from obt_agent.service.system import ServiceError, System

_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "StatusText",
    "NRestarts",
    "MainPID",
    "UnitFileState",
    "ExecMainStatus",
    "FragmentPath",
)


@dataclass(frozen=True)
class ServiceState:
    """The unit: whether it is installed and runs, how it last ended, and the line that the daemon gave."""

    installed: bool
    active: str
    result: str
    enabled: bool
    restarts: int
    pid: int
    exit_status: int
    line: str
    unit_file: str

    @property
    def runs(self) -> bool:
        """Whether it is up."""
        return self.active.startswith("active")


def ask(places: ServicePaths, system: System) -> ServiceState:
    """Ask systemd.

    Raises:
        ServiceError: systemd does not run here, or does not answer.
    """
    if not places.systemd_runs:
        raise ServiceError("systemd does not run here, so that there is no service.")
    told = system.properties(*_PROPERTIES)
    return ServiceState(
        installed=told.get("LoadState") == "loaded",
        active=f"{told.get('ActiveState', '')} ({told.get('SubState', '')})",
        result=told.get("Result", ""),
        enabled=told.get("UnitFileState") == "enabled",
        restarts=int(told.get("NRestarts") or 0),
        pid=int(told.get("MainPID") or 0),
        exit_status=int(told.get("ExecMainStatus") or 0),
        line=told.get("StatusText", ""),
        unit_file=told.get("FragmentPath", ""),
    )
