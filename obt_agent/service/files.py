"""Files that the service is made of: the shipped ones, and how any file is written."""

from __future__ import annotations

import os
import re
import secrets
import stat
from importlib.resources import files
from pathlib import Path
from typing import Final

from obt_agent.service.paths import ServicePaths
from obt_agent.service.system import ServiceError
from obt_agent.system import descriptors, owners

UNIT_FILE: Final = "obt-agent.service"
USER_UNIT_FILE: Final = "obt-agent-user.service"
SYSUSERS_FILE: Final = "obt-agent.sysusers.conf"
TMPFILES_FILE: Final = "obt-agent.tmpfiles.conf"
CONFIG_FILE: Final = "agent.yaml"
_SERVER_SECTION: Final = re.compile(r"^server[ \t]*:", re.MULTILINE)


def shipped(name: str) -> str:
    """A file of the folder ``systemd/``: in a wheel it lies in this package, in a checkout beside it.

    Raises:
        ServiceError: the installation is incomplete.
    """
    # A wheel has the folder inside the package; a checkout has it beside the packages.
    package = files("obt_agent.service")
    for place in (package / "systemd" / name, Path(str(package)).parent.parent / "systemd" / name):
        try:
            return place.read_text(encoding="utf-8")
        except OSError:
            continue
    raise ServiceError(f"{name} is missing from this installation; install obt-agent anew.")


def write(path: Path, text: str, *, mode: int = 0o644, group: int | None = None) -> bool:
    """Replace a file as a whole if its text differs; says whether it did. Folders on the way are made.

    Raises:
        ServiceError: it cannot be written.
    """
    try:
        if path.is_file() and not path.is_symlink() and path.read_text(encoding="utf-8") == text:
            _own(path, mode, group)
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own in the same folder: renaming within a file system replaces the file at once or
        # not at all.
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, descriptors.MAKE, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # Else a power cut after the rename may leave an empty file under the name.
            os.fsync(descriptor)
        _own(fresh, mode, group)
        fresh.replace(path)
    except OSError as error:
        raise ServiceError(f"{path} cannot be written: {error.strerror}") from error
    return True


def _own(path: Path, mode: int, group: int | None) -> None:
    if group is not None:
        owners.give_group(path, group)
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def text_of(path: Path) -> str | None:
    """A file's text; None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def remove(path: Path) -> bool:
    """Remove a file or a link; says whether there was one.

    Raises:
        ServiceError: it cannot be removed.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ServiceError(f"{path} cannot be removed: {error.strerror}") from error
    return True


def unit_for(paths: ServicePaths) -> str:
    """The unit, with the paths of this installation."""
    return shipped(UNIT_FILE).replace("/opt/obt-agent/", f"{paths.prefix}/")


def with_server(text: str, url: str, ollama_url: str | None = None) -> str:
    """A configuration's text with the server's address in it; all that was there stays as it was.

    Raises:
        ServiceError: it has a ``server`` section already, which is for its owner to change.
    """
    if _SERVER_SECTION.search(text):
        raise ServiceError(
            "the configuration has a server section without an address; write `url:` there, then try again."
        )
    ollama = f"\nollama:\n  url: {_quoted(ollama_url)}\n" if ollama_url else ""
    return f"{text.rstrip()}\n\nserver:\n  url: {_quoted(url)}\n{ollama}".lstrip()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
