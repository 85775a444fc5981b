"""Remove the service and all that was made for it; ``keep_state`` leaves identity, jobs and configuration."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from obt_agent.service import environment, files
from obt_agent.service.install import InstallStep
from obt_agent.service.paths import UNIT, USER, ServicePaths
from obt_agent.service.system import ServiceError, System


def steps(places: ServicePaths, system: System, *, keep_state: bool) -> Iterator[InstallStep]:
    """The steps, in order; each can be repeated.

    Raises:
        ServiceError: a Debian package brought the service.
    """
    if places.packaged:
        raise ServiceError(
            "A Debian package brought this service: `apt purge obt-agent` removes it with its state, "
            "`apt remove obt-agent` without."
        )
    yield InstallStep("stop and disable the service", lambda: _stop(system))
    yield InstallStep(
        f"remove {places.unit}, {places.sysusers} and {places.tmpfiles}", lambda: _unit(places, system)
    )
    if not keep_state:
        yield InstallStep(
            f"remove {places.config.parent}, {places.state} and {places.token}", lambda: _state(places)
        )
        yield InstallStep(f"remove the user {USER}", lambda: _user(system))
    yield InstallStep(f"remove {places.prefix} and {places.launcher}", lambda: _program(places))


def _stop(system: System) -> None:
    system.call(["systemctl", "disable", "--quiet", "--now", UNIT])
    system.call(["systemctl", "reset-failed", UNIT])


def _unit(places: ServicePaths, system: System) -> None:
    for path in (places.unit, places.sysusers, places.tmpfiles):
        files.remove(path)
    _empty(places.sysusers.parent)
    _tree(places.overrides)
    _tree(places.locks)
    system.must(["systemctl", "daemon-reload"])


def _state(places: ServicePaths) -> None:
    _tree(places.config.parent)
    _tree(places.state)
    files.remove(places.token)
    _empty(places.token.parent)


def _user(system: System) -> None:
    if system.call(["getent", "passwd", USER]).code == 0:
        system.must(["userdel", USER])
    if system.call(["getent", "group", USER]).code == 0:
        system.must(["groupdel", USER])


def _program(places: ServicePaths) -> None:
    if places.launcher.is_symlink() and places.launcher.readlink() == places.program:
        files.remove(places.launcher)
    environment.remove(places.prefix)


def _empty(folder: Path) -> None:
    """Remove a folder that the installation may have made, if nothing else is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _tree(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ServiceError(f"{folder} cannot be removed: {error}") from error
