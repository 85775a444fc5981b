"""The import contracts cover the plan, and the list in pyproject.toml keeps up with the tree."""

import tomllib

from tests.project.places import ROOT

PURE = {
    "obt_agent.backoff",
    "obt_agent.benchmark.compare",
    "obt_agent.benchmark.metrics",
    "obt_agent.benchmark.plan",
    "obt_agent.benchmark.result",
    "obt_agent.benchmark.statistics",
    "obt_agent.ollama.ndjson",
    "obt_agent.protocol",
}


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_every_module_that_computes_stands_under_the_contract_of_purity() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {c["name"]: c for c in pyproject["tool"]["importlinter"]["contracts"]}
    named = set(contracts["What computes does no I/O"]["source_modules"])
    missing = {module for module in PURE if exists(module)} - named
    assert not missing, f"name these in pyproject.toml, under tool.importlinter: {sorted(missing)}"
