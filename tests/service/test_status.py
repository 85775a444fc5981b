"""The status that the daemon leaves for ``obt-agent status``."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from obt_agent.cli.status import lines
from obt_agent.daemon.status_file import (
    STATUS_FILE,
    Clocks,
    LinkReport,
    Status,
    StatusFile,
    read_status,
    status_line,
)
from obt_agent.identity.folder import FolderError
from obt_agent.identity.state_dir import StateDir
from obt_agent.ollama.payloads import OllamaState
from obt_agent.protocol.admission import JobCounts, OutboxCounts
from obt_agent.protocol.jobs import JobProgress, JobState, JobSummary


def a_status(**changes: object) -> Status:
    status = Status(
        pid=os.getpid(),
        version="0.1.0",
        started_at=1.0,
        written_at=2.0,
        agent_id="0190a1b2-0000-7000-8000-000000000000",
        name="box",
        link=LinkReport(state="admitted", server="obt.example.org", session=7),
        ollama=OllamaState(reachable=True, version="0.12.6"),
        models=3,
    )
    return msgspec.structs.replace(status, **changes)


def running(progress: JobProgress | None) -> JobSummary:
    return JobSummary(job_id="j1", kind="benchmark", state="running", model="llama3", progress=progress)


def test_a_running_agent_is_found_with_what_it_wrote(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        StatusFile(state.folder).write(a_status())
        found = read_status(state.path)
        assert stat.S_IMODE((state.path / STATUS_FILE).stat().st_mode) == 0o600
    assert found.status == a_status()
    assert found.holder is not None
    assert found.holder.pid == os.getpid()


def test_a_status_that_its_writer_left_behind_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with StateDir.open(path) as state:
        StatusFile(state.folder).write(a_status())
    assert read_status(path).status is None
    assert read_status(path).holder is None


def test_a_status_of_an_earlier_process_is_not_taken_for_the_present_ones(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        StatusFile(state.folder).write(a_status(pid=1))
        found = read_status(state.path)
    assert found.status is None
    assert found.holder is not None


@pytest.mark.slow
def test_a_killed_writer_leaves_no_running_agent(tmp_path: Path) -> None:
    path = tmp_path / "state"
    script = f"""
import os
from pathlib import Path
from obt_agent.identity.state_dir import StateDir
from obt_agent.daemon.status_file import StatusFile
from tests.service.test_status import a_status
state = StateDir.open(Path({str(path)!r}))
StatusFile(state.folder).write(a_status())
os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert killed.returncode == -9
    assert (path / STATUS_FILE).exists()
    assert read_status(path).holder is None


def test_a_status_that_cannot_be_read_is_none_at_all(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        assert read_status(state.path).status is None
        state.folder.write(STATUS_FILE, b'{"pid": "another version"}')
        assert read_status(state.path).status is None


def test_the_file_is_gone_after_an_orderly_end(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as state:
        file = StatusFile(state.folder)
        file.write(a_status())
        file.remove()
        assert not (state.path / STATUS_FILE).exists()


def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    assert read_status(tmp_path / "none").holder is None
    assert not (tmp_path / "none").exists()


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    with StateDir.open(tmp_path / "state") as state:
        (state.path / ".status.json.new").symlink_to(victim)
        with pytest.raises(FolderError, match="cannot be written"):
            StatusFile(state.folder).write(a_status())
    assert victim.read_text() == "kept"


@pytest.mark.parametrize(
    ("state", "progress", "words"),
    [
        ("running", None, "running"),
        ("running", JobProgress(phase="warmup"), "running, warmup"),
        (
            "queued",
            JobProgress(phase="queued", position=1, waiting_for="pull of m (job 1)"),
            "queued, waiting for pull of m (job 1)",
        ),
        (
            "running",
            JobProgress(phase="waiting", waiting_for="process 7"),
            "running, waiting for process 7",
        ),
    ],
)
def test_each_job_says_for_what_it_waits(state: JobState, progress: JobProgress | None, words: str) -> None:
    job = JobSummary(job_id="j", kind="benchmark", state=state, model="m", progress=progress)
    shown = list(lines(a_status(jobs=(job,)), Clocks(0.0, 0.0, 0.0)))
    assert f"job      j: benchmark of m, {words}" in shown


def test_commands_in_flight_are_counted_with_what_they_hold() -> None:
    shown = list(lines(a_status(commands=3, streams=1, blob_bytes=5_000), Clocks(0.0, 0.0, 0.0)))
    assert "commands 3 in flight, 1 of them streams, 5000 bytes of attachments held" in shown
    assert not any("in flight" in line for line in lines(a_status(), Clocks(0.0, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (a_status(), "admitted by obt.example.org, 3 models"),
        (a_status(models=1), "admitted by obt.example.org, 1 model"),
        (
            a_status(
                jobs=(
                    running(
                        JobProgress(
                            phase="iteration", iteration=2, iterations_planned=5, tokens_per_second=41.3
                        )
                    ),
                ),
                job_counts=JobCounts(open=2),
            ),
            "admitted by obt.example.org, 3 models, benchmark 2/5 of llama3 at 41 tok/s, 1 queued",
        ),
        (
            a_status(jobs=(running(JobProgress(phase="waiting", waiting_for="process 7 of ann")),)),
            "admitted by obt.example.org, 3 models, benchmark of llama3 waiting for process 7 of ann",
        ),
        (a_status(jobs=(running(None),)), "admitted by obt.example.org, 3 models, benchmark of llama3"),
        (
            a_status(
                jobs=(
                    JobSummary(
                        job_id="p",
                        kind="pull",
                        state="running",
                        model="qwen3",
                        progress=JobProgress(phase="pulling", completed_bytes=25, total_bytes=100),
                    ),
                )
            ),
            "admitted by obt.example.org, 3 models, pull of qwen3 at 25%",
        ),
        (
            a_status(
                link=LinkReport(state="waiting", server="obt.example.org", problem="connection refused"),
                ollama=OllamaState(reachable=False),
                outbox=OutboxCounts(entries=1, bytes=10),
            ),
            "no link to obt.example.org (connection refused), Ollama does not answer, 1 result to deliver",
        ),
        (a_status(stopping=True), "stopping, 3 models"),
    ],
)
def test_one_line_says_what_matters(status: Status, line: str) -> None:
    assert status_line(status) == line
