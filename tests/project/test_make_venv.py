"""make's first step on every machine: the environment behind its stamp, and what a system has to have."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from scripts.lock import pins
from tests.project.paths import ROOT, run

# pip makes each environment anew, in a minute or two on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALL_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "small"
version = "1"
[tool.hatch.build.targets.wheel]
packages = ["small"]
"""
PYTHON = Path(sys.executable).resolve()
VENV_OF_UV = f'if [ "$1" = venv ]; then exec {PYTHON} -m venv --without-pip .venv; fi\n'
"""What a stand-in for uv does to make an environment: as the real one, without pip."""
LOCKED = {"dev": ("pip", "iniconfig"), "docs": ("paginate",), "server": ("annotated-doc",)}
"""What stands in for each lock, beside the build backend in the first: a small package of the real one."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of our own Makefile and scripts, but with nothing to install."""
    folder = tmp_path / "project"
    (folder / "small").mkdir(parents=True)
    (folder / "small/__init__.py").touch()
    (folder / "pyproject.toml").write_text(SMALL_PROJECT)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements").mkdir()
    build = (ROOT / "requirements/build.txt").read_text()
    (folder / "requirements/build.txt").write_text(build)
    for name, packages in LOCKED.items():
        there = dict(pins((ROOT / f"requirements/{name}.txt").read_text()))
        text = "".join(there[package] for package in packages) + (build if name == "dev" else "")
        (folder / f"requirements/{name}.txt").write_text(text)
    return folder


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that is searched for programs before all others."""
    folder = tmp_path / "programs"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def without_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether somebody's machine has one changes nothing here."""
    monkeypatch.setenv("UV", "")


def write_program(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def interpreter(path: Path, before: str) -> Path:
    """A python that runs `before` ahead of each `-c`, and is the real one otherwise."""
    real = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    script = path.with_name(path.name + "-before.py")
    script.write_text(f"import os, sys\n{before}\nexec(sys.argv[2])\n")
    return write_program(path, f'if [ "$1" = -c ]; then exec {real} {script} "$@"; fi\nexec {real} "$@"\n')


def touch(file: Path, than: Path) -> None:
    """Make a file newer than another."""
    newer = than.stat().st_mtime + 10
    os.utime(file, (newer, newer))


def test_a_venv_whose_making_failed_halfway_is_made_again(project: Path) -> None:
    lock = project / "requirements/dev.txt"
    whole = lock.read_text()
    lock.write_text(re.sub("sha256:.{6}", "sha256:000000", whole))
    failed = run("make", "venv", f"PYTHON={sys.executable}", cwd=project)
    assert failed.returncode != 0
    assert "DO NOT MATCH THE HASHES" in failed.stderr, "another file than the lock's is refused"
    assert (project / ".venv/bin/python").exists()
    (project / ".venv/left-behind").touch()

    lock.write_text(whole)
    made = run("make", "venv", f"PYTHON={sys.executable}", cwd=project)

    assert made.returncode == 0, made.stderr
    assert not (project / ".venv/left-behind").exists()
    installed = run(project / ".venv/bin/python", "-m", "pip", "show", "small", cwd=project)
    assert installed.returncode == 0, installed.stderr
    assert run("make", "--question", "venv", cwd=project).returncode == 0, "a whole venv is left alone"

    for made_from in ("pyproject.toml", "requirements/dev.txt"):
        touch(project / made_from, than=project / ".venv/.complete")
        assert run("make", "--question", "venv", cwd=project).returncode == 1, f"{made_from} is newer"
        touch(project / ".venv/.complete", than=project / made_from)

    moved = project.rename(project.with_name("moved"))
    assert run("make", "--question", "venv", cwd=moved).returncode == 1, "a venv cannot be moved"


def test_a_changed_lock_is_installed_over_what_is_there_by_the_uv_of_the_locks_where_it_is(
    project: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = project / "requirements/dev.txt"
    everything = lock.read_text()
    lock.write_text("".join(text for name, text in pins(everything) if name != "iniconfig"))
    assert run("scripts/make-venv", sys.executable, cwd=project).returncode == 0
    (project / ".venv/left-alone").touch()
    lock.write_text(everything)

    def update() -> str:
        touch(lock, than=project / ".venv/.complete")
        updated = run("scripts/make-venv", sys.executable, cwd=project)
        assert updated.returncode == 0, updated.stderr
        assert "bringing .venv up to date" in updated.stderr
        touch(project / ".venv/.complete", than=lock)
        return updated.stderr

    update()
    assert run(project / ".venv/bin/python", "-c", "import iniconfig", cwd=project).returncode == 0

    monkeypatch.delenv("UV")
    log = programs / "uv.log"
    uv = write_program(project / ".venv/bin/uv", f'echo "$@" >> {log}\n')
    assert "pip" not in update()
    assert "--require-hashes -r requirements/dev.txt" in log.read_text()

    uv.write_text(f"{uv.read_text()}[ $1 = --version ]\n")
    assert "uv did not install everything; trying with pip" in update()
    assert (project / ".venv/left-alone").exists(), "it is the same environment"


def test_a_python_that_is_too_old_is_named_with_what_is_needed(project: Path, programs: Path) -> None:
    old = interpreter(programs / "python-old", "sys.version_info = (3, 9, 18)")
    result = run("make", "venv", f"PYTHON={old}", cwd=project)
    assert result.returncode != 0
    assert "is Python 3.9, and obt-agent needs 3.11 or later" in result.stderr
    assert "make PYTHON=" in result.stderr
    assert not (project / ".venv").exists()


def test_a_python_that_is_not_there_is_named(project: Path) -> None:
    result = run("scripts/make-venv", "python-of-nobody", cwd=project)
    assert result.returncode == 1
    assert "there is no 'python-of-nobody' here" in result.stderr


def test_without_ensurepip_a_user_is_told_the_command_for_root(project: Path, programs: Path) -> None:
    bare = interpreter(programs / "python-bare", "sys.modules['ensurepip'] = None")
    write_program(programs / "id", "echo 1000\n")
    write_program(programs / "apt-get", f"touch {programs}/called\n")

    result = run("scripts/make-venv", bare, cwd=project, path=programs)

    assert result.returncode == 1
    assert "apt-get update && apt-get install -y python3-venv" in result.stderr
    assert not (programs / "called").exists(), "nothing is installed by somebody who is not root"
    assert not (project / ".venv").exists()


def test_without_ensurepip_root_gets_it_installed(project: Path, programs: Path) -> None:
    log = programs / "apt-get.log"
    missing = f"if not os.path.exists({str(log)!r}): sys.modules['ensurepip'] = None"
    bare = interpreter(programs / "python-bare", missing)
    write_program(programs / "id", "echo 0\n")
    write_program(programs / "apt-get", f'echo "$@" >> {log}\n')

    result = run("scripts/make-venv", bare, cwd=project, path=programs)

    assert result.returncode == 0, result.stderr
    assert "install -y -qq --no-install-recommends python3-venv" in log.read_text()
    assert (project / ".venv/.complete").exists()


def test_root_is_told_when_installing_did_not_help(project: Path, programs: Path) -> None:
    bare = interpreter(programs / "python-bare", "sys.modules['ensurepip'] = None")
    write_program(programs / "id", "echo 0\n")
    write_program(programs / "apt-get", "exit 0\n")
    result = run("scripts/make-venv", bare, cwd=project, path=programs)
    assert result.returncode == 1
    assert "has no ensurepip even with python3-venv installed" in result.stderr


def test_the_demonstrations_environment_has_no_tools_and_is_completed_for_everything_else(
    project: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = write_program(programs / "uv", f"{VENV_OF_UV}echo no index >&2; exit 2\n")
    monkeypatch.setenv("UV", str(uv))
    small = run("scripts/make-venv", sys.executable, "demo", cwd=project)
    assert small.returncode == 0, small.stderr
    assert "uv did not install everything; trying with pip" in small.stderr
    listed = run(project / ".venv/bin/python", "-m", "pip", "list", cwd=project)
    assert "annotated-doc" in listed.stdout
    assert "iniconfig" not in listed.stdout
    assert run("make", "--question", "venv", cwd=project).returncode == 1, "the tools are missing"
    (project / ".venv/left-alone").touch()

    monkeypatch.setenv("UV", "")
    whole = run("make", "venv", f"PYTHON={sys.executable}", cwd=project)

    assert whole.returncode == 0, whole.stderr
    assert (project / ".venv/left-alone").exists(), "it is the same environment"
    assert run(project / ".venv/bin/python", "-c", "import iniconfig", cwd=project).returncode == 0
    before = (project / ".venv/.complete").stat().st_mtime_ns
    again = run("scripts/make-venv", sys.executable, "demo", cwd=project)
    assert (again.returncode, again.stderr) == (0, ""), "what is whole is enough for the demonstration"
    assert (project / ".venv/.complete").stat().st_mtime_ns == before


def test_uv_makes_and_fills_it_where_there_is_one(
    project: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = programs / "uv.log"
    uv = write_program(programs / "uv", f'echo "$@" >> {log}\n{VENV_OF_UV}')
    monkeypatch.setenv("UV", str(uv))

    made = run("scripts/make-venv", PYTHON, cwd=project)

    assert made.returncode == 0, made.stderr
    assert (project / ".venv/.complete").exists()
    venv, locked, itself = log.read_text().splitlines()
    assert venv == f"venv --quiet --python {PYTHON} .venv", "by its path: a name may become another Python"
    assert locked.endswith(" --no-deps --require-hashes -r requirements/dev.txt")
    assert itself.endswith(" --no-deps --no-index --no-build-isolation -e .")


def test_what_the_site_needs_is_added_to_the_rest_and_changes_none_of_it(project: Path) -> None:
    assert run("make", "venv", f"PYTHON={sys.executable}", cwd=project).returncode == 0
    (itself,) = project.glob(".venv/lib/*/site-packages/small-1.dist-info/RECORD")
    installed = itself.stat().st_ctime_ns

    made = run("make", ".venv/.site", f"PYTHON={sys.executable}", cwd=project)
    assert made.returncode == 0, made.stderr
    listed = run(project / ".venv/bin/python", "-m", "pip", "list", cwd=project)
    assert "paginate" in listed.stdout
    assert "iniconfig" in listed.stdout
    assert itself.stat().st_ctime_ns == installed, "a test that runs meanwhile finds the project"
    assert run("make", "--question", "venv", ".venv/.site", cwd=project).returncode == 0

    touch(project / "requirements/docs.txt", than=project / ".venv/.site")
    assert run("make", "--question", "venv", cwd=project).returncode == 0, "the rest is left alone"
    again = run("make", ".venv/.site", f"PYTHON={sys.executable}", cwd=project)
    assert again.returncode == 0, again.stderr
    assert "bringing .venv up to date" in again.stderr


def compiler(programs: Path, works_with: Path) -> None:
    """Compilers that find their headers only when this file is there."""
    for name in ("cc", "gcc"):
        write_program(programs / name, f"test -e {works_with}\n")


def test_without_a_compiler_root_gets_one_before_the_tests_begin(project: Path, programs: Path) -> None:
    headers = programs / "headers"
    compiler(programs, headers)
    write_program(programs / "id", "echo 0\n")
    write_program(programs / "apt-get", f'echo "$@" >> {headers}\n')
    result = run("make", "compiler", cwd=project, path=programs)
    assert result.returncode == 0, result.stderr
    assert "install -y -qq --no-install-recommends gcc libc6-dev" in headers.read_text()


def test_without_a_compiler_a_user_is_told_the_command_and_no_test_begins(
    project: Path, programs: Path
) -> None:
    compiler(programs, programs / "headers")
    write_program(programs / "id", "echo 1000\n")
    write_program(programs / "apt-get", f"touch {programs}/called\n")
    result = run("make", "test", cwd=project, path=programs)
    assert result.returncode != 0
    assert "apt-get update && apt-get install -y gcc libc6-dev" in result.stderr
    assert not (programs / "called").exists()
    assert not (project / ".venv").exists(), "it stops before anything is installed"
