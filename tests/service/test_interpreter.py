"""Which Python the service may run on."""

import json
import sys
from pathlib import Path

import pytest

from obt_agent.service import interpreter
from obt_agent.service.system import ServiceError

OURS = sys.version_info[:2]


def fake_python(folder: Path, version: tuple[int, int], kind: str = "cpython") -> Path:
    """A program that answers as a Python of that version does."""
    path = folder / f"python{version[0]}.{version[1]}-{kind}"
    answer = json.dumps([list(version), str(path), kind, f"{version[0]}.{version[1]}.2"])
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


def choose(path: Path, *, same_as_ours: bool = False) -> interpreter.Interpreter:
    path.parent.chmod(0o755)
    return interpreter.fit(path, OURS if same_as_ours else None, ())


def test_a_python_that_fits_is_taken(passable_path: Path) -> None:
    found = choose(fake_python(passable_path, (3, 13)))
    assert (found.version, found.short, found.full_version) == ((3, 13), "3.13", "3.13.2")


def test_an_old_python_is_refused_with_what_is_needed(passable_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"is cpython 3\.9\.2, and obt-agent needs CPython 3\.11 or later"):
        interpreter.choose(fake_python(passable_path, (3, 9)), same_as_ours=False)


def test_another_kind_of_python_is_refused(passable_path: Path) -> None:
    with pytest.raises(ServiceError, match="is pypy"):
        interpreter.choose(fake_python(passable_path, OURS, "pypy"), same_as_ours=True)


def test_compiled_modules_need_the_version_that_they_were_compiled_for(passable_path: Path) -> None:
    with pytest.raises(ServiceError, match="compiled for"):
        choose(fake_python(passable_path, (3, OURS[1] + 1)), same_as_ours=True)


def test_a_python_in_a_home_is_refused(passable_path: Path) -> None:
    with pytest.raises(ServiceError, match="sandbox hides"):
        interpreter.choose(
            fake_python(passable_path, OURS), same_as_ours=True, hidden_places=(str(passable_path),)
        )


def test_a_python_in_a_closed_folder_is_refused(passable_path: Path) -> None:
    closed = passable_path / "closed"
    closed.mkdir(mode=0o700)
    path = fake_python(closed, OURS)
    with pytest.raises(ServiceError, match="other users may not enter"):
        interpreter.fit(path, None, ())


def test_what_is_no_python_is_reported(passable_path: Path) -> None:
    with pytest.raises(ServiceError, match="is no Python"):
        interpreter.choose(passable_path / "nothing", same_as_ours=False)
    other = passable_path / "other"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)
    with pytest.raises(ServiceError, match="is no Python"):
        interpreter.choose(other, same_as_ours=False)


def test_when_no_python_will_do_every_reason_is_reported() -> None:
    with pytest.raises(ServiceError) as output:
        interpreter.choose(None, same_as_ours=True, hidden_places=("/",))
    assert "No Python here will do" in output.value.message
    assert "sandbox hides" in output.value.message
    assert "apt-get install python3" in output.value.message


def test_a_file_that_may_not_be_run_is_reported(passable_path: Path) -> None:
    path = passable_path / "plain"
    path.write_text("")
    path.chmod(0o644)
    assert interpreter.hidden(path, ()) == "may not be run"


def test_wheels_may_be_installed_for_any_version_that_is_there() -> None:
    ours = interpreter.candidates(OURS, same_as_ours=True)
    any_version = interpreter.candidates(OURS, same_as_ours=False)
    assert set(ours) <= set(any_version)
