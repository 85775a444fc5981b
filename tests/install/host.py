"""How this host reaches packages, for machines that are to reach them in the same way.

No address is named here: whatever mirror, index, proxy or authority the host's apt and pip are told of is
handed on. Files are copied, and folders bound.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
"""The authorities that programs of Debian trust."""
_APT = ("Acquire::http::", "Acquire::https::")


@dataclass(frozen=True)
class HostSettings:
    """What apt and pip go by here."""

    apt: tuple[str, ...]
    pip: dict[str, str]
    environment: dict[str, str]

    @classmethod
    def read(cls) -> Self:
        """Ask apt and pip, and look at the environment."""
        apt = [line for line in _output("apt-config", "dump").splitlines() if line.startswith(_APT)]
        pip = _pip()
        proxies = {name: _environment(f"{name}_proxy") for name in ("http", "https")}
        apt += [f'Acquire::{name}::Proxy "{proxy}";' for name, proxy in proxies.items() if proxy]
        if proxies["https"]:
            pip.setdefault("proxy", proxies["https"])
        named = {
            name: value
            for name, value in os.environ.items()
            if name == "SSL_CERT_FILE" or (name.startswith("UV_") and "CACHE" not in name)
        }
        return cls(tuple(apt), pip, named)

    @property
    def folders(self) -> list[Path]:
        """Folders that pip is told of: an index with all that it refers to, wheels."""
        return [path for path in self._paths() if path.is_dir()]

    def lay_out(self, root: Path) -> None:
        """Write the settings below a root, with the files that they name."""
        apt = root / "etc/apt/apt.conf.d/90host"
        apt.parent.mkdir(parents=True)
        apt.write_text("".join(f"{line}\n" for line in self.apt))
        lines = [f"{name} = {value}".replace("\n", "\n    ") for name, value in self.pip.items()]
        (root / "etc/pip.conf").write_text("\n".join(["[global]", *lines, ""]))
        pairs = [f'{name}="{value}"\n' for name, value in self.environment.items()]
        (root / "etc/environment").write_text("".join(pairs))
        for path in (*self._paths(), BUNDLE):
            if path.is_file():
                copy = root / path.relative_to("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)

    def _paths(self) -> list[Path]:
        """Files and folders that the settings name and that exist here."""
        found = []
        for name, value in (*self.pip.items(), *self.environment.items()):
            for word in value.split():
                path = Path(word.removeprefix("file://"))
                # An index refers to files beside it.
                path = path.parent if "index" in name.lower() and path.name == "simple" else path
                if path.is_absolute() and path.exists():
                    found.append(path)
        return list(dict.fromkeys(found))


def _pip() -> dict[str, str]:
    """Return pip's settings as [global] of a file would say them; the environment's win, as with pip."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in _output(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.partition(".")
        if section in found and "cache" not in name:
            found[section][name] = str(ast.literal_eval(value)).strip()
    return {**found["global"], **found["install"], **found[":env:"]}


def _environment(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper(), "")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
