"""Where the service's parts lie. Nothing is looked up here but whether a Debian package owns the program."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

USER: Final = "obt-agent"
UNIT: Final = "obt-agent.service"
PACKAGED_PREFIX: Final = Path("/usr/lib/obt-agent")


@dataclass(frozen=True, kw_only=True)
class ServicePaths:
    """Paths of one installation below ``root`` (another root than ``/`` is for tests).

    ``packaged`` says that dpkg owns program and unit: they are left to it.
    """

    root: Path = Path("/")
    packaged: bool = False

    @property
    def prefix(self) -> Path:
        """The service's own environment."""
        return self.root / (PACKAGED_PREFIX if self.packaged else Path("/opt/obt-agent")).relative_to("/")

    @property
    def program(self) -> Path:
        """The command in that environment."""
        return self.prefix / "bin" / "obt-agent"

    @property
    def launcher(self) -> Path:
        """The link to the command that stands in everybody's PATH."""
        return self.root / "usr/local/bin/obt-agent"

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.root / "etc/obt-agent/agent.yaml"

    @property
    def token(self) -> Path:
        """A static token, where systemd looks for the unit's ``LoadCredential=obt-token``."""
        return self.root / "etc/credstore/obt-token"

    @property
    def state(self) -> Path:
        """Identity, credential, jobs."""
        return self.root / "var/lib/obt-agent"

    @property
    def locks(self) -> Path:
        """The folder of the lock that keeps benchmarks apart."""
        return self.root / "run/lock/obt-agent"

    @property
    def unit(self) -> Path:
        """The unit, where it is not a package's."""
        return self.root / "etc/systemd/system" / UNIT

    @property
    def overrides(self) -> Path:
        """The owner's changes to the unit (``systemctl edit``)."""
        return self.root / "etc/systemd/system" / f"{UNIT}.d"

    @property
    def sysusers(self) -> Path:
        """What makes the user."""
        return self.root / "etc/sysusers.d/obt-agent.conf"

    @property
    def tmpfiles(self) -> Path:
        """What makes the folders."""
        return self.root / "etc/tmpfiles.d/obt-agent.conf"

    @property
    def systemd_runs(self) -> bool:
        """Whether systemd is PID 1 (``sd_booted(3)``)."""
        return (self.root / "run/systemd/system").is_dir()


def here() -> ServicePaths:
    """The paths of this machine, by where the running program lies and what is installed."""
    runs_packaged = Path(sys.prefix) == PACKAGED_PREFIX
    return ServicePaths(packaged=runs_packaged or (PACKAGED_PREFIX / "bin" / "obt-agent").exists())
