"""The bill of materials: valid by CycloneDX's own schema, complete, and the same each time."""

import json
import re
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from scripts import sbom
from tests.project.paths import ROOT

AT = datetime(2030, 1, 31, tzinfo=UTC)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return sbom.bill(sbom.needed(), AT)


def schema(name: str) -> dict[str, Any]:
    text = (files("cyclonedx.schema") / "_res" / name).read_text()
    read: dict[str, Any] = json.loads(text)
    return read


def test_it_is_valid_by_the_schema_of_cyclonedx(document: dict[str, Any]) -> None:
    others = ("spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    resources = [Resource.from_contents(schema(name)) for name in others]
    registry = Registry().with_resources([(resource.id() or "", resource) for resource in resources])
    jsonschema.Draft7Validator(schema("bom-1.6.SNAPSHOT.schema.json"), registry=registry).validate(document)


def test_it_holds_what_the_program_needs_at_the_pinned_releases(document: dict[str, Any]) -> None:
    locked = (ROOT / "requirements/server.txt").read_text()
    pins = re.findall(r"^([\w.-]+)==(\S+)", locked, flags=re.MULTILINE)
    pinned = {sbom.canonical(name): release for name, release in pins}
    held = {sbom.canonical(part["name"]): part["version"] for part in document["components"]}
    assert {
        "aiohttp",
        "yarl",
        "fastapi",
        "uvicorn",
        "sqlalchemy",
        "uvloop",
        "psycopg-binary",
        "nats-py",
    } <= set(held)
    assert not {"pytest", "mypy", "playwright", "obt-agent"} & set(held)
    assert {name: pinned.get(name) for name in held} == held
    assert document["metadata"]["component"]["name"] == "obt-agent"


def test_every_part_has_a_licence_and_is_needed_by_another(document: dict[str, Any]) -> None:
    assert [
        part["name"] for part in document["components"] if "not stated" in json.dumps(part["licenses"])
    ] == []
    needed = {name for row in document["dependencies"] for name in row["dependsOn"]}
    assert {part["bom-ref"] for part in document["components"]} == needed


def test_the_same_release_gives_the_same_bytes(document: dict[str, Any]) -> None:
    assert sbom.as_text(sbom.bill(reversed(sbom.needed()), AT)) == sbom.as_text(document)
