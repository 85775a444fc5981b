"""The runner of CI's steps: side by side, stopped by the first failure, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.ci import AT_ONCE, PHASES
from tests.project.paths import ROOT, run
from tests.waiting import until

CI = ROOT / ".ci/run"
BUSY = "import time\nwhile time.process_time() < 1.6: pass\nopen('done', 'w').close()\n"


def step(folder: Path, name: str, text: str) -> str:
    """The command of a step that runs this in a shell, in that folder."""
    path = folder / name
    path.write_text(f"cd {folder}\n{text}")
    return f"sh {path}"


def alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def test_steps_run_side_by_side_and_the_output_of_each_comes_whole(tmp_path: Path) -> None:
    # Each waits for the other: one after the other they would never end.
    first = step(tmp_path, "first", "echo one; : >one; until test -e two; do sleep 0.05; done; echo done")
    second = step(tmp_path, "second", "echo two >&2; : >two; until test -e one; do sleep 0.05; done")
    done = run(CI, first, second, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "what it printed\none\ndone\n\n==" in done.stdout
    assert "what it printed\ntwo\n\n==" in done.stdout
    assert done.stdout.count(": passed, ") == 2
    assert "== all passed, " in done.stdout


def test_a_step_is_charged_for_what_it_left_to_itself(tmp_path: Path) -> None:
    """As for a machine of test-systemd, whose starter has ended long before."""
    (tmp_path / "busy.py").write_text(BUSY)
    left = f"sh -c 'setsid {sys.executable} busy.py &'\nuntil test -e done; do sleep 0.05; done\n"
    done = run(CI, step(tmp_path, "leaves", left), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    ((seconds, used),) = re.findall(r"^   sh .*/leaves +(\d+) +(\d+)$", done.stdout, flags=re.MULTILINE)
    assert int(seconds) >= 1
    assert int(used) >= 1


def test_what_a_step_leaves_running_ends_with_it(tmp_path: Path) -> None:
    left = "sh -c 'trap : TERM; setsid sleep 600 & echo $! >pid'\n"
    done = run(CI, step(tmp_path, "leaves", left), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert not alive(tmp_path / "pid")


def test_the_first_failure_ends_all_and_its_output_comes_last(tmp_path: Path) -> None:
    pids = [f"pid-{number}" for number in range(AT_ONCE - 1)]
    others = [step(tmp_path, f"of-{pid}", f"echo of another; echo $$ >{pid}; sleep 600") for pid in pids]
    begun = " && ".join(f"test -s {pid}" for pid in pids)
    failing = step(tmp_path, "failing", f"until {begun}; do sleep 0.05; done; echo why; exit 3")
    never = step(tmp_path, "never", ": >began")
    done = run(CI, *others, failing, never, cwd=tmp_path)
    assert done.returncode == 3, done.stdout
    assert not any(alive(tmp_path / pid) for pid in pids)
    assert not (tmp_path / "began").exists()
    shown = re.findall(r"of another|ENDED early|why|FAILED with status 3|FAILED after", done.stdout)
    ended = ["of another", "ENDED early"] * len(others)
    assert shown == [*ended, "why", "FAILED with status 3", "FAILED after"]


def test_a_step_that_cannot_begin_or_is_killed_has_failed(tmp_path: Path) -> None:
    done = run(CI, "no-such-program-of-ours", cwd=tmp_path)
    assert (done.returncode, "No such file or directory" in done.stdout) == (1, True)
    done = run(CI, step(tmp_path, "killed", "kill -9 $$"), cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGKILL, done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_its_steps_end_with_it_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    long = step(tmp_path, "long", "echo begun; sh -c 'setsid sleep 600 & echo $! >pid'; sleep 600")
    with subprocess.Popen([CI, long], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as runner:
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        runner.send_signal(number)
        output, _ = runner.communicate(timeout=60)
    await until(lambda: not alive(tmp_path / "pid"))
    if number == signal.SIGTERM:
        assert runner.returncode == 128 + number
        assert "begun" in output


def test_each_step_is_there_once_after_the_environment_that_all_need() -> None:
    steps = [step for phase in PHASES for step in phase]
    assert len(set(steps)) == len(steps)
    assert PHASES[0] == ("make venv",)
