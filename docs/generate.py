"""Writes the generated parts of docs/: ``python docs/generate.py`` (``make docs``).

``--check`` writes nothing and exits 1 when a file is not current.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

import msgspec
import yaml

from obt_agent.benchmark import metrics_registry
from obt_agent.benchmark import schema as benchmark
from obt_agent.config import reference
from obt_agent.protocol import codec, schema
from obt_agent.protocol.example import example
from obt_agent.protocol.methods import COMMANDS
from obt_conformance import table
from obt_server.config import reference as server_reference

HERE: Final = Path(__file__).parent
PACKAGES: Final = Path(__file__).parents[1]
_KEYS: Final = "<!-- keys: written by make docs -->\n"
_END_OF_KEYS: Final = "<!-- end of keys -->"
_TABLE: Final = "<!-- table: written by make docs -->\n"
_END_OF_TABLE: Final = "<!-- end of table -->"
_LAYERS: Final = "<!-- layers: written by make docs -->\n"
_END_OF_LAYERS: Final = "<!-- end of layers -->"
_METRICS: Final = "<!-- metrics: written by make docs -->\n"
_END_OF_METRICS: Final = "<!-- end of metrics -->"


def documents() -> dict[Path, str]:
    """Each generated file and its text."""
    return {
        HERE / "schemas" / "obt.v1.json": json.dumps(schema.json_schemas(), indent=1, ensure_ascii=False)
        + "\n",
        HERE / "asyncapi.yaml": yaml.safe_dump(
            schema.asyncapi(), sort_keys=False, allow_unicode=True, width=110
        ),
        **{
            HERE / "schemas" / name: benchmark.as_text(benchmark.schema_of(type_))
            for name, type_ in benchmark.TYPES.items()
        },
        HERE / "reference" / "configuration.md": _with(
            HERE / "reference" / "configuration.md", _KEYS, reference.markdown(), _END_OF_KEYS
        ),
        HERE / "how-to" / "operate-the-server.md": _with(
            HERE / "how-to" / "operate-the-server.md", _KEYS, server_reference.markdown(), _END_OF_KEYS
        ),
        HERE / "developers" / "architecture.md": _with(
            HERE / "developers" / "architecture.md", _LAYERS, layers(), _END_OF_LAYERS
        ),
        HERE / "reference" / "conformance.md": _with(
            HERE / "reference" / "conformance.md", _TABLE, table.markdown(), _END_OF_TABLE
        ),
        HERE / "explanation" / "benchmarking.md": _with(
            HERE / "explanation" / "benchmarking.md",
            _METRICS,
            metrics_registry.as_markdown(),
            _END_OF_METRICS,
        ),
        HERE.parent / "obt_agent" / "config" / "command_names.py": command_names(),
        # The demonstration runs it from an installed package, which has no docs.
        HERE / "examples" / "nightly.yaml": (PACKAGES / "obt_server" / "demo" / "nightly.yaml").read_text(),
        **other_frames(),
    }


def other_frames() -> dict[Path, str]:
    """Return the smallest frames of the commands that no conversation in ``docs/golden`` shows yet."""
    path = HERE / "golden" / "other.jsonl"
    written = [file.read_text() for file in (HERE / "golden").glob("*.jsonl") if file != path]
    shown = {json.loads(line)["method"] for text in written for line in text.splitlines()}
    lines = []
    for number, method in enumerate((one for one in COMMANDS if one.name not in shown), 1):
        params = msgspec.Raw(msgspec.json.encode(example(method.params)))
        result = {} if method.result is dict else example(method.result)
        for sender, what, frame in (
            ("server", "request", codec.encode_request(number, method.name, params)),
            ("agent", "result", codec.encode_result(number, result)),
        ):
            line = {"from": sender, "what": what, "method": method.name, "frame": msgspec.Raw(frame)}
            lines.append(msgspec.json.encode(line).decode() + "\n")
    return {path: "".join(lines)} if lines else {}


def command_names() -> str:
    """A module for the configuration, which stands below the protocol and cannot import its table."""
    reading = "".join(f'    "{method.name}",\n' for method in COMMANDS if not method.changes)
    changing = "".join(f'    "{method.name}",\n' for method in COMMANDS if method.changes)
    return (
        '"""Names of the commands, written by ``make docs`` from ``obt_agent.protocol.methods``."""\n\n'
        "from typing import Final, Literal\n\n"
        f"READ_AND_RUN: Final = (\n{reading})\n"
        '"""What a server may ask for unless the owner says otherwise."""\n\n'
        f"ChangeCommand = Literal[\n{changing}]\n"
        '"""What alters the models that are installed."""\n'
    )


def layers() -> str:
    """Return the picture of the agent's layers, from the import contract that holds the code to it."""
    pyproject = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    (contract,) = (one for one in contracts if one.get("containers") == ["obt_agent"])
    boxes = [" · ".join(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    lines = [f'    L{number}["{box}"]' for number, box in enumerate(boxes)]
    arrows = "    " + " --> ".join(f"L{number}" for number in range(len(boxes)))
    return "\n".join(["```mermaid", "flowchart TB", *lines, arrows, "```", ""])


def _with(path: Path, start: str, part: str, end: str) -> str:
    """The document with what stands between its two marks as the code has it now."""
    text = path.read_text() if path.is_file() else start + end
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return before + start + part + end + after


def stale() -> list[Path]:
    """Files whose text is not what the message types say now."""
    return [path for path, text in documents().items() if not path.is_file() or path.read_text() != text]


def main(argv: list[str] | None = None) -> int:
    """Write, or with ``--check`` compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args(argv).check:
        for path in stale():
            sys.stderr.write(f"{path.name} is not current: run make docs\n")
        return 1 if stale() else 0
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
