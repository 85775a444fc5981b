"""The published schemas are current, valid, and agree with what the codec takes."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from obt_agent.protocol import schema
from obt_agent.protocol.methods import COMMANDS, LINK_METHODS, METHODS

DOCS = Path(__file__).parents[2] / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_documents_are_current() -> None:
    assert generator().stale() == [], "run make docs"


def test_a_check_of_changed_documents_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = generator()
    monkeypatch.setattr(module, "HERE", tmp_path / "docs")
    shutil.copy(DOCS.parent / "pyproject.toml", tmp_path)  # the layers are drawn from it
    assert module.main(["--check"]) == 1
    assert module.main([]) == 0
    assert module.main(["--check"]) == 0


def test_the_json_schema_is_a_valid_2020_12_schema_and_every_reference_resolves() -> None:
    document = json.loads((DOCS / "schemas" / "obt.v1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    assert set(_references(document, "#/$defs/")) <= set(document["$defs"])


def test_the_asyncapi_document_names_every_method_with_its_direction() -> None:
    document = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    assert set(document["operations"]) == set(METHODS)
    for name, method in METHODS.items():
        assert document["operations"][name]["action"] == ("send" if method.sender == "agent" else "receive")
    assert set(_references(document, "#/components/schemas/")) <= set(document["components"]["schemas"])


def test_no_method_is_listed_twice() -> None:
    assert len(METHODS) == len(COMMANDS) + len(LINK_METHODS)


def _references(node: Any, prefix: str) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"].removeprefix(prefix)] if str(node.get("$ref", "")).startswith(prefix) else []
        return own + [ref for value in node.values() for ref in _references(value, prefix)]
    if isinstance(node, list):
        return [ref for value in node for ref in _references(value, prefix)]
    return []


@pytest.mark.parametrize("name", sorted(METHODS))
def test_each_type_of_the_table_has_a_decoder(name: str) -> None:
    method = METHODS[name]
    for type_ in (method.params, method.result):
        if type_ not in (None, dict):
            msgspec.json.Decoder(type_)
    assert schema.json_schemas()["x-methods"][name]["shape"] == method.shape
