"""Enrolment as a person does it, against a server on a real socket."""

import hashlib
import json
import os
import pty
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from obt_agent.cli import exit_codes, main, make_parser
from obt_agent.cli.enroll import _token
from obt_agent.identity.state_dir import StateDir
from tests.cli.program import Ended, in_process

TOKEN = "obtj_canary-0123456789"


@dataclass
class Server:
    """Answers enrolments; ``seen`` holds what came."""

    url: str = ""
    status: int = 200
    name: str = "obt.example.org"
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def enroll(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.seen.append((request.headers["Authorization"], body))
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        answer = {"agent_id": body["agent"]["id"], "server": {"name": self.name, "version": "1"}}
        return web.json_response(answer)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    scripted = Server()
    app = web.Application()
    app.router.add_post("/api/v1/agents/enroll", scripted.enroll)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield scripted
    await runner.cleanup()


async def enroll(home: Path, *words: str, given: str = "") -> Ended:
    return await in_process(home, "enroll", *words, "--state-dir", str(home / "state"), given=given)


def stored(home: Path) -> str:
    file = home / "state/credential.json"
    assert file.stat().st_mode & 0o777 == 0o600
    return str(json.loads(file.read_text())["secret"])


async def test_a_token_on_standard_input_gives_a_credential_that_only_its_hash_left(
    tmp_path: Path, server: Server
) -> None:
    ended = await enroll(tmp_path, server.url, "--name", "box", given=TOKEN + "\n")
    assert ended.code == 0, ended.err
    ((authorization, body),) = server.seen
    assert authorization == f"Bearer {TOKEN}"
    secret = stored(tmp_path)
    assert body["secret_sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert body["agent"]["name"] == "box"
    with StateDir.open(tmp_path / "state") as state:
        assert body["agent"]["id"] == state.agent_id
        assert f"Enrolled at obt.example.org as box ({state.agent_id})." in ended.out
    words = f"--name box --state-dir {tmp_path}/state --server-url {server.url}"
    assert f"Next: obt-agent run {words}\n" in ended.out
    assert TOKEN not in ended.out + ended.err
    assert secret not in ended.out + ended.err


@pytest.mark.parametrize("named", ["-", "token"])
async def test_a_token_comes_from_the_file_that_is_named(tmp_path: Path, server: Server, named: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    ended = await enroll(tmp_path, server.url, "--token-file", named, given=TOKEN if named == "-" else "")
    assert ended.code == 0, ended.err
    assert stored(tmp_path)


async def test_the_server_is_written_into_the_configuration_when_asked(
    tmp_path: Path, server: Server
) -> None:
    ended = await enroll(
        tmp_path, server.url, "--write-config", "--config", str(configured(tmp_path)), given=TOKEN
    )
    assert ended.code == 0, ended.err
    assert (
        tmp_path / "agent.yaml"
    ).read_text() == f"# mine\nagent: {{name: box}}\nserver:\n  url: {server.url}\n"
    assert f"Next: obt-agent run --config {tmp_path}/agent.yaml --state-dir {tmp_path}/state\n" in ended.out


async def test_a_named_file_that_is_not_there_is_made_with_the_name(tmp_path: Path, server: Server) -> None:
    words = ["--write-config", "--config", str(tmp_path / "new.yaml"), "--name", "Grandma's PC"]
    ended = await enroll(tmp_path, server.url, *words, given=TOKEN)
    assert ended.code == 0, ended.err
    assert f"server.url and agent.name are written to {tmp_path}/new.yaml." in ended.out
    shown = await in_process(tmp_path, "config", "show", "--config", "new.yaml", "--changed")
    assert "agent.name: Grandma's PC" in shown.out


async def test_a_configuration_that_cannot_be_changed_does_not_undo_the_enrolment(
    tmp_path: Path, server: Server
) -> None:
    path = configured(tmp_path, "server: {proxy: none}\n")
    ended = await enroll(tmp_path, server.url, "--write-config", "--config", str(path), given=TOKEN)
    assert ended.code == 0
    assert stored(tmp_path)
    assert "its layout is unusual. Write this into it:\nserver:\n  url: http://127" in ended.err
    assert (
        f"Next: write server.url: {server.url} into {path}, then obt-agent run --config {path} " in ended.out
    )


def configured(folder: Path, text: str = "# mine\nagent: {name: box}\n") -> Path:
    path = folder / "agent.yaml"
    path.write_text(text)
    return path


async def test_the_configured_server_needs_no_url(tmp_path: Path, server: Server) -> None:
    path = configured(tmp_path, f"server:\n  url: {server.url}\n")
    ended = await enroll(tmp_path, "--config", str(path), given=TOKEN)
    assert ended.code == 0, ended.err
    assert f"Next: obt-agent run --config {path} --state-dir {tmp_path}/state\n" in ended.out


async def test_the_next_command_has_the_options_that_this_one_had(tmp_path: Path, server: Server) -> None:
    odd = ["--ollama-url", "http://127.0.0.1:11500", "--set", "policy.max_streams=2"]
    ended = await enroll(tmp_path, server.url, "--name", "Grandma's PC", *odd, given=TOKEN)
    assert ended.code == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if line.startswith("Next: ")]
    words = shlex.split(line.removeprefix("Next: "))
    # What is printed is pasted into a shell: the command line takes it as it is.
    options = make_parser(words[1:])[0].parse_args(words[1:])
    assert getattr(options, "key:ollama.url") == "http://127.0.0.1:11500"
    assert getattr(options, "key:agent.state_dir") == str(tmp_path / "state")
    assert getattr(options, "key:agent.name") == "Grandma's PC"
    assert getattr(options, "key:server.url") == server.url
    assert options.settings == [("policy.max_streams", "2")]


@pytest.mark.parametrize(
    "words",
    [
        ("https://x.example", TOKEN),
        ("https://x.example", "--token", TOKEN),
        ("https://x.example", f"--token={TOKEN}"),
        (TOKEN,),
        ("Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6",),
    ],
)
def test_a_token_in_the_arguments_is_refused_and_not_repeated(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["enroll", *words])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (exit_codes.USAGE, "")
    assert "a token does not belong there. If this was one, revoke it at the server" in " ".join(err.split())
    assert "canary" not in err


@pytest.mark.parametrize("given", ["", "two words"])
async def test_no_token_is_said_before_anything_is_made(tmp_path: Path, server: Server, given: str) -> None:
    ended = await enroll(tmp_path, server.url, given=given)
    assert ended.code == exit_codes.CONFIG
    assert "standard input" in ended.err
    assert server.seen == []


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, exit_codes.NO_PERMISSION), (503, exit_codes.UNAVAILABLE)],
)
async def test_a_refusal_is_told_and_a_second_try_sends_the_same_hash(
    tmp_path: Path, server: Server, status: int, code: int
) -> None:
    server.status = status
    refused = await enroll(tmp_path, server.url, given=TOKEN)
    assert refused.code == code
    assert "obt-agent: The server" in refused.err
    assert not (tmp_path / "state/credential.json").exists()
    server.status = 200
    assert (await enroll(tmp_path, server.url, given=TOKEN)).code == 0
    assert server.seen[0][1] == server.seen[1][1]


async def test_a_running_agent_is_named(tmp_path: Path, server: Server) -> None:
    with StateDir.open(tmp_path / "state"):
        ended = await enroll(tmp_path, server.url, given=TOKEN)
    assert ended.code == exit_codes.TEMPORARY
    assert f"in use by process {os.getpid()}" in ended.err


async def test_plain_http_to_another_machine_is_refused(tmp_path: Path) -> None:
    ended = await enroll(tmp_path, "http://obt.example.org", given=TOKEN)
    assert ended.code == exit_codes.CONFIG
    assert "is not encrypted" in ended.err


def test_at_a_terminal_the_token_is_asked_for_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    os.write(master, f"{TOKEN}\n".encode())
    with os.fdopen(slave, "r+b", buffering=0) as raw, open(slave, closefd=False) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("getpass.getpass", lambda prompt: raw.readline().decode().strip())
        assert _token(None).reveal() == TOKEN
    os.close(master)


async def test_a_servers_name_cannot_steer_the_terminal(tmp_path: Path, server: Server) -> None:
    server.name = "\x1b[2Jbad\u202e"
    ended = await enroll(tmp_path, server.url, given=TOKEN + "\n")
    assert ended.code == exit_codes.OK
    assert "Enrolled at \\x1b[2Jbad\\u202e as" in ended.out
