"""The command line: what it refuses, what it prints, what it stores."""

import asyncio
import contextlib
import errno
import io
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from obt_server.auth.operators import Operators
from obt_server.auth.secrets import sha256
from obt_server.auth.server_key import ServerKeys, server_keys
from obt_server.cli import main, options, parser, run
from obt_server.cli.operators import read_password
from obt_server.cli.run import _serve
from obt_server.cli.tokens import duration
from obt_server.storage import Enrolment
from obt_server.store import Database, OperatorStore, SqlStorage
from tests.cli.program import in_process
from tests.link.authority import key_of
from tests.server.agent_double import uuid7
from tests.server.enrolling import enrol
from tests.server.process import server_process

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on a database of the test's own; gives status, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, "--database", str(tmp_path / "obt.sqlite3")])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


def enrolled(tmp_path: Path, name: str = "pc") -> str:
    async def work() -> str:
        database = Database.sqlite(tmp_path / "obt.sqlite3")
        enrolment = Enrolment(agent_id=uuid7(), name=name, version="1", secret_sha256=uuid7())
        agent = await enrol(SqlStorage(database), enrolment, 1.0)
        database.close()
        return agent.id

    return asyncio.run(work())


def test_a_join_token_is_printed_alone_and_listed_without_its_secret(command: Command) -> None:
    status, secret, _ = command("tokens", "join", "--note", "lab", "--valid-for", "30m")
    assert status == 0
    assert re.fullmatch(r"obtj_\S{43}\n", secret)
    _, listed, _ = command("tokens", "list")
    assert "valid until" in listed
    assert "lab" in listed
    assert secret.strip() not in listed
    _, listed, _ = command("tokens", "list", "--json")
    assert [one["note"] for one in json.loads(listed)["join_tokens"]] == ["lab"]
    assert secret.strip() not in listed
    assert command("tokens", "cancel", "1")[0] == 0
    assert "revoked" in command("tokens", "list")[1]
    status, _, error = command("tokens", "cancel", "9")
    assert (status, "no join token 9" in error) == (1, True)


def test_every_state_of_a_join_token_is_said(command: Command, tmp_path: Path) -> None:
    async def work() -> None:
        database = Database.sqlite(tmp_path / "obt.sqlite3")
        storage = SqlStorage(database)
        await storage.create_join_token("a", note="", agent_id=None, at=1.0, expires_at=2.0)
        await storage.create_join_token("b", note="", agent_id=None, at=1.0, expires_at=9e9)
        await storage.enroll("b", Enrolment(agent_id=uuid7(), name="n", version="1", secret_sha256="s"), 3.0)
        database.close()

    asyncio.run(work())
    listed = command("tokens", "list")[1]
    assert "expired" in listed
    assert "used by" in listed


def test_credentials_are_listed_rotated_and_revoked_by_name_or_id(command: Command, tmp_path: Path) -> None:
    agent_id = enrolled(tmp_path)
    assert command("tokens", "rotate", "pc")[0] == 0
    assert "rotation asked for" in command("tokens", "list")[1]
    (credential,) = json.loads(command("tokens", "list", "--json")[1])["credentials"]
    assert (credential["agent_id"], credential["rotation_requested"]) == (agent_id, True)
    status, shown, _ = command("tokens", "revoke", agent_id)
    assert (status, f"tokens join --agent {agent_id}" in shown) == (0, True)
    assert "revoked" in command("tokens", "list")[1]
    status, _, error = command("tokens", "revoke", "pc")
    assert (status, "no valid credential" in error) == (2, True)
    assert command("tokens", "join", "--agent", "pc")[0] == 0


def test_an_agent_that_is_not_one_is_refused(command: Command, tmp_path: Path) -> None:
    assert "no agent has the id or name" in command("tokens", "rotate", "nobody")[2]
    first, second = enrolled(tmp_path), enrolled(tmp_path)
    assert command("tokens", "rotate", "pc")[0] == 0
    listed = [line.split() for line in command("tokens", "list")[1].splitlines()]
    names = {words[0]: " ".join(words[2:]) for words in listed if words[0] in (first, second)}
    assert names[first].startswith("pc"), names
    assert names[second] == f"pc ({second[-8:]})"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604800)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5s", "31d", "1w", "xh", "nanh", "1e9d", "٣d"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(Exception, match="30m, 1h or 7d"):
        duration(text)


@pytest.mark.parametrize("text", ["65536", "99999", "-1", "http", "", "1.5"])
def test_a_port_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "demo"):
        with pytest.raises(SystemExit) as caught:
            parser().parse_args([command, f"--port={text}"])
        assert caught.value.code == 2
        assert "from 0 to 65535" in capsys.readouterr().err


def test_operators_and_api_tokens(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("long enough 1\nlong enough 2\nshort\n"))
    assert command("operators", "password", "ann")[0] == 0
    assert command("operators", "password", "bob")[0] == 0
    status, _, error = command("operators", "password", "eve")
    assert (status, "10 to 1024" in error) == (2, True)
    status, secret, _ = command("operators", "token", "ann", "--name", "cron")
    assert secret.startswith("obtk_")
    assert command("operators", "token", "eve", "--name", "cron")[0] == 1
    _, listed, _ = command("operators", "list")
    assert listed == "OPERATORS\n  ann\n  bob\nAPI TOKENS\n     1  ann  cron  (never used)\n"
    answer = json.loads(command("operators", "list", "--json")[1])
    assert answer["operators"] == ["ann", "bob"]
    assert [(one["id"], one["name"], one["scope"]) for one in answer["api_tokens"]] == [
        (1, "cron", "operator")
    ]
    assert command("operators", "revoke-token", "1")[0] == 0
    assert command("operators", "remove", "bob")[0] == 0
    status, _, error = command("operators", "remove", "ann")
    assert (status, "the only operator" in error) == (2, True)


def test_an_api_token_may_end_by_itself_and_the_list_shows_its_use(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("long enough 1\n"))
    assert command("operators", "password", "ann")[0] == 0
    _, secret, _ = command("operators", "token", "ann", "--name", "cron", "--valid-for", "365d")
    use_token(tmp_path, secret.strip(), at=1_700_000_000.0)
    with monkeypatch.context() as patch:
        patch.setattr("obt_server.cli.operators.time.time", lambda: 1_700_000_000.0)
        command("operators", "token", "ann", "--name", "old", "--valid-for", "1h")
    listed = command("operators", "list")[1]
    assert "1  ann  cron  (last used 2023-11-14 22:13 UTC, valid until 20" in listed
    assert "2  ann  old  (never used, expired 2023-11-14 23:13 UTC)" in listed
    with pytest.raises(SystemExit):
        command("operators", "token", "ann", "--name", "cron", "--valid-for", "3651d")


@pytest.mark.parametrize("expires_at", [1e18, 1e300, float("inf")])
def test_a_token_with_a_time_that_no_calendar_has_is_listed(
    command: Command, tmp_path: Path, expires_at: float
) -> None:
    async def store() -> None:
        database = Database.sqlite(tmp_path / "obt.sqlite3")
        operators = Operators(OperatorStore(database))
        await operators.store.set_password("ann", "hash", 0.0)
        await operators.new_token("ann", "cron", expires_at)
        database.close()

    asyncio.run(store())
    status, listed, error = command("operators", "list")
    assert (status, error) == (0, "")
    assert "1  ann  cron  (never used, valid until after the year 9999)" in listed


def test_a_token_of_inference_is_made_for_machines_and_models(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id = enrolled(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("long enough 1\n"))
    command("operators", "password", "ann")
    make = ("operators", "token", "ann", "--name", "chat")
    status, secret, _ = command(*make, "--machine", "pc", "--machine", "@gpu", "--model", "llama3.2:*")
    assert (status, secret.startswith("obti_")) == (0, True)
    assert command(*make, "--machine", "*")[0] == 0
    listed = command("operators", "list")[1]
    assert f"1  ann  chat  (never used)  inference at {agent_id}, @gpu with llama3.2:*" in listed
    assert "2  ann  chat  (never used)  inference at * with *" in listed
    assert command(*make, "--machine", "nobody")[0] == 2
    status, _, error = command(*make, "--model", "llama3.2:*")
    assert (status, "--machine" in error) == (2, True)


def use_token(tmp_path: Path, secret: str, *, at: float) -> None:
    async def work() -> None:
        database = Database.sqlite(tmp_path / "obt.sqlite3")
        token = await OperatorStore(database).valid_token(sha256(secret), at)
        assert token is not None
        assert token.operator == "ann"
        database.close()

    asyncio.run(work())


def test_a_password_is_asked_for_twice_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["a long password", "a long password", "a long password", "another"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    assert read_password() == "a long password"
    with pytest.raises(options.UsageError, match="differ"):
        read_password()


def test_the_database_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def database(*arguments: str) -> Path:
        return Path(options.database_of(parser().parse_args(["tokens", "list", *arguments])))

    monkeypatch.setenv("OBT_SERVER_DATABASE", "/somewhere/db")
    assert database() == Path("/somewhere/db")
    assert database("--database", "/else/where") == Path("/else/where")
    monkeypatch.delenv("OBT_SERVER_DATABASE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert database() == tmp_path / "obt-server" / "obt.sqlite3"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert database().parts[-3:] == ("share", "obt-server", "obt.sqlite3")
    # What Python finds where a user has no home: a container with a user of its own number.
    monkeypatch.setenv("HOME", "~")
    assert database() == Path("/var/lib/obt-server/obt.sqlite3")
    (tmp_path / "server.yaml").write_text("database: {address: here.sqlite3}\n")
    assert database("--config", str(tmp_path / "server.yaml")) == tmp_path / "here.sqlite3"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--host", "0.0.0.0"], "give --tls-cert and --tls-key"),  # noqa: S104 -- refused, which is the point
        (["--host", "box.lan"], "give --tls-cert and --tls-key"),
        (["--tls-cert", "cert.pem"], "go together"),
        (["--tls-cert", "no.pem", "--tls-key", "no.pem"], "no.pem: give --tls-cert one"),
        (["--behind-proxy"], "give --allowed-host"),
        (["--host", "0.0.0.0", "--behind-proxy"], "give --allowed-host"),  # noqa: S104 -- refused likewise
        (["--host", "::", "--behind-proxy"], "give --allowed-host"),
    ],
)
def test_an_exposed_server_without_tls_or_name_is_refused(
    command: Command, arguments: list[str], error: str
) -> None:
    status, _, shown = command("run", *arguments)
    assert status == 2
    assert error in shown


def tls_files(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine and its key."""
    issued = trustme.CA().issue_cert("obt.example", "127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return cert, key


def refusal(cert: Path, key: Path) -> str:
    """What is said of the two; one line."""
    with pytest.raises(options.UsageError) as caught:
        run.check(parser(["run"]).parse_args(["run", "--tls-cert", str(cert), "--tls-key", str(key)]))
    (line,) = str(caught.value).splitlines()
    return line


def test_a_certificate_that_cannot_be_used_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cert, key = tls_files(tmp_path)
    _, foreign = tls_files(tmp_path / "other")
    run.check(parser(["run"]).parse_args(["run", "--tls-cert", str(cert), "--tls-key", str(key)]))
    assert f"{foreign} is not the key of {cert}: give the two that were made together" in refusal(
        cert, foreign
    )
    assert f"there is no file {tmp_path}/no: give --tls-key one" in refusal(cert, tmp_path / "no")
    assert f"{key} holds no certificate in PEM form: give the chain to --tls-cert" in refusal(key, cert)
    assert f"{cert} holds no private key in PEM form" in refusal(cert, cert)
    assert f"{tmp_path} cannot be read by" in refusal(cert, tmp_path)
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n")
    assert f"{broken} and {key} cannot be used: " in refusal(broken, key)


def test_a_key_with_a_password_is_told_and_not_asked_for(tmp_path: Path) -> None:
    cert, key = tls_files(tmp_path)
    loaded = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    assert f"{key} is encrypted: write it without a password" in refusal(cert, key)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("0.0.0.0", "nobody can dial 0.0.0.0: give the name"),  # noqa: S104 -- refused, which is the point
        ("::", "nobody can dial ::"),
        ("[::]", "nobody can dial"),
        ("224.0.0.1", "nobody can dial 224.0.0.1"),
        ("255.255.255.255", "nobody can dial 255.255.255.255"),
        ("https://obt.example", "write a name or an address alone"),
        ("obt.example:8881", "write a name or an address alone"),
    ],
)
def test_a_name_that_nobody_can_use_is_refused(
    name: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser(["run"]).parse_args(["run", "--allowed-host", name])
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (["--host", "0.0.0.0", "--allowed-host", "obt.example"], "https://obt.example:8881/"),  # noqa: S104 -- as above
        (["--host", "::", "--allowed-host", "::1"], "https://[::1]:8881/"),
        (["--host", "10.0.0.5"], "https://10.0.0.5:8881/"),
    ],
)
def test_the_address_that_is_printed_is_one_to_open(arguments: list[str], url: str) -> None:
    given = ["run", *arguments, "--tls-cert", "c", "--tls-key", "k"]
    assert run._url(parser(given).parse_args(given), 8881) == url  # noqa: SLF001 -- what a start prints
    behind = ["run", "--host", "0.0.0.0", "--behind-proxy", "--allowed-host", "obt.example"]  # noqa: S104 -- as above
    assert run._url(parser(behind).parse_args(behind), 80) == "http://127.0.0.1:80/"  # noqa: SLF001 -- as above


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("https://0.0.0.0:8881", "nobody can dial 0.0.0.0"),
        ("obt.lan:8881", "is no address of a server: write one like http://127.0.0.1:8881"),
        ("http://[::1", "is no address of a server"),
    ],
)
def test_an_address_to_ask_that_is_none_is_refused(
    url: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "list", "--url", url]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert error in line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--host", "::1"],
        ["--host", "localhost"],
        ["--host", "10.0.0.5", "--behind-proxy"],
        ["--host", "box.lan", "--behind-proxy"],
        ["--behind-proxy", "10.0.0.1", "--allowed-host", "obt.example"],
    ],
)
def test_a_server_that_is_safe_to_start_is_not_refused(arguments: list[str]) -> None:
    run.check(run.completed(parser().parse_args(["run", *arguments])))


def test_the_gateway_is_off_unless_it_is_asked_for() -> None:
    for arguments, on in (([], False), (["--gateway"], True)):
        settings = run.settings_for(run.completed(parser().parse_args(["run", *arguments])))
        assert (settings.gateway is not None) == on


def test_usage(command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("obt-server ")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "tokens" in capsys.readouterr().out
    (tmp_path / "file").touch()
    status = main(["tokens", "list", "--database", str(tmp_path / "file" / "db")])
    assert status == 1


@pytest.mark.slow
async def test_the_first_start_prints_a_password_once_and_it_opens(tmp_path: Path) -> None:
    database = tmp_path / "obt.sqlite3"
    async with server_process(database) as server:
        found = re.search(r"sign in as admin with the password (\S+)", server.output)
        assert found
        async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as http:
            answer = await http.post("/api/v1/session", json={"password": found.group(1)})
            assert answer.status_code == 200
    async with server_process(database) as server:
        assert "password" not in server.output


def join_token(database: Path) -> str:
    """One as the command prints it."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main(["tokens", "join", "--database", str(database)]) == 0
    return shown.getvalue().strip()


def test_only_keys_that_no_public_authority_vouches_for_are_in_join_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = trustme.CA()
    issued, later = ca.issue_cert("obt.example"), ca.issue_cert("obt.example")
    cert, key, root, following = (tmp_path / name for name in ("cert", "key", "root", "following"))
    for blob, path in zip(
        (issued.cert_chain_pems[0], issued.private_key_pem, ca.cert_pem, later.cert_chain_pems[0]),
        (cert, key, root, following),
        strict=True,
    ):
        blob.write_to_path(path)
    pins = tuple(key_of(x509.load_pem_x509_certificate(path.read_bytes())) for path in (cert, following))
    assert server_keys(cert, key, following) == ServerKeys(shown=pins, in_tokens=pins)
    # As one of the system's own authorities: renewed with new keys, and known to every agent without a pin.
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    assert server_keys(cert, key, following) == ServerKeys(shown=pins, in_tokens=())
    # What is wrong with a key is said by who listens with it.
    assert server_keys(cert, root).in_tokens == pins[:1]
    with pytest.raises(ValueError, match="holds no certificate"):
        server_keys(key, key)


def test_a_next_certificate_follows_one_of_the_servers_own(command: Command, tmp_path: Path) -> None:
    (tmp_path / "next.pem").touch()
    status, _, error = command("run", "--next-tls-cert", str(tmp_path / "next.pem"))
    assert (status, "give that, too" in error) == (2, True)
    tls = ["--tls-cert", str(tmp_path / "next.pem"), "--tls-key", str(tmp_path / "next.pem")]
    with pytest.raises(options.UsageError, match=r"next\.pem holds no certificate"):
        run.settings_for(run.completed(parser().parse_args(["run", *tls])))


@pytest.mark.slow
async def test_a_server_with_tls_listens_on_an_address_that_others_reach(tmp_path: Path) -> None:
    ca = trustme.CA()
    issued, next_issued = ca.issue_cert("obt.example", "127.0.0.1"), ca.issue_cert("obt.example")
    names = ("cert.pem", "key.pem", "ca.pem", "next.pem")
    cert, key, root, following = (tmp_path / name for name in names)
    next_issued.cert_chain_pems[0].write_to_path(following)
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    ca.cert_pem.write_to_path(root)
    arguments = ["--host", "0.0.0.0", "--allowed-host", "127.0.0.1"]  # noqa: S104 -- with TLS, as it must be
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)]
    pin, coming = (key_of(x509.load_pem_x509_certificate(path.read_bytes())) for path in (cert, following))
    async with server_process(tmp_path / "db", *arguments, *tls, "--next-tls-cert", str(following)) as server:
        url = f"https://127.0.0.1:{server.port}"
        trusted = ssl.create_default_context(cafile=root)
        async with httpx.AsyncClient(base_url=url, verify=trusted, timeout=30, trust_env=False) as http:
            assert (await http.get("/api/v1/session")).status_code == 401
        # Nothing but the token's text is needed for an agent to know this server from any other.
        token = await asyncio.to_thread(join_token, tmp_path / "db")
        assert token.endswith(f".{pin}.{coming}")
        joined = await in_process(
            tmp_path, "enroll", url, "--state-dir", str(tmp_path / "state"), given=token
        )
        assert joined.code == 0, joined.err
        assert f"must show the key {pin} or {coming}." in joined.out


@pytest.mark.slow
async def test_a_port_that_is_taken_is_said_and_fails(tmp_path: Path) -> None:
    async with server_process(tmp_path / "one") as server:
        with pytest.raises(AssertionError) as caught:
            async with server_process(tmp_path / "two", "--port", str(server.port)):
                pass
    # Whatever it printed until it ended: one line, and neither a traceback nor a password.
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"obt-server: cannot listen on 127.0.0.1 port {server.port}: another program")


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (errno.EADDRINUSE, "another program listens there: stop it, or give another --port"),
        (errno.EACCES, "ports below 1024 are the system's"),
        (errno.EADDRNOTAVAIL, "this machine has no such address: give another --host"),
        (errno.ENETDOWN, os.strerror(errno.ENETDOWN)),
    ],
)
async def test_a_server_that_cannot_listen_says_why_and_makes_no_operator(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: int,
    remedy: str,
) -> None:
    async def refusing(*_: object, **__: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", refusing)
    database = tmp_path / "obt.sqlite3"
    given = run.completed(parser().parse_args(["run", "--port", "8881", "--database", str(database)]))
    with pytest.raises(OSError, match="cannot listen") as caught:
        await _serve(given)
    assert f"on 127.0.0.1 port 8881: {remedy}" in str(caught.value)
    assert capsys.readouterr().out == ""
    # The next start is the first one that can show a password.
    with contextlib.closing(Database.sqlite(database)) as opened:
        assert await OperatorStore(opened).names() == []


@pytest.mark.parametrize(
    "name", ["models", "rollouts", "sets", "campaigns", "baselines", "regressions", "schedules"]
)
def test_a_command_that_asks_a_server_starts_without_framework_and_database(name: str) -> None:
    program = f"""
import sys
from obt_server.cli import main
try:
    main([{name!r}, "--help"])
except SystemExit as ended:
    assert not ended.code
assert not {{"fastapi", "sqlalchemy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdout=subprocess.DEVNULL)
