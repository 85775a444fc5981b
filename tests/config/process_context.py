"""Surroundings for ``load`` that hold nothing but what a test puts there."""

from collections.abc import Mapping
from pathlib import Path

from obt_agent.config.load import LoadedConfig, ProcessContext, load
from obt_agent.config.problems import WrongConfig


def around(
    folder: Path, environ: Mapping[str, str] | None = None, *, terminal: bool = False, user: int = 1000
) -> ProcessContext:
    return ProcessContext(
        environ={"HOME": str(folder / "home"), **(environ or {})},
        working_dir=folder,
        terminal=terminal,
        user=user,
        pid=100,
        host_name="gpu-box",
    )


def written(folder: Path, text: str | bytes, name: str = "agent.yaml") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def loaded(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> LoadedConfig:
    return load(written(folder, text), surroundings=around(folder, environ))


def problems(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
    """The lines of the error, without the folder's name; an empty list where there is none."""
    try:
        loaded(folder, text, environ)
    except WrongConfig as error:
        return [str(problem).replace(f"{folder}/", "") for problem in error.problems]
    return []
