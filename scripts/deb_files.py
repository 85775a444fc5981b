"""Complete the tree of a Debian package: what ``scripts/make-deb`` leaves to a program that reads metadata.

``python -m scripts.deb_files SITE DOC NAME VERSION MAINTAINER``: takes out of SITE, a folder of installed
distributions, what is no part of the program, and writes ``copyright``, ``changelog.Debian`` and the bill of
materials into the folder DOC.
"""

from __future__ import annotations

import csv
import io
import sys
from datetime import datetime
from email.utils import format_datetime
from importlib.metadata import Distribution
from pathlib import Path
from typing import Final

from scripts import sbom

ROOT: Final = Path(__file__).parents[1]
# The wheel of nvidia-ml-py brings an example as a module of everybody's: "import example" would find it.
_STRAY_MODULES: Final = ("example.py",)
# pip's notes on this very installation, the path that it was made in among them.
_INSTALLER_NOTES: Final = ("direct_url.json", "REQUESTED", "INSTALLER")


def clean(site: Path) -> None:
    """Remove stray modules and pip's notes, and strike from each RECORD what is not there."""
    for name in _STRAY_MODULES:
        (site / name).unlink(missing_ok=True)
    for folder in site.glob("*.dist-info"):
        for name in _INSTALLER_NOTES:
            (folder / name).unlink(missing_ok=True)
        record = folder / "RECORD"
        rows = csv.reader(record.read_text(encoding="utf-8").splitlines())
        # Without hashes: what was stripped differs from the wheel's, and dpkg has checksums of its own.
        kept = [(name, "", "") for name, *_ in rows if (site / name).is_file()]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(kept)
        record.write_text(text.getvalue(), encoding="utf-8")


def copyright_text(site: Path, name: str) -> str:
    """The project's licence, and the name of the licence of each distribution that the package holds."""
    held = sorted(map(Distribution.at, site.glob("*.dist-info")), key=lambda one: one.name.lower())
    others = [one for one in held if one.name != "obt-agent"]
    width = max(len(f"{one.name} {one.version}") for one in others)
    return "\n".join(
        [
            name,
            "",
            (ROOT / "LICENSE").read_text(encoding="utf-8").rstrip(),
            "",
            "The package holds these distributions, too, each under its own licence, whose text lies in its",
            f"folder NAME-VERSION.dist-info below /usr/lib/{name}:",
            "",
            *(f"  {f'{one.name} {one.version}':{width}}  {sbom.licence(one)}" for one in others),
            "",
            "Texts of licences that many programs share are in /usr/share/common-licenses.",
            "",
        ]
    )


def changelog(name: str, version: str, maintainer: str, when: datetime) -> str:
    """The package's own changelog, in Debian's form: one entry, for this version."""
    release = version.partition("-")[0]
    return (
        f"{name} ({version}) unstable; urgency=medium\n\n"
        f"  * Release {release}. What changed: /usr/share/doc/{name}/changelog.gz\n\n"
        f" -- {maintainer}  {format_datetime(when)}\n"
    )


def main(arguments: list[str]) -> int:
    """Do it for one package."""
    site, documents = map(Path, arguments[:2])
    name, version, maintainer = arguments[2:]
    clean(site)
    documents.mkdir(parents=True, exist_ok=True)
    when = sbom.build_time()
    for file, text in (
        ("copyright", copyright_text(site, name)),
        ("changelog.Debian", changelog(name, version, maintainer, when)),
        (f"{name}.cdx.json", sbom.as_text(sbom.bill(sbom.in_folder(site), when))),
    ):
        (documents / file).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
