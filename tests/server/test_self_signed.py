"""The server's own certificate: made once, renewed with the same key, known to agents by their join token."""

import asyncio
import contextlib
import io
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography import x509

from obt_server.auth.self_signed import CERTIFICATE, KEY, RENEWED_BEFORE, VALID, own_certificate
from obt_server.cli import main, options, parser, run
from tests.cli.program import in_process
from tests.link.authority import key_of
from tests.server.process import server_process

NAMES = ("obt.example", "192.0.2.7", "2001:db8::7", "localhost")
NOW = datetime.now(UTC)


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())


def test_it_is_made_once_for_all_names_and_its_key_is_the_owner_s_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    cert, key = own_certificate(folder, NAMES)
    assert (cert, key) == (folder / CERTIFICATE, folder / KEY)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    shown = certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert shown.get_values_for_type(x509.DNSName) == ["obt.example", "localhost"]
    assert [str(one) for one in shown.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "2001:db8::7"]
    made = cert.read_bytes(), key.read_bytes()
    own_certificate(folder, NAMES)
    assert (cert.read_bytes(), key.read_bytes()) == made
    assert {path.name for path in folder.iterdir()} == {CERTIFICATE, KEY}


@pytest.mark.parametrize("change", ["names", "end", "clock", "foreign", "damaged", "gone"])
def test_it_is_made_anew_where_it_does_not_do_any_more_and_the_key_stays(tmp_path: Path, change: str) -> None:
    cert, key = own_certificate(tmp_path, NAMES, NOW)
    before, pin, secret = cert.read_bytes(), key_of(certificate(tmp_path)), key.read_bytes()
    names: tuple[str, ...] = NAMES
    now = NOW
    if change == "names":
        names = (*NAMES, "later.example")
    elif change == "end":
        own_certificate(tmp_path, NAMES, NOW + RENEWED_BEFORE - timedelta(days=2))
        assert cert.read_bytes() == before, "it does for as long as that"
        now = NOW + VALID - RENEWED_BEFORE
    elif change == "clock":
        now = NOW - timedelta(days=2)
    elif change == "foreign":
        trustme.CA().issue_cert(*NAMES).cert_chain_pems[0].write_to_path(cert)
    elif change == "damaged":
        cert.write_text("-----BEGIN CERTIFICATE-----\n")
    else:
        cert.unlink()
    own_certificate(tmp_path, names, now)
    assert cert.read_bytes() != before
    assert (key_of(certificate(tmp_path)), key.read_bytes()) == (pin, secret)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)


def test_a_key_that_cannot_be_used_is_said_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("run", "--tls-self-signed", "--database", str(tmp_path / "db"))
    (tmp_path / KEY).write_text("nothing")
    assert main(words) == 2
    assert f"{KEY} holds no key: put a copy of it back, or remove it" in capsys.readouterr().err
    rsa = trustme.CA(key_type=trustme.KeyType.RSA).private_key_pem.bytes()
    (tmp_path / KEY).write_bytes(rsa)
    assert main(words) == 2
    assert "is no key of an elliptic curve: give a key of your own to --tls-key" in capsys.readouterr().err
    assert (tmp_path / KEY).read_bytes() == rsa


def test_it_takes_the_place_of_files_and_is_announced_with_the_next_key(tmp_path: Path) -> None:
    cert, key = own_certificate(tmp_path, NAMES)
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)]
    own = ["run", "--tls-self-signed", "--host", "0.0.0.0", "--allowed-host", "obt.example"]  # noqa: S104 -- with TLS, as it must be
    with pytest.raises(options.UsageError, match="leave out --tls-cert and --tls-key"):
        run.check(run.completed(parser().parse_args([*own, *tls])))
    run.check(run.completed(parser().parse_args([*own, "--next-tls-cert", str(tmp_path / "next.pem")])))


@pytest.mark.slow
async def test_an_agent_joins_a_server_that_others_reach_with_nothing_but_the_token(tmp_path: Path) -> None:
    database = tmp_path / "state" / "obt.sqlite3"
    words = ["--tls-self-signed", "--host", "0.0.0.0", "--allowed-host", "obt.example"]  # noqa: S104 -- as above
    async with server_process(database, *words, "--allowed-host", "127.0.0.1") as server:
        url = f"https://127.0.0.1:{server.port}"
        # As a browser that was told to trust it, and Python 3.13 with its strict look at authorities.
        trusted = ssl.create_default_context(cafile=database.parent / CERTIFICATE)
        trusted.verify_flags |= ssl.VERIFY_X509_STRICT
        async with httpx.AsyncClient(base_url=url, verify=trusted, timeout=30, trust_env=False) as http:
            assert (await http.get("/readyz")).status_code == 200
        token = await asyncio.to_thread(join_token, database)
        assert token.endswith(f".{key_of(certificate(database.parent))}")
        joined = await in_process(
            tmp_path, "enroll", url, "--state-dir", str(tmp_path / "agent"), given=token
        )
        assert joined.code == 0, joined.err


def join_token(database: Path) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main(["tokens", "join", "--database", str(database)]) == 0
    return shown.getvalue().strip()
