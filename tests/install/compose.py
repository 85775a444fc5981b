"""Compose files, read as ``docker compose`` reads what is used here: variables, and one file over another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::([-?])([^}]*))?\}")


def load(*files: Path, environ: Mapping[str, str] | None = None) -> Any:
    """Return what the files say together, later ones over earlier ones, with variables put in."""
    whole: Any = {}
    for file in files:
        whole = _over(whole, yaml.safe_load(file.read_text(encoding="utf-8")))
    return _with_variables(whole, environ or {})


def variables(file: Path) -> set[str]:
    """Return the names of the variables that a file takes from whoever starts it."""
    return {found[1] for found in _VARIABLE.finditer(file.read_text(encoding="utf-8"))}


def _over(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {
            key: _over(below[key], value) if key in below else value for key, value in above.items()
        }
    # Lists of volumes, secrets and devices add up.
    return below + above if isinstance(below, list) and isinstance(above, list) else above


def _with_variables(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _with_variables(one, environ) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_variables(one, environ) for one in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        given = environ.get(match[1], "")
        if not given and match[2] == "?":
            raise ValueError(f"{match[1]} is not set: {match[3]}")
        return given or (match[3] or "" if match[2] == "-" else "")

    text = _VARIABLE.sub(found, value)
    assert "$" not in text, f"{value}: a form of variables that is not known here"
    return text
