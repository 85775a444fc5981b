import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.config.document import WrongDocument
from obt_agent.config.edit import CannotEdit, set_keys, with_key
from obt_agent.config.load import load
from tests.config.process_context import around

URL = "https://obt.example.org:8881"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"server:\n  url: {URL}\n"),
        ("# mine\nlog: {level: debug}", f"# mine\nlog: {{level: debug}}\nserver:\n  url: {URL}\n"),
        ("server:\nlog:\n  level: debug\n", f"server:\n  url: {URL}\nlog:\n  level: debug\n"),
        (
            "server: # here\n    # and here\n    proxy: none\n",
            f"server: # here\n    # and here\n    url: {URL}\n    proxy: none\n",
        ),
        ("server:\n  proxy: none\n  url: https://old # c\n", f"server:\n  proxy: none\n  url: {URL}\n"),
        ("\ufeffserver:\n  url: x\n", f"server:\n  url: {URL}\n"),
    ],
)
def test_the_url_is_set_and_all_else_stays(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(before)
    path.chmod(0o640)
    set_keys(path, {"server.url": URL})
    assert path.read_text() == after
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_not_there_is_made_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "etc/agent.yaml"
    set_keys(path, {"server.url": URL})
    assert path.read_text() == f"server:\n  url: {URL}\n"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("")
    (tmp_path / "agent.yaml").symlink_to("real.yaml")
    set_keys(tmp_path / "agent.yaml", {"server.url": URL})
    assert (tmp_path / "agent.yaml").is_symlink()
    assert URL in (tmp_path / "real.yaml").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "server: {url: x}",
        "server: {}",
        "server: {\n  proxy: none }",
        "[",
        "- a",
        "{server: {url: x}}",
        "log: {}\n...\n",
        "server:\n  url: >\n    x\n",
    ],
)
def test_a_file_of_unusual_layout_is_left_alone_and_the_line_is_given(tmp_path: Path, text: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(CannotEdit) as caught:
        set_keys(path, {"server.url": URL})
    assert path.read_text() == text
    assert f"Write this into it:\nserver:\n  url: {URL}" in str(caught.value)


def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotEdit, match="cannot be written: "):
        set_keys(tmp_path / "file" / "agent.yaml", {"server.url": URL})


def test_a_failed_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "agent.yaml"
    path.write_text("log: {}\n")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CannotEdit, match="No space left on device"):
        set_keys(path, {"server.url": URL})
    assert [file.name for file in tmp_path.iterdir()] == ["agent.yaml"]
    assert path.read_text() == "log: {}\n"


@pytest.mark.parametrize(
    "name", ["box", "Grandma's PC", 'a "b"', "no", "null", "~", "007", "Bücher # 3", "x: y", "tab\\t"]
)
def test_any_name_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "agent.yaml"
    set_keys(path, {"server.url": URL, "agent.name": name})
    config = load(str(path), surroundings=around(tmp_path)).config
    assert (config.agent.name, config.server.url) == (
        name,
        "wss://obt.example.org:8881/api/v1/agents/connect",
    )


@given(st.text(max_size=60))
def test_any_document_is_changed_rightly_or_left_alone(text: str) -> None:
    with contextlib.suppress(WrongDocument):
        after = with_key(text.encode("utf-8", "replace"), "server.url", URL)
        assert with_key(after, "server.url", URL) == after
