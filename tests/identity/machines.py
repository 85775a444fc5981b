"""Roots of machines that have an id of their own, and folders to keep an agent in."""

from pathlib import Path

from obt_agent.identity.state_dir import StateDir


def machine(folder: Path, machine_id: str | None) -> Path:
    """A root with an ``/etc/machine-id``, or without one."""
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    file = folder / "etc/machine-id"
    file.unlink(missing_ok=True)
    if machine_id is not None:
        file.write_text(machine_id + "\n")
    return folder


def agent_id_at(path: Path, root: Path) -> str:
    with StateDir.open(path, root=root) as state:
        return state.agent_id
