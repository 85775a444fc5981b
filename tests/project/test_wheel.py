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
    venv.create(folder, with_pip=True)
    install(folder / "bin", "agent", str(wheel))
    return folder / "bin"


def install(programs: Path, locked: str, what: str) -> None:
    pip = (programs / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
    # Without an index the second finds what the first brought, or fails: the lock is complete.
    for options in (["--require-hashes", "-r", ROOT / f"requirements/{locked}.txt"], ["--no-index", what]):
        result = run(*pip, *options, cwd=programs)
        assert result.returncode == 0, result.stderr


def test_the_sdist_holds_licence_and_changelog(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith((".venv", "dist/", ".git/"))]


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


def test_the_agent_alone_brings_no_server_framework(installed: Path, tmp_path: Path) -> None:
    listed = run(installed / "python", "-m", "pip", "list", "--format=freeze", cwd=tmp_path)
    names = {line.split("==")[0].lower() for line in listed.stdout.splitlines()}
    assert "websockets" in names
    assert not names & {"fastapi", "uvicorn", "sqlalchemy", "pytest"}


def test_the_demonstration_runs_from_the_wheel_in_any_folder(
    installed: Path, wheel: Path, tmp_path: Path
) -> None:
    install(installed, "server", f"{wheel}[server]")
    shown = run(installed / "obt-server", "demo", "--once", cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
