import os
from pathlib import Path

import pytest

from obt_agent.identity.provisioned import TokenError, parse_token, read_token, token_file, token_file_seen


def token(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_configured_file_comes_before_systemds(tmp_path: Path) -> None:
    own, systemds = token(tmp_path / "own", "x"), token(tmp_path / "creds/obt-token", "y")
    environ = {"CREDENTIALS_DIRECTORY": str(systemds.parent)}
    assert token_file(str(own), environ) == own
    assert token_file(None, environ) == systemds


def test_a_file_that_is_not_there_is_no_token(tmp_path: Path) -> None:
    assert token_file(None, {}) is None
    assert token_file(str(tmp_path / "no"), {}) is None
    assert token_file(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None


def test_looked_at_from_outside_the_services_token_is_where_systemd_takes_it_from(tmp_path: Path) -> None:
    run, etc = (token(tmp_path / place / "credstore/obt-token", "x") for place in ("run", "etc"))
    service = tmp_path / "var/lib/obt-agent"
    assert token_file_seen(None, {}, service, tmp_path) == etc
    etc.unlink()
    assert token_file_seen(None, {}, service, tmp_path) == run
    assert token_file_seen(str(tmp_path / "no"), {}, service, tmp_path) is None
    assert token_file_seen(None, {}, tmp_path / "another", tmp_path) is None
    run.unlink()
    assert token_file_seen(None, {}, service, tmp_path) is None


def test_a_token_is_read_without_its_line_end(tmp_path: Path) -> None:
    assert read_token(token(tmp_path / "t", "  obta_abcdefgh\n\n")).reveal() == "obta_abcdefgh"


def test_systemd_and_a_group_may_share_the_file(tmp_path: Path) -> None:
    assert read_token(token(tmp_path / "t", "obta_abcdefgh", 0o440))


@pytest.mark.parametrize(
    "content", ["", " \n", "short", "two words here", "canary\ncanary-line", "é" * 20, "a" * 5000]
)
def test_what_is_no_token_is_refused_without_repeating_it(tmp_path: Path, content: str) -> None:
    with pytest.raises(TokenError) as caught:
        read_token(token(tmp_path / "t", content))
    assert str(tmp_path / "t") in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_file_that_everybody_can_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=f"chmod o= {tmp_path}/t"):
        read_token(token(tmp_path / "t", "obta_abcdefgh", 0o644))


def test_a_containers_secret_may_be_read_by_everybody_and_written_by_nobody_else(tmp_path: Path) -> None:
    secret = token(tmp_path / "run/secrets/join", "obtj_abcdefgh", 0o444)
    (tmp_path / "link").symlink_to(secret)
    assert read_token(tmp_path / "link", tmp_path)
    secret.chmod(0o446)
    with pytest.raises(TokenError, match="chmod o="):
        read_token(secret, tmp_path)
    other = token(tmp_path / "run/secrets-of-others/join", "obtj_abcdefgh", 0o444)
    with pytest.raises(TokenError, match="chmod o="):
        read_token(other, tmp_path)


def test_a_pipe_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(TokenError, match="is not a regular file"):
        read_token(tmp_path / "pipe")
    with pytest.raises(TokenError, match=r"cannot be read: Is a directory|is not a regular file"):
        read_token(tmp_path)


def test_a_file_that_vanished_is_said(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="cannot be read: No such file"):
        read_token(tmp_path / "no")


def test_a_token_from_elsewhere_names_its_place() -> None:
    with pytest.raises(TokenError, match="standard input is empty"):
        parse_token(b"\n", "standard input")
