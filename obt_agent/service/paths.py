"""Where the service's parts lie. Nothing is read here but whether a Debian package owns the program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

USER: Final = "obt-agent"
UNIT: Final = "obt-agent.service"
PACKAGED_PREFIX: Final = Path("/usr/lib/obt-agent")


class ServicePaths:
    """Paths of one installation below ``root`` (another root than ``/`` is for tests).

    ``packaged`` says that dpkg owns program and unit: they are left to it.
    """

    def __init__(self, *, root: Path = Path("/"), packaged: bool = False) -> None:
        self.root = root
        self.packaged = packaged
        # The service's own environment, and the command in it.
        self.prefix = root / (PACKAGED_PREFIX.relative_to("/") if packaged else "opt/obt-agent")
        self.program = self.prefix / "bin" / "obt-agent"
        # The link to the command that stands in everybody's PATH.
        self.launcher = root / "usr/local/bin/obt-agent"
        self.config = root / "etc/obt-agent/agent.yaml"
        # A static token, where systemd looks for the unit's LoadCredential=obt-token.
        self.token = root / "etc/credstore/obt-token"
        # Identity, credential, jobs.
        self.state = root / "var/lib/obt-agent"
        # The folder of the lock that keeps benchmarks apart.
        self.locks = root / "run/lock/obt-agent"
        # The unit, where it is not a package's, and the owner's changes to it (systemctl edit).
        self.unit = root / "etc/systemd/system" / UNIT
        self.overrides = root / "etc/systemd/system" / f"{UNIT}.d"
        # What makes the user, and the folders.
        self.sysusers = root / "etc/sysusers.d/obt-agent.conf"
        self.tmpfiles = root / "etc/tmpfiles.d/obt-agent.conf"

    @property
    def systemd_runs(self) -> bool:
        """Whether systemd is PID 1 (``sd_booted(3)``)."""
        return (self.root / "run/systemd/system").is_dir()


def here() -> ServicePaths:
    """The paths of this machine, by where the running program lies and what is installed."""
    runs_packaged = Path(sys.prefix) == PACKAGED_PREFIX
    return ServicePaths(packaged=runs_packaged or (PACKAGED_PREFIX / "bin" / "obt-agent").exists())
