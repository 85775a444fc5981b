"""The daemon as a process: what it says, and that its secret is in none of it."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from obt_agent.cli import exit_codes, make_parser, unattended
from obt_agent.errors import ConfigError
from obt_agent.identity.state_dir import StateDir
from obt_standin import StandIn
from tests.cli.program import obt_agent

CANARY = "obta_canary-0123456789abcdef"


@pytest.fixture
async def refusing() -> AsyncIterator[tuple[str, asyncio.Queue[str]]]:
    """A server that knows no credential: its address, and what came as ``Authorization``."""
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def connect(request: web.Request) -> web.Response:
        seen.put_nowait(request.headers["Authorization"])
        return web.json_response({"error": {"message": "unknown"}}, status=401)

    app = web.Application()
    app.router.add_get("/api/v1/agents/connect", connect)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    await runner.cleanup()


@asynccontextmanager
async def running(home: Path, server: str, ollama: str) -> AsyncIterator[asyncio.subprocess.Process]:
    token = home / "token"
    token.write_text(CANARY)
    token.chmod(0o600)
    config = home / "agent.yaml"
    config.write_text(f"server: {{url: '{server}', token_file: token}}\nagent: {{state_dir: state}}\n")
    async with started(home, server, ollama, "--config", str(config)) as process:
        yield process


@asynccontextmanager
async def started(
    home: Path, server: str, ollama: str, *words: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    ours = {
        name: text for name, text in os.environ.items() if not name.startswith(("OBT_", "OLLAMA_", "XDG_"))
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "obt_agent", "run", *words),
        *("--server-url", server, "--log-level", "debug", "--log-format", "json"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**ours, "HOME": str(home), "OLLAMA_URL": ollama},
        cwd=home,
    )
    try:
        async with asyncio.timeout(90):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(process: asyncio.subprocess.Process, event: str) -> list[str]:
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or json.loads(lines[-1])["event"] != event:
        line = await process.stderr.readline()
        assert line, f"ended before {event}: {lines}"
        lines.append(line.decode())
    return lines


@pytest.mark.slow
async def test_the_token_is_shown_to_the_server_and_to_nobody_else(
    tmp_path: Path, refusing: tuple[str, asyncio.Queue[str]], standin: StandIn
) -> None:
    server, seen = refusing
    async with running(tmp_path, server, standin.url) as process:
        lines = await until(process, "agent.started")
        shown = await seen.get()
        proc = Path(f"/proc/{process.pid}")
        visible = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        process.send_signal(signal.SIGTERM)
        _, rest = await process.communicate()
    assert process.returncode == exit_codes.OK
    assert shown == f"Bearer {CANARY}"
    everything = "".join(lines) + rest.decode()
    last = json.loads(everything.splitlines()[-1])
    identity = json.loads((tmp_path / "state/identity.json").read_text())
    assert (last["event"], last["agent_id"]) == ("agent.stopped", identity["agent_id"])
    assert "canary" not in everything
    assert b"canary" not in visible


@pytest.mark.slow
async def test_a_second_one_names_the_first_and_leaves_it_alone(
    tmp_path: Path, refusing: tuple[str, asyncio.Queue[str]], standin: StandIn
) -> None:
    async with running(tmp_path, refusing[0], standin.url) as process:
        await until(process, "agent.started")
        second = await obt_agent(tmp_path, "run", "--config", str(tmp_path / "agent.yaml"))
        assert second.code == exit_codes.TEMPORARY
        assert f"is in use by process {process.pid} (" in second.err
        assert process.returncode is None


class Desk:
    """A server that enrols, and revokes the first credential that it gave."""

    def __init__(self) -> None:
        self.url = ""
        self.joined: list[str] = []
        self.admitted = asyncio.Event()

    async def enroll(self, request: web.Request) -> web.Response:
        self.joined.append(request.headers["Authorization"].removeprefix("Bearer "))
        if self.joined[-1] == USED:
            return web.json_response({"error": {"message": "used already"}}, status=401)
        return web.json_response({"agent_id": (await request.json())["agent"]["id"], "server": {}})

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=["obt.v1"])
        await socket.prepare(request)
        hello = await socket.receive_json()
        if self.joined == [USED, GOOD]:
            await socket.close(code=4401, message=b"revoked")
            return socket
        await socket.send_json({"jsonrpc": "2.0", "id": hello["id"], "result": {"protocol": 1, "session": 1}})
        self.admitted.set()
        async for _ in socket:
            pass
        return socket


USED, GOOD, FRESH = "obtj_used-before", "obtj_good-once", "obtj_from-the-operator"


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    one, app = Desk(), web.Application()
    app.router.add_post("/api/v1/agents/enroll", one.enroll)
    app.router.add_get("/api/v1/agents/connect", one.connect)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


async def until_waiting(process: asyncio.subprocess.Process, words: str) -> None:
    while True:
        if words in json.loads((await until(process, "run.waiting"))[-1])["reason"]:
            return


@pytest.mark.slow
async def test_in_a_container_it_waits_for_what_is_missing_and_enrols_itself(
    tmp_path: Path, desk: Desk, standin: StandIn
) -> None:
    """Through everything that would end a service with status 78, and would have a restart policy loop."""
    join = tmp_path / "join"

    def put(token: str) -> None:
        join.write_text(token)
        join.chmod(0o600)

    words = ["--join-token-file", str(join), "--state-dir", str(tmp_path / "state")]
    async with started(tmp_path, desk.url, standin.url, *words) as process:
        await until_waiting(process, f"{join} cannot be read: No such file")
        put(USED)
        await until_waiting(process, "as wrong, used, expired or revoked")
        # A server takes a second try for a guess, and slows down everybody behind this address.
        await until_waiting(process, f"token in {join} was used, or the server refused it: put a new one")
        put(GOOD)
        await until_waiting(process, "Enrol this agent anew")
        put(FRESH)
        await until(process, "link.admitted")
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == exit_codes.OK
    assert desk.joined == [USED, GOOD, FRESH]
    join.unlink()
    desk.admitted.clear()
    # The next start has its credential, and needs no token.
    async with started(tmp_path, desk.url, standin.url, *words) as process:
        await desk.admitted.wait()
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert (process.returncode, len(desk.joined)) == (exit_codes.OK, 3)


@pytest.mark.slow
async def test_while_it_waits_status_says_for_what(tmp_path: Path, standin: StandIn) -> None:
    state = ["--state-dir", str(tmp_path / "state")]
    words = ["--join-token-file", str(tmp_path / "none"), *state]
    async with started(tmp_path, "http://127.0.0.1:9", standin.url, *words) as process:
        await until(process, "run.waiting")
        waits = await obt_agent(tmp_path, "status", *state)
        quiet = await obt_agent(tmp_path, "status", "--quiet", *state)
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert (waits.code, quiet.code) == (exit_codes.UNAVAILABLE, exit_codes.FAILED)
    assert waits.err.startswith(f"Process {process.pid} waits, and looks again in ")
    assert f"{tmp_path / 'none'} cannot be read: No such file" in waits.err
    ended = await obt_agent(tmp_path, "status", *state)
    assert ended.code == exit_codes.FAILED
    assert ended.err.startswith("No agent runs with the state folder")


@pytest.mark.slow
async def test_while_it_waits_a_signal_ends_it_in_order(tmp_path: Path, standin: StandIn) -> None:
    words = ["--join-token-file", str(tmp_path / "none"), "--state-dir", str(tmp_path / "state")]
    async with started(tmp_path, "http://127.0.0.1:9", standin.url, *words) as process:
        await until(process, "run.waiting")
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == exit_codes.OK


def test_signals_are_taken_again_when_the_daemon_has_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gives_up(_loaded: object) -> int:
        # As a loop that closes.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise ConfigError("refused")

    handlers: list[object] = []

    def waits(_seconds: float) -> None:
        handlers.extend(signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP))
        if len(handlers) == 4:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("obt_agent.daemon.run", gives_up)
    monkeypatch.setattr(unattended.UnattendedRun, "_ready", lambda _self: None)
    monkeypatch.setattr("time.sleep", waits)
    words = ["run", "--join-token-file", "none", "--state-dir", str(tmp_path)]
    args = make_parser(words)[0].parse_args(words)
    assert unattended.UnattendedRun(args).run() == exit_codes.OK
    assert len(set(handlers)) == 1
    assert signal.SIG_DFL not in handlers
    assert signal.getsignal(signal.SIGTERM) == before


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


@pytest.mark.slow
async def test_without_any_credential_it_says_what_to_do_and_ends_78(tmp_path: Path) -> None:
    """The service manager hears it too, and keeps the last line that it heard."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        words = ["--server-url", "http://127.0.0.1:9", "--state-dir", str(tmp_path / "state")]
        ended = await obt_agent(tmp_path, "run", *words, NOTIFY_SOCKET=str(tmp_path / "notify"))
        heard = [systemd.recv(4096).decode() for _ in iter(lambda: readable(systemd), False)]
    assert ended.code == exit_codes.CONFIG
    assert "obt-agent enroll, or set server.token_file" in ended.err
    assert heard[-1].startswith(
        "STATUS=This agent has no credential. Enrol it: sudo obt-agent service install"
    )
    with StateDir.open(tmp_path / "state") as state:
        assert state.agent_id


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("options", "remedy"),
    [("ro", "mount the file system writable"), ("size=4k,nr_inodes=2", "free some disk space")],
    ids=["read-only", "full"],
)
def test_a_first_start_on_a_disk_that_takes_nothing_is_to_be_tried_again(
    tmp_path: Path, options: str, remedy: str
) -> None:
    """In a mount namespace of its own. 78 would have systemd never start it again."""
    words = (
        f"{sys.executable} -m obt_agent run --server-url http://127.0.0.1:9 --state-dir {tmp_path}/disk/state"
    )
    script = f"mkdir disk && mount -t tmpfs -o {options} none disk && {words}"
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "unshare" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip(f"no mount namespaces here: {ended.stderr}")
    assert (ended.returncode, remedy in ended.stderr) == (exit_codes.TEMPORARY, True), ended.stderr
