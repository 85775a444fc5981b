"""The service's own environment, really made: from a wheel, and by copying what is installed."""

import errno
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from obt_agent.service import environment
from obt_agent.service.environment import Wheels
from obt_agent.service.interpreter import Interpreter
from obt_agent.service.system import ServiceError, System

BASE = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
PYTHON = Interpreter(
    BASE, (sys.version_info[0], sys.version_info[1]), "{}.{}.{}".format(*sys.version_info[:3])
)


def wheel(folder: Path, version: str = "1.0", body: str = "print('works')") -> Path:
    """A wheel of that name with nothing but a command line."""
    folder.mkdir(exist_ok=True)
    info = f"obt_agent-{version}.dist-info"
    files = {
        "obt_agent/__init__.py": "",
        "obt_agent/cli.py": f"def main():\n    {body}\n    return 0\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: obt-agent\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"obt_agent-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        archive.writestr(f"{info}/RECORD", record)
    return path


def output_of(prefix: Path) -> str:
    done = subprocess.run(
        [prefix / "bin" / "obt-agent"], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.slow
def test_an_environment_from_a_wheel_works_and_is_replaced_as_a_whole(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    first = Wheels(wheel=wheel(tmp_path / "w"))
    assert environment.make(prefix, PYTHON, first, System())
    assert output_of(prefix) == "works\n"
    kept = prefix.stat().st_ino
    assert not environment.make(prefix, PYTHON, first, System())
    assert prefix.stat().st_ino == kept, "the same again leaves what is there"
    (prefix / "left-over").write_text("")
    later = wheel(tmp_path / "w", "2.0", "print('later')")
    environment.make(prefix, PYTHON, Wheels(wheel=later, folder=tmp_path / "w"), System())
    assert output_of(prefix) == "later\n"
    assert not (prefix / "left-over").exists()
    assert environment.restore(prefix)
    assert output_of(prefix) == "works\n"
    assert not environment.restore(prefix), "there is nothing before the first"
    environment.make(prefix, PYTHON, Wheels(wheel=later, folder=tmp_path / "w"), System())
    environment.discard_previous(prefix)
    assert output_of(prefix) == "later\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["opt", "w"]
    assert environment.remove(prefix)
    assert not prefix.exists()
    assert not environment.remove(prefix)


@pytest.mark.slow
def test_a_wheel_that_does_not_work_leaves_the_old_environment(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    environment.make(prefix, PYTHON, Wheels(folder=wheel(tmp_path / "w").parent), System())
    broken = wheel(tmp_path / "w2", "2.0", "this is no Python")
    with pytest.raises(ServiceError, match="failed with status"):
        environment.make(prefix, PYTHON, Wheels(wheel=broken), System())
    assert output_of(prefix) == "works\n"
    assert not (tmp_path / "opt.new").exists()


@pytest.mark.slow
def test_what_a_killed_installation_left_is_replaced_and_removed(tmp_path: Path) -> None:
    """Killed before its folder had its mark, in the middle, and between the two renames."""
    prefix, fresh, before = (tmp_path / name for name in ("opt", "opt.new", "opt.old"))
    fresh.mkdir()
    environment.make(prefix, PYTHON, Wheels(wheel=wheel(tmp_path / "w")), System())
    prefix.rename(before)
    (fresh / "lib").mkdir(parents=True)
    (fresh / environment.MARK).touch()
    environment.make(prefix, PYTHON, Wheels(wheel=wheel(tmp_path / "w")), System())
    assert output_of(prefix) == "works\n"
    assert not fresh.exists()
    assert environment.remove(prefix)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w"]


@pytest.mark.slow
def test_a_full_disk_is_reported_and_leaves_the_old_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, given = tmp_path / "opt", Wheels(wheel=wheel(tmp_path / "w"))
    environment.make(prefix, PYTHON, given, System())

    def full(fresh: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(fresh / "bin"))

    monkeypatch.setattr(environment, "_launcher", full)
    with pytest.raises(ServiceError, match=r"opt cannot be made: No space left on device \(.*untouched"):
        environment.make(prefix, PYTHON, given, System())
    assert output_of(prefix) == "works\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["opt", "w"]


@pytest.mark.slow
def test_a_folder_that_cannot_be_removed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = tmp_path / "opt"
    environment.make(prefix, PYTHON, Wheels(wheel=wheel(tmp_path / "w")), System())

    def busy(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    monkeypatch.setattr("obt_agent.service.environment.shutil.rmtree", busy)
    with pytest.raises(ServiceError, match="cannot be removed: Directory not empty"):
        environment.remove(prefix)


@pytest.mark.slow
def test_a_folder_of_somebody_elses_is_not_touched(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    prefix.mkdir()
    (prefix / "precious").write_text("kept")
    with pytest.raises(ServiceError, match="was not made by obt-agent"):
        environment.make(prefix, PYTHON, Wheels(wheel=wheel(tmp_path / "w")), System())
    with pytest.raises(ServiceError, match="was not made by obt-agent"):
        environment.remove(prefix)
    assert (prefix / "precious").read_text() == "kept"


@pytest.mark.slow
def test_the_launcher_ignores_the_callers_environment(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    environment.make(prefix, PYTHON, Wheels(wheel=wheel(tmp_path / "w")), System())
    (tmp_path / "evil" / "obt_agent").mkdir(parents=True)
    (tmp_path / "evil" / "obt_agent" / "__init__.py").write_text("raise SystemExit('imported from outside')")
    done = subprocess.run(
        [prefix / "bin" / "obt-agent"],
        env={"PYTHONPATH": str(tmp_path / "evil")},
        cwd=tmp_path / "evil",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "works\n")


def test_a_checkout_is_not_copied(tmp_path: Path) -> None:
    if not environment.editable(metadata.distribution("obt-agent")):
        pytest.fail("these tests run from a checkout: make installs it as one")
    with pytest.raises(ServiceError, match="runs from a checkout"):
        environment.make(tmp_path / "opt", PYTHON, None, System())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_distribution_needs_is_found_and_a_copy_of_it_works(tmp_path: Path) -> None:
    found = environment.required_distributions("aiohttp")
    names = {distribution.name.lower() for distribution in found}
    assert {"aiohttp", "yarl", "multidict"} <= names
    assert "pytest" not in names
    for distribution in found:
        environment.copy(distribution, tmp_path)
    done = subprocess.run(
        [
            BASE,
            "-I",
            "-c",
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import aiohttp; print('works')",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "works\n"), done.stderr


def test_extras_are_followed_where_they_are_asked_for() -> None:
    socks = {
        name for name, _ in environment.needs(metadata.distribution("python-socks"), frozenset({"asyncio"}))
    }
    none = {name for name, _ in environment.needs(metadata.distribution("python-socks"), frozenset())}
    assert none <= socks
    ours = dict(environment.needs(metadata.distribution("obt-agent"), frozenset()))
    assert ours["python-socks"] == frozenset({"asyncio"})
    assert "fastapi" not in ours


def test_a_file_that_is_gone_is_reported(tmp_path: Path) -> None:
    info = tmp_path / "gone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1.0\n")
    distribution = metadata.Distribution.at(info)
    with pytest.raises(ServiceError, match="lists no files"):
        environment.copy(distribution, tmp_path / "site")
    (info / "RECORD").write_text("../outside.py,,\ngone.py,,\n")
    with pytest.raises(ServiceError, match=r"gone\.py is missing"):
        environment.copy(metadata.Distribution.at(info), tmp_path / "site")
    assert not (tmp_path / "outside.py").exists()
