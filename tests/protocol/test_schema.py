"""The published schemas are current, valid, and agree with what the codec takes."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
import yaml

from obt_agent.errors import InvalidParams
from obt_agent.hardware.samples import Sample
from obt_agent.protocol import codec, schema
from obt_agent.protocol.jobs import TERMINAL_STATES, JobState
from obt_agent.protocol.methods import COMMANDS, LINK_METHODS, METHODS
from obt_agent.protocol.streams import SeriesItem

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


def validator(definition: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema.json_schemas(), "$ref": f"#/$defs/{definition}"})


@pytest.mark.parametrize(
    ("definition", "frame", "valid"),
    [
        ("Request", '{"jsonrpc":"2.0","id":1,"method":"list_models"}', True),
        ("Request", '{"jsonrpc":"2.0","id":"a","method":"list_models","params":{}}', True),
        ("Request", '{"id":1,"method":"list_models","params":{}}', False),
        ("Request", '{"jsonrpc":"2.0","id":-1,"method":"list_models"}', False),
        ("Request", '{"jsonrpc":"2.0","id":1,"method":"list_models","params":[]}', False),
        ("Notification", '{"jsonrpc":"2.0","method":"link.alive"}', True),
        ("Notification", '{"jsonrpc":"1.0","method":"link.alive"}', False),
        ("Response", '{"jsonrpc":"2.0","id":1,"result":{}}', True),
        ("Response", '{"id":1,"result":{}}', False),
        ("ErrorResponse", '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}', True),
        ("ErrorResponse", '{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}', False),
    ],
)
def test_the_schemas_of_frames_and_the_codec_agree(definition: str, frame: str, *, valid: bool) -> None:
    assert validator(definition).is_valid(json.loads(frame)) == valid
    # An error without an id is read as one whose id could not be: leniently, and never sent so.
    if "error" not in frame:
        try:
            codec.decode(frame)
        except codec.FrameError:
            assert not valid
        else:
            assert valid


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_asyncapi_document_lets_parameters_be_left_out_where_the_codec_does(name: str) -> None:
    payload = schema.asyncapi()["components"]["messages"][name]["payload"]
    assert "jsonrpc" in payload["required"]
    try:
        codec.convert(b"{}", METHODS[name].params)
    except InvalidParams:
        assert "params" in payload["required"]
    else:
        assert "params" not in payload["required"]


def test_the_items_of_every_stream_and_series_are_typed() -> None:
    methods = schema.json_schemas()["x-methods"]
    streaming = {name for name, method in METHODS.items() if method.shape in ("stream", "series")}
    assert {name for name, entry in methods.items() if "item" in entry} == streaming
    messages = schema.asyncapi()["components"]["messages"]
    assert {name for name, message in messages.items() if "x-item" in message} == streaming
    watch = msgspec.json.encode(SeriesItem(t_us=1, n=1, sample=Sample(t_wall=1.0, t_mono_ns=1)))
    item = jsonschema.Draft202012Validator({**schema.json_schemas(), **methods["hardware_watch"]["item"]})
    assert item.is_valid(json.loads(watch))
    assert not item.is_valid({"t_us": 1, "n": 1, "sample": {"t_wall": 1.0}})


def test_a_final_has_a_terminal_state_in_the_schema_too() -> None:
    final = {"job_id": "j", "kind": "pull", "bytes": 2, "sha256": "x"}
    check = validator("JobFinishedParams").is_valid
    assert {state for state in get_args(JobState) if check({**final, "state": state})} == TERMINAL_STATES


PYTHON = re.compile(
    r"``|\b(None|True|False|Raises|Args|Struct|struct|dict|tuple|msgspec|ValueError|\w+_agent\.\w+)\b|\w_\b"
)


def _descriptions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("description"), str):
            yield node["description"]
        for value in node.values():
            yield from _descriptions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _descriptions(value)


@pytest.mark.parametrize("path", sorted((DOCS / "schemas").iterdir()), ids=lambda path: path.name)
def test_no_description_speaks_python(path: Path) -> None:
    assert [text for text in _descriptions(json.loads(path.read_text())) if PYTHON.search(text)] == []


def test_integers_that_pass_2_to_the_53_are_those_that_the_document_names() -> None:
    nanoseconds = {
        name: field
        for definition in schema.json_schemas()["$defs"].values()
        for name, field in definition.get("properties", {}).items()
        if name.endswith("_ns")
    }
    assert set(nanoseconds) == {"t_mono_ns", "slow_t_mono_ns"}
    assert all("2^53" in json.dumps(field) and "int64" in json.dumps(field) for field in nanoseconds.values())
    text = (DOCS / "reference" / "protocol.md").read_text()
    assert all(f"`{name}`" in text for name in nanoseconds)


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
