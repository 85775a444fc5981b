import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from obt_agent import __version__, version
from obt_agent.cli import main as agent_main
from obt_server.cli import main as server_main
from tests.project.paths import ROOT


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    version.commit.cache_clear()


def repository(folder: Path) -> Path:
    for words in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True)
    return folder


def test_a_checkout_is_asked_for_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = repository(tmp_path) / "obt_agent"
    monkeypatch.setattr(version, "__file__", str(package / "version.py"))
    monkeypatch.setattr(version, "_BAKED", package / "_commit.txt")
    found = version.commit()
    assert found is not None
    assert re.fullmatch(r"[0-9a-f]{12}", found)
    assert version.full_version() == f"{__version__} (commit {found})"


def test_a_baked_commit_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_commit.txt").write_text("1a2b3c4d5e6f\n")
    monkeypatch.setattr(version, "_BAKED", tmp_path / "_commit.txt")
    assert version.full_version() == f"{__version__} (commit 1a2b3c4d5e6f)"


@pytest.mark.parametrize(("name", "main"), [("obt-agent", agent_main), ("obt-server", server_main)])
def test_each_program_says_the_commit(
    name: str,
    main: Callable[[list[str]], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "_commit.txt").write_text("1a2b3c4d5e6f\n")
    monkeypatch.setattr(version, "_BAKED", tmp_path / "_commit.txt")
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{name} {__version__} (commit 1a2b3c4d5e6f)\n"


@pytest.mark.parametrize("fault", ["no repository", "a broken repository", "no git"])
def test_without_either_the_version_stands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault != "no repository":
        (tmp_path / ".git").mkdir()
    if fault == "no git":
        monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    monkeypatch.setattr(version, "__file__", str(tmp_path / "obt_agent/version.py"))
    monkeypatch.setattr(version, "_BAKED", tmp_path / "_commit.txt")
    assert version.commit() is None
    assert version.full_version() == __version__


@pytest.mark.slow
def test_a_built_source_distribution_carries_the_commit_and_leaves_nothing_temporary(tmp_path: Path) -> None:
    code = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", ROOT, checkout], check=True, capture_output=True)
    for changed in ("pyproject.toml", "hatch_build.py", "obt_agent/__init__.py"):
        (checkout / changed).write_bytes((ROOT / changed).read_bytes())
    environ = {**os.environ, "TMPDIR": str(temporary)}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=checkout,
        env=environ,
        check=True,
        capture_output=True,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        (name,) = [name for name in tar.getnames() if name.endswith("obt_agent/_commit.txt")]
        member = tar.extractfile(name)
        assert member is not None
        assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?\n", member.read().decode())
    assert list(temporary.iterdir()) == []
