"""Refuse to publish what is not ready: ``python scripts/release_check.py v0.2.0`` (``make release-check``).

The tag must be the version of obt_agent, the changelog must have a dated section of that version, and
the project's addresses, the maintainer's among them, must be real ones.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

from obt_agent import __version__

ROOT: Final = Path(__file__).parents[1]


def problems(tag: str, version: str, pyproject: str, changelog: str, maintainer: str) -> list[str]:
    """Return what stands in the way of publishing ``version`` under ``tag``, in words."""
    project = tomllib.loads(pyproject)["project"]
    found = []
    if tag != f"v{version}":
        found.append(f"the tag is {tag!r}, and the version is {version}")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, flags=re.MULTILINE):
        found.append(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'")
    # RFC 2606: nothing is ever published below .example
    found += [
        f"project.urls: {name} is a placeholder ({url})"
        for name, url in project.get("urls", {}).items()
        if ".example/" in url
    ]
    if ".example>" in maintainer:
        found.append("packaging/debian/maintainer: the address is a placeholder")
    return found


def main(arguments: list[str]) -> int:
    """Print each problem; return 1 if there is one."""
    tag = arguments[0] if arguments else ""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    maintainer = (ROOT / "packaging" / "debian" / "maintainer").read_text()
    found = problems(tag, __version__, (ROOT / "pyproject.toml").read_text(), changelog, maintainer)
    for problem in found:
        sys.stderr.write(f"release-check: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
