"""Write what the page's types are made from: the server's OpenAPI with the protocol's structs beside it.

``python console/schemas.py`` writes ``openapi.json`` and ``metrics.json`` into ``console/src/lib/api``;
``npm run types`` makes the types from the first.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from obt_agent.benchmark.compare import Comparison
from obt_agent.benchmark.metrics_registry import METRICS
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.result import BenchmarkResult, ResourceSample
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.samples import Sample
from obt_agent.ollama.payloads import InstalledModel, OllamaState, RunningModel
from obt_agent.protocol.admission import HeartbeatParams
from obt_agent.protocol.jobs import JobProgress
from obt_server.app import AppSettings, build
from obt_server.rest import responses
from obt_server.rest.context import PREFIX

API = Path(__file__).parent / "src/lib/api"
STRUCTS = (
    BenchmarkResult,
    Comparison,
    HeartbeatParams,
    InstalledModel,
    Inventory,
    JobProgress,
    OllamaState,
    Plan,
    ResourceSample,
    RunningModel,
    Sample,
)


def document() -> dict[str, Any]:
    """Return the OpenAPI document; schemas of structs that the server names itself are the server's."""
    with tempfile.TemporaryDirectory() as folder:
        server = build(AppSettings(Path(folder) / "obt.sqlite3"))
        described = responses.with_security(server.app.openapi(), PREFIX)
        server.database.close()
    _, structs = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    described["components"]["schemas"] = {**structs, **described["components"]["schemas"]}
    for schema in described["components"]["schemas"].values():
        schema.pop("additionalProperties", None)  # what a newer agent adds has no type here
    described["info"]["version"] = "0"  # a release alone changes no type
    return described


def write(name: str, value: Any) -> None:
    """Write a JSON file whose text depends on the value alone."""
    (API / name).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write("openapi.json", document())
    write("metrics.json", [msgspec.to_builtins(metric) for metric in METRICS])
