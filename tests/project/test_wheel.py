"""The distribution: what is in it, and that it works alone, away from the checkout."""

import sys
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.project.paths import ROOT, run

pytestmark = pytest.mark.slow

PACKAGES = ("obt_agent", "obt_server", "obt_standin", "obt_conformance")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a venv that holds the wheel with what it depends on, and no extra."""
    folder = tmp_path_factory.mktemp("alone") / "venv"
    venv.create(folder)
    install(folder / "bin", "agent", str(wheel))
    return folder / "bin"


def pip(programs: Path, *arguments: str | Path) -> str:
    """Run this environment's pip on another one; give what it prints."""
    python = ("--python", programs / "python")
    result = run(
        sys.executable,
        "-m",
        "pip",
        *python,
        "--disable-pip-version-check",
        *arguments,
        cwd=programs,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def install(programs: Path, locked: str, what: str) -> None:
    # Without an index the second finds what the first brought, or fails: the lock is complete.
    for options in (["--require-hashes", "-r", ROOT / f"requirements/{locked}.txt"], ["--no-index", what]):
        pip(programs, "install", "--quiet", "--no-compile", *options)


def test_the_sdist_holds_what_the_repository_holds(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if not member.isdir()}
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    present = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert {"LICENSE", "CHANGELOG.md", "README.md", "pyproject.toml"} <= present
    assert names == present - {".ci/run"} | {"PKG-INFO", "obt_agent/_commit.txt"}


def test_a_second_build_gives_the_same_bytes(distributions: Path, tmp_path: Path) -> None:
    """In another zone of time, by somebody whose files are private."""
    build = f"umask 077; TZ=Pacific/Auckland exec {sys.executable} -m build --no-isolation"
    built = run("sh", "-c", f"{build} --outdir {tmp_path} {ROOT}", cwd=tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    first, second = (
        {file.name: file.read_bytes() for file in folder.iterdir()} for folder in (distributions, tmp_path)
    )
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_the_wheel_holds_the_four_packages_with_their_types_and_the_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = f"obt_agent-{version('obt-agent')}.dist-info"
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert f"{metadata}/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {*PACKAGES, metadata}


def test_everything_in_the_checkout_that_the_packages_need_is_in_the_wheel(wheel: Path) -> None:
    listed = run("git", "ls-files", *PACKAGES, cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    present = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert present
    assert present <= set(zipfile.ZipFile(wheel).namelist())


def test_the_agent_alone_says_its_version(installed: Path, tmp_path: Path) -> None:
    version_run = run(installed / "obt-agent", "--version", cwd=tmp_path)
    assert version_run.returncode == 0, version_run.stderr
    assert version("obt-agent") in version_run.stdout


def test_the_agent_alone_brings_no_server_framework(installed: Path) -> None:
    names = {line.split("==")[0].lower() for line in pip(installed, "list", "--format=freeze").splitlines()}
    assert "websockets" in names
    assert not names & {"fastapi", "uvicorn", "sqlalchemy", "pytest"}


def test_the_demonstration_runs_from_the_wheel_in_any_folder(
    installed: Path, wheel: Path, tmp_path: Path
) -> None:
    install(installed, "server", f"{wheel}[server]")
    shown = run(installed / "obt-server", "demo", "--once", cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
