"""``obt-server status``: the health check of a container, which has the settings and no options."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from obt_server.cli import main
from tests.server.process import server_process


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Variables of the server's settings, none of them from this machine."""
    monkeypatch.setenv("OBT_SERVER_CONFIG", str(tmp_path / "server.yaml"))
    (tmp_path / "server.yaml").write_text("log: {level: warning}\n")
    return monkeypatch


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that is held, and at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("tls", [True, False])
async def test_a_server_that_listens_everywhere_is_asked_on_this_machine(
    tmp_path: Path,
    settings: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    silent_port: int,
    *,
    tls: bool,
) -> None:
    settings.setenv("OBT_SERVER_LISTEN_PORT", str(silent_port))
    settings.setenv("OBT_SERVER_LISTEN_HOST", "0.0.0.0" if tls else "127.0.0.1")  # noqa: S104 -- with TLS
    settings.setenv("OBT_SERVER_LISTEN_TLS_SELF_SIGNED", str(tls).lower())
    settings.setenv("OBT_SERVER_LISTEN_ALLOWED_HOSTS", "obt.example")
    scheme = "https" if tls else "http"
    assert await asyncio.to_thread(main, ["status"]) == 1
    assert f"not ready at {scheme}://127.0.0.1:{silent_port}: " in capsys.readouterr().out
    async with server_process(tmp_path / "db") as server:
        port = str(server.port)
        settings.setenv("OBT_SERVER_LISTEN_PORT", port)
        assert await asyncio.to_thread(main, ["status"]) == 0
        assert capsys.readouterr().out == f"ready at {scheme}://127.0.0.1:{port}\n"
        assert await asyncio.to_thread(main, ["status", "--quiet"]) == 0
    assert await asyncio.to_thread(main, ["status", "--quiet"]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_a_port_that_nobody_knows_and_wrong_settings_are_said_and_quietly_1(
    settings: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.setenv("OBT_SERVER_LISTEN_PORT", "0")
    assert main(["status"]) == 2
    assert "listen.port is 0" in capsys.readouterr().err
    assert main(["status", "--quiet"]) == 1
    settings.setenv("OBT_SERVER_LISTEN_PORT", "many")
    assert main(["status"]) == 78
    assert "OBT_SERVER_LISTEN_PORT" in capsys.readouterr().err
    assert main(["status", "--quiet"]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\nnot ready\n", "503 not ready"),
        (b"220 mail.example ESMTP\r\n", ""),
        (b"", ""),
    ],
)
async def test_a_server_that_is_not_ready_and_something_else_at_that_port(
    settings: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: bytes, shown: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        settings.setenv("OBT_SERVER_LISTEN_PORT", str(port))
        assert await asyncio.to_thread(main, ["status"]) == 1
    output = capsys.readouterr().out
    assert output.startswith(f"not ready at http://127.0.0.1:{port}: ")
    assert shown in output


def test_it_is_said_in_json(
    settings: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silent_port: int
) -> None:
    settings.setenv("OBT_SERVER_LISTEN_PORT", str(silent_port))
    assert main(["status", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["url"], said["ready"]) == (f"http://127.0.0.1:{silent_port}", False)
    assert "refused" in said["problem"]
