import re
from pathlib import Path

from obt_agent.config.keys import all_keys
from obt_agent.config.reference import example, markdown, rows
from obt_agent.config.reload import value_of
from tests.config.process_context import loaded
from tests.project.paths import ROOT


def uncommented() -> str:
    return re.sub(r"(?m)^( *)#([a-z])", r"\1\2", example())


def test_the_example_is_right_as_it_is(tmp_path: Path) -> None:
    assert loaded(tmp_path, example()).config == loaded(tmp_path, "").config


def test_the_example_shows_every_key_with_its_default(tmp_path: Path) -> None:
    found = loaded(tmp_path, uncommented())
    plain = loaded(tmp_path, "")
    for name in all_keys():
        assert value_of(found, name) == value_of(plain, name), name
        if name not in {"agent.name", "agent.state_dir"}:  # empty ones are filled in
            assert found.origins[name].kind == "file", name


def test_every_key_has_a_meaning_and_a_row() -> None:
    assert [row.key.name for row in rows()] == list(all_keys())
    assert all(re.match(r"[A-Za-z].*\.$", row.meaning) for row in rows())
    assert markdown().count("\n") == len(all_keys()) + 2


def test_the_document_holds_the_table_as_it_is_now() -> None:
    assert markdown() in (ROOT / "docs/reference/configuration.md").read_text(), "run make docs"


def test_the_copy_that_people_find_is_the_example() -> None:
    assert (ROOT / "config/agent.example.yaml").read_text() == example()
