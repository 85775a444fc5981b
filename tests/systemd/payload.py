"""What the lab's machine is given: wheels as a user has them, a server and an Ollama to test against."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "obt-agent" / "systemd-lab"

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} … failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


def dependency_wheels() -> Path:
    """A folder with the wheels of agent and server, locked by requirements/server.txt; cached."""
    locked = ROOT / "requirements/server.txt"
    key = hashlib.sha256(locked.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / f"wheels-{key}"
    if not folder.exists():
        fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
        _run(*_PIP, "wheel", "--require-hashes", "--requirement", locked, "--wheel-dir", fresh)
        fresh.rename(folder)
    return folder


def project_wheel(into: Path) -> Path:
    """The wheel of the project as it is now."""
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", into, ROOT)
    (wheel,) = into.glob("obt_agent-*.whl")
    return wheel


def lay_out(payload: Path) -> None:
    """Fill the folder that is laid over the machine's root.

    ``/srv/wheels`` is what a user has downloaded; ``/srv/site`` runs server and stand-in.
    """
    shutil.rmtree(payload, ignore_errors=True)
    wheels = payload / "srv" / "wheels"
    wheels.parent.mkdir(parents=True)
    shutil.copytree(dependency_wheels(), wheels)
    wheel = project_wheel(wheels)
    offline = ("--no-index", "--find-links", wheels, "--no-compile")
    _run(*_PIP, "install", *offline, "--target", payload / "srv" / "site", f"{wheel}[server]")
    shutil.copytree(Path(__file__).parent / "inside", payload / "srv" / "inside")
