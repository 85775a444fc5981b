"""What no file of the project may say."""

import re
from pathlib import Path

import pytest

from tests.project.paths import ROOT, run

pytestmark = pytest.mark.lint

# Each is written in two parts, so that this file passes its own test.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(wor"
    r"k|tmp/ob"
    r"t|root/\.pye"
    r"nv|opt/(py"
    r"pi|whe"
    r"els))\b",
    "a package registry's host": r"py" r"pi\.org|python" r"hosted\.org|npm" r"js\.(org|com)|crate" r"s\.io",
    "work left undone": r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b",
}


def tracked() -> list[Path]:
    listed = run("git", "ls-files", "-z", cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def findings(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_names(what: str) -> None:
    files = tracked()
    assert ROOT / "pyproject.toml" in files
    assert findings(re.compile(FORBIDDEN[what]), files) == []
