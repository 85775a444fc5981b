"""Files that are written for the service, and the configuration's first version."""

import stat
from pathlib import Path

import pytest

from obt_agent.config.load import ProcessContext, load
from obt_agent.service import files
from obt_agent.service.paths import ServicePaths
from obt_agent.service.system import ServiceError


@pytest.mark.parametrize(
    "name",
    [files.UNIT_FILE, files.USER_UNIT_FILE, files.SYSUSERS_FILE, files.TMPFILES_FILE, files.CONFIG_FILE],
)
def test_every_file_of_the_service_is_shipped(name: str) -> None:
    assert files.shipped(name)


def test_a_file_that_is_not_shipped_is_reported() -> None:
    with pytest.raises(ServiceError, match="install obt-agent anew"):
        files.shipped("nothing")


def test_the_unit_runs_the_program_of_its_own_installation() -> None:
    assert "ExecStart=/opt/obt-agent/bin/obt-agent run" in files.unit_for(ServicePaths())
    assert "ExecStart=/usr/lib/obt-agent/bin/obt-agent run" in files.unit_for(ServicePaths(packaged=True))


def test_a_file_is_replaced_only_when_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "file"
    assert files.write(path, "one", mode=0o640)
    assert not files.write(path, "one", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files.write(path, "two", group=path.parent.stat().st_gid)
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_planted_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("kept")
    path.symlink_to(victim)
    files.write(path, "kept")
    assert not path.is_symlink()
    assert victim.read_text() == "kept"


def test_what_cannot_be_written_or_removed_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="cannot be written"):
        files.write(tmp_path / "file" / "below", "x")
    with pytest.raises(ServiceError, match="cannot be removed"):
        files.remove(tmp_path)
    assert files.remove(tmp_path / "file")
    assert not files.remove(tmp_path / "file")


def test_the_first_configuration_is_valid_and_names_the_server(tmp_path: Path) -> None:
    text = files.with_server(
        files.shipped(files.CONFIG_FILE), "https://obt.example.org", "http://ollama:11434"
    )
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    config = load(str(path), surroundings=ProcessContext(environ={}, terminal=False)).config
    assert config.server.url == "wss://obt.example.org/api/v1/agents/connect"
    assert config.ollama.url == "http://ollama:11434"


def test_what_the_owner_wrote_stays() -> None:
    text = files.with_server("# mine\npolicy:\n  max_streams: 2\n", "https://it's.example.org")
    assert text.startswith("# mine\npolicy:\n  max_streams: 2\n")
    assert "url: 'https://it''s.example.org'" in text


def test_a_server_section_is_for_its_owner_to_change() -> None:
    with pytest.raises(ServiceError, match="server section"):
        files.with_server("server:\n  proxy: none\n", "https://obt.example.org")
