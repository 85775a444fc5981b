"""What systemd knows of the service, and what its exit statuses mean."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from obt_agent.service.paths import ServicePaths
from obt_agent.service.system import ServiceError, System

_PROPERTIES: Final = (
    *("LoadState", "ActiveState", "SubState", "Result", "StatusText"),
    *("NRestarts", "UnitFileState", "ExecMainStatus", "FragmentPath"),
)

# systemd.exec(5), "systemd-specific exit codes": it could not set up what the unit asks for, so that the
# program never began, and nothing of it is in the journal but systemd's own lines.
_BEFORE_THE_PROGRAM: Final = {
    200: "change to the working directory (WorkingDirectory=)",
    201: "set the priority (Nice=)",
    202: "close or pass file descriptors",
    203: "run the program: it is missing, or may not be run; install the service again",
    204: "allocate memory: the machine has too little of it",
    205: "set resource limits (LimitNOFILE= and others)",
    206: "set the OOM score (OOMScoreAdjust=)",
    207: "set the signal mask",
    208: "open standard input (StandardInput=)",
    209: "open standard output (StandardOutput=)",
    210: "change the root directory (RootDirectory=)",
    211: "set the I/O priority (IOSchedulingClass=)",
    212: "set the timer slack (TimerSlackNSec=)",
    213: "set the secure bits (SecureBits=)",
    214: "set the CPU scheduling (CPUSchedulingPolicy=)",
    215: "set the CPU affinity (CPUAffinity=)",
    216: "become the group: it is missing (Group=, SupplementaryGroups=)",
    217: "become the user: it is missing (User=), or no user namespace is allowed (PrivateUsers=)",
    218: "drop capabilities (CapabilityBoundingSet=)",
    219: "make the control group",
    220: "make a session",
    221: "go on: somebody cancelled the start (systemd.confirm_spawn)",
    222: "open standard error (StandardError=)",
    224: "open a PAM session (PAMName=)",
    225: "make a network namespace (PrivateNetwork=)",
    226: "make a file system namespace: a path of the sandbox is missing (ReadWritePaths=), or this "
    "container allows none",
    227: "give up new privileges (NoNewPrivileges=)",
    228: "filter system calls (SystemCallFilter=)",
    229: "set the SELinux context (SELinuxContext=)",
    230: "set the personality (Personality=)",
    231: "set the AppArmor profile (AppArmorProfile=)",
    232: "restrict address families (RestrictAddressFamilies=)",
    233: "make the runtime folder (RuntimeDirectory=)",
    235: "set the owner of a socket",
    236: "set the SMACK label (SmackProcessLabel=)",
    237: "set up the kernel keyring (KeyringMode=)",
    238: "make the state folder (StateDirectory=)",
    239: "make the cache folder (CacheDirectory=)",
    240: "make the log folder (LogsDirectory=)",
    241: "make the configuration folder (ConfigurationDirectory=)",
    242: "set the NUMA policy (NUMAPolicy=)",
    243: "read the credentials (LoadCredential=): look at /etc/credstore/obt-token",
    245: "restrict file systems (RestrictFileSystems=)",
}
_FIRST, _LAST = 200, 245

# Values of ``Result`` with which ``ExecMainStatus`` is the number of a signal.
_BY_SIGNAL: Final = frozenset({"signal", "core-dump", "watchdog", "oom-kill"})


@dataclass(frozen=True)
class ServiceState:
    """The unit: whether it is installed and runs, how it last ended, and the status that the daemon set."""

    installed: bool
    active: str
    result: str
    enabled: bool
    restarts: int
    exit_status: int
    status_text: str
    unit_file: str

    @property
    def runs(self) -> bool:
        """Whether it is up."""
        return self.active.startswith("active")

    @property
    def ending(self) -> str:
        """How it ended, and why where that is known: ``exit-code, exit status 217: systemd could not …``."""
        return describe_ending(self.result, self.exit_status, self.status_text)


def read_state(paths: ServicePaths, system: System) -> ServiceState:
    """Ask systemd.

    Raises:
        ServiceError: systemd does not run here, or does not answer.
    """
    if not paths.systemd_runs:
        raise ServiceError("systemd does not run here, so that there is no service.")
    shown = system.properties(*_PROPERTIES)
    return ServiceState(
        installed=shown.get("LoadState") == "loaded",
        active=f"{shown.get('ActiveState', '')} ({shown.get('SubState', '')})",
        result=shown.get("Result", ""),
        enabled=shown.get("UnitFileState") == "enabled",
        restarts=int(shown.get("NRestarts") or 0),
        exit_status=int(shown.get("ExecMainStatus") or 0),
        status_text=shown.get("StatusText", ""),
        unit_file=shown.get("FragmentPath", ""),
    )


def describe_ending(result: str, status: int, status_text: str) -> str:
    """How the service ended, in words: systemd's result, the status or signal, and the cause."""
    if result in _BY_SIGNAL and status in set(signal.Signals):
        return ": ".join(filter(None, (f"{result}, {signal.Signals(status).name}", status_text)))
    cause = status_text
    # The text is of an earlier run of the program where this one never began.
    if _FIRST <= status <= _LAST:
        cause = f"systemd could not {_BEFORE_THE_PROGRAM.get(status, 'set up what the unit asks for')}"
    return ": ".join(filter(None, (f"{result}, exit status {status}", cause)))
