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


def steps(paths: ServicePaths, system: System, *, keep_state: bool) -> Iterator[InstallStep]:
    """The steps, in order; each can be repeated.

    Raises:
        ServiceError: a Debian package brought the service.
    """
    if paths.packaged:
        raise ServiceError(
            "A Debian package brought this service: `apt purge obt-agent` removes it with its state, "
            "`apt remove obt-agent` without."
        )
    yield InstallStep("stop and disable the service", lambda: _stop(system))
    yield InstallStep(
        f"remove {paths.unit}, {paths.sysusers} and {paths.tmpfiles}", lambda: _unit(paths, system)
    )
    if not keep_state:
        yield InstallStep(
            f"remove {paths.config.parent}, {paths.state} and {paths.token}", lambda: _state(paths)
        )
        yield InstallStep(f"remove the user {USER}", lambda: _user(system))
    yield InstallStep(f"remove {paths.prefix} and {paths.launcher}", lambda: _program(paths))


def _stop(system: System) -> None:
    system.call(["systemctl", "disable", "--quiet", "--now", UNIT])
    system.call(["systemctl", "reset-failed", UNIT])


def _unit(paths: ServicePaths, system: System) -> None:
    for path in (paths.unit, paths.sysusers, paths.tmpfiles):
        files.remove(path)
    # A folder that systemd made is left; /etc/sysusers.d may have been made by the installation.
    _empty(paths.sysusers.parent)
    _tree(paths.overrides)
    _tree(paths.locks)
    system.run(["systemctl", "daemon-reload"])


def _state(paths: ServicePaths) -> None:
    _tree(paths.config.parent)
    _tree(paths.state)
    files.remove(paths.token)
    _empty(paths.token.parent)


def _user(system: System) -> None:
    if system.call(["getent", "passwd", USER]).code == 0:
        system.run(["userdel", USER])
    # userdel removes the group with the user, unless somebody else was put into it.
    if system.call(["getent", "group", USER]).code == 0:
        system.run(["groupdel", USER])


def _program(paths: ServicePaths) -> None:
    # Whatever else goes by that name stays.
    if paths.launcher.is_symlink() and paths.launcher.readlink() == paths.program:
        files.remove(paths.launcher)
    environment.remove(paths.prefix)


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
