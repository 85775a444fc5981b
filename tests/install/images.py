"""Images without Docker: each instruction of the Dockerfile in a Debian 13 that stands for the base image.

A stage is a layer of files above those of its base, as in an image. What pip asks for is on the host already,
in a folder of wheels, and steps have no network: what is not locked is not found.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.install.dockerfile import Context, Copy, Run, Stage, Step
from tests.install.roots import CACHE, TRIXIE, Root
from tests.systemd.payload import ROOT

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Of the base image, and of every container without another."""
BASE_PACKAGES = "python3,python3-venv"
LAYERS, CONTEXT = "/srv/layers", "/srv/context"
_LOCKS = ("build", "server")
"""What the server needs holds what the agent does."""


class BuildHost(Root):
    """A machine whose tree is the base image's: Debian 13, its Python with venv, and nothing that builds."""

    def __init__(self, name: str, context: Path) -> None:
        self.wheels = wheels()
        folder = CACHE / f"{TRIXIE.name}-python"
        self.tree = folder / "tree"
        super().__init__(
            TRIXIE,
            name,
            init="sleep infinity",
            checkout=False,
            # The machine's own /tmp would hide a folder there.
            binds=(self.tree, self.wheels, f"{context}:{CONTEXT}"),
        )
        self.folder = folder
        self.environ |= {
            "LAB_DIR": str(folder),
            "LAB_PAYLOAD": str(self._payload),
            "LAB_PKGS": BASE_PACKAGES,
        }


def wheels() -> Path:
    """A folder with the locked wheels for the base image's Python; cached."""
    files = [ROOT / f"requirements/{name}.txt" for name in _LOCKS]
    key = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = CACHE / f"wheels-{TRIXIE.python}-{key}"
    if folder.exists():
        return folder
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    for file in files:
        words = ("download", "-qq", "--require-hashes", "--no-deps", "--only-binary", ":all:")
        place = ("--python-version", TRIXIE.python, "--dest", fresh, "--requirement", file)
        subprocess.run([sys.executable, "-m", "pip", *words, *place], check=True, timeout=600)
    fresh.rename(folder)
    return folder


def lay_out(context: Path) -> None:
    """Fill a folder with what a build sees of the checkout."""
    for name in Context(ROOT).files():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, context / name, follow_symlinks=False)


class Images:
    """The stages of a Dockerfile, built in a machine.

    Args:
        host: where.
        stages: of the Dockerfile.
        arguments: values of ``ARG``.
    """

    def __init__(self, host: BuildHost, stages: dict[str, Stage], arguments: dict[str, str]) -> None:
        self._host, self._stages, self._arguments = host, stages, arguments
        host.run(f"mkdir -p {LAYERS} && mount -t tmpfs -o mode=755,size=3G layers {LAYERS}")

    def build(self) -> None:
        """Build all, in their order."""
        for stage in self._stages.values():
            self._build(stage)

    def lower(self, name: str) -> str:
        """The layers of a stage, as an overlay's lower folders: the topmost first."""
        folders = []
        while name in self._stages:
            folders.append(f"{LAYERS}/{name}/files")
            name = self._stages[name].base
        return ":".join([*folders, str(self._host.tree)])

    def _build(self, stage: Stage) -> None:
        folder = f"{LAYERS}/{stage.name}"
        self._host.run(f"mkdir -p {folder}/files {folder}/spare {folder}/root {folder}/from")
        below = self.lower(stage.name).partition(":")[2]
        mount = f"lowerdir={below},upperdir={folder}/files,workdir={folder}/spare"
        self._host.run(f"mount -t overlay overlay -o {mount} {folder}/root")
        for step in stage.steps:
            self._take(step, stage, f"{folder}/root")
        self._host.run(f"umount {folder}/root")

    def _take(self, step: Step, stage: Stage, root: str) -> None:
        folder = step.settings.folder
        self._host.run(f"mkdir -p {root}{folder}")
        match step.action:
            case Run(script):
                self._run(script, step, stage, root)
            case Copy(sources, target, None):
                self._copy(CONTEXT, sources, target, f"{root}{folder}", root)
            case Copy(sources, target, str(other)):
                place = f"{LAYERS}/{stage.name}/from"
                self._host.run(f"mount -t overlay overlay -o ro,lowerdir={self.lower(other)} {place}")
                self._copy(place, sources, target, f"{root}{folder}", root)
                self._host.run(f"umount {place}")

    def _copy(self, source: str, names: tuple[str, ...], target: str, folder: str, root: str) -> None:
        """Copy as ``COPY`` does: of a folder what is in it, and everything belongs to root."""
        into = f"{root}{target}" if target.startswith("/") else f"{folder}/{target}"
        for name in names:
            one = shlex.quote(f"{source}/{name.strip('/')}")
            goal = shlex.quote(into)
            self._host.run(
                f"if [ -d {one} ]; then mkdir -p {goal}; set -- {one}/.; else set -- {one}; fi; "
                f'mkdir -p "$(dirname {goal})" && cp -r --preserve=mode,timestamps,links "$1" {goal}'
            )

    def _run(self, script: str, step: Step, stage: Stage, root: str) -> None:
        environ = {
            "PATH": PATH,
            "HOME": "/root",
            **{name: self._arguments.get(name, value) for name, value in stage.arguments.items()},
            **step.settings.environ,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "/mnt",
        }
        pairs = shlex.join(f"{name}={value}" for name, value in environ.items())
        user, group = step.settings.user
        inner = (
            f"set -e; mount --make-rprivate /; mount -t proc proc {root}/proc; "
            f"mount --rbind /dev {root}/dev; mount --bind {self._host.wheels} {root}/mnt; "
            f"exec chroot --userspec={user}:{group} {root} /usr/bin/env -i --chdir={step.settings.folder} "
            f"{pairs} /bin/sh -c {shlex.quote(script)}"
        )
        done = self._host.call(
            f"unshare --mount --pid --net --fork --kill-child bash -c {shlex.quote(inner)}", timeout_s=300
        )
        assert done.code == 0, f"line {step.line}: RUN {script}\nstatus {done.code}\n{done.out}\n{done.err}"
