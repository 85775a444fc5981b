"""The demonstration as a newcomer starts it: one process that starts the others, and leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from obt_agent.protocol.methods import COMMANDS
from obt_server.demo import smoke_test
from obt_server.demo.ollama_target import answering, ollama_target
from obt_server.demo.processes import ChildFailed, running
from obt_standin import StandIn
from obt_standin.script import Behaviour, Script
from tests.ports import free_port
from tests.waiting import until

pytestmark = pytest.mark.slow

WITHIN_S = 110


async def demo(*arguments: str, ollama: str, folder: Path) -> tuple[int, str]:
    """Run ``obt-server demo`` to its end, in a folder of its own; the exit status and what it printed."""
    process = await start(*arguments, ollama=ollama, folder=folder)
    async with asyncio.timeout(WITHIN_S):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def start(*arguments: str, ollama: str, folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "obt_server",
        "demo",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "OLLAMA_URL": ollama, "COLUMNS": "110"},
    )


async def until_it_runs(process: asyncio.subprocess.Process) -> str:
    """What it says until it runs and waits for Ctrl-C."""
    assert process.stdout is not None
    output = ""
    while "Ctrl-C ends it" not in output:
        line = await process.stdout.readline()
        assert line, output
        output += line.decode()
    return output


def ours(folder: Path, *, kill: bool = False) -> list[str]:
    """Processes that still run in that folder."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder):
                left.append(" ".join(process.cmdline()))
                if kill:
                    process.kill()
    return left


def test_every_command_of_the_protocol_has_a_step() -> None:
    assert set(smoke_test.steps()) == {method.name for method in COMMANDS}


async def test_once_runs_every_command_against_a_stand_in_that_says_so_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    status, out = await demo("--once", "--port", str(free_port()), ollama=nobody, folder=tmp_path)
    assert status == 0, out
    for method in smoke_test.STEPS:
        assert re.search(rf"^ok +{method} ", out, re.MULTILINE), f"{method} is missing:\n{out}"
    words = " ".join(out.split())
    assert f"No Ollama answers at {nobody} (set OLLAMA_URL if it is elsewhere); a stand-in" in words
    for title in ("Models (stand-in", "Benchmark, 3 iterations (stand-in", "Streamed generation (stand-in"):
        assert title in out
    assert "Hardware (this machine)" in out
    assert "TTFT ms" in out
    assert re.search(r"│ 3 +│ +\d+\.\d", out), "the third iteration has a speed"
    assert "Every command of the protocol was run once." in out
    assert ours(tmp_path) == []


async def test_a_command_that_fails_is_named_and_the_status_is_1(tmp_path: Path) -> None:
    talks_html = Script(once=[Behaviour(answer="html")])
    async with StandIn(talks_html) as ollama:
        status, out = await demo("--once", "--port", str(free_port()), ollama=ollama.url, folder=tmp_path)
    assert status == 1, out
    assert re.search(r"^FAIL +generate ", out, re.MULTILINE)
    assert re.search(r"^ok +list_models ", out, re.MULTILINE), "the others were run all the same"
    assert re.search(r"commands failed: .*generate", out)


async def test_an_ollama_without_a_model_is_told_how_to_get_one(tmp_path: Path) -> None:
    async with StandIn(Script(models=[])) as ollama:
        status, out = await demo("--once", "--port", str(free_port()), ollama=ollama.url, folder=tmp_path)
    assert status == 1
    assert "ollama pull llama3.2:1b" in out


async def test_who_only_looks_at_the_page_is_told_too_that_there_is_no_model(tmp_path: Path) -> None:
    async with StandIn(Script(models=[])) as ollama:
        process = await start("--port", str(free_port()), ollama=ollama.url, folder=tmp_path)
        async with asyncio.timeout(WITHIN_S):
            output = await until_it_runs(process)
            process.send_signal(signal.SIGTERM)
            await process.communicate()
    assert "ollama pull llama3.2:1b" in output


async def test_ctrl_c_ends_agent_server_and_stand_in_in_order(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        nobody = f"http://127.0.0.1:{free_port()}"
        process = await start("--port", str(port), ollama=nobody, folder=tmp_path)
        async with asyncio.timeout(WITHIN_S):
            output = await until_it_runs(process)
            process.send_signal(signal.SIGINT)
            rest, _ = await process.communicate()
    assert process.returncode == 0, rest
    assert f"Port {port} is taken" in output
    assert re.search(r"password +\S+", output)
    assert ours(tmp_path) == []


async def test_where_it_is_killed_agent_and_stand_in_end_too(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    process = await start("--port", str(free_port()), "--machines", "1", ollama=nobody, folder=tmp_path)
    async with asyncio.timeout(WITHIN_S):
        await until_it_runs(process)
    running = " ".join(ours(tmp_path))
    assert "obt_agent run" in running
    assert "obt_standin" in running
    process.kill()
    await process.communicate()
    try:
        await until(lambda: not ours(tmp_path), within_s=20)
    finally:
        ours(tmp_path, kill=True)


async def test_a_child_that_does_not_come_up_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"]
    async with running("The child", command, tmp_path / "log") as child:
        await child.process.wait()
        with pytest.raises(ChildFailed, match=r"status 3(.|\n)*what went wrong"):
            child.check()


async def test_a_child_that_ignores_the_request_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obt_server.demo.processes.END_WITHIN_S", 0.2)
    program = "from signal import *; signal(SIGTERM, SIG_IGN); print('deaf', flush=True); pause()"
    log = tmp_path / "log"
    async with asyncio.timeout(WITHIN_S), running("The child", [sys.executable, "-c", program], log) as child:
        while "deaf" not in log.read_text():  # noqa: ASYNC110 - the word comes from another process
            await asyncio.sleep(0.01)
    assert child.process.returncode == -signal.SIGKILL


async def test_only_what_speaks_like_ollama_counts_as_ollama(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()
        assert await answering(f"http://127.0.0.1:{address[1]}") is None
    async with StandIn() as ollama:
        monkeypatch.setenv("OLLAMA_URL", ollama.url.removeprefix("http://"))
        async with ollama_target(tmp_path) as found:
            assert (found.url, found.standin) == (ollama.url, True)


@pytest.mark.parametrize("form", ["{host}:{port}", ":{port}", "0.0.0.0:{port}", "http://{host}:{port}/"])
async def test_the_address_of_ollama_may_be_written_as_ollama_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    async with StandIn(Script()) as standin:
        host, number = standin.url.removeprefix("http://").split(":")
        monkeypatch.setenv("OLLAMA_URL", form.format(host=host, port=number))
        async with ollama_target(tmp_path) as target:
            assert target.url == standin.url
            assert not (tmp_path / "standin.log").exists(), "a second one was started"


async def test_a_wrong_address_of_ollama_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_URL", "http://me:hunter2@box")
    with pytest.raises(ChildFailed, match="holds a user name or password") as caught:
        async with ollama_target(tmp_path):
            pass
    assert "hunter2" not in str(caught.value)
