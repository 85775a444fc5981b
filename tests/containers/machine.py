"""A machine of Debian 13 with Docker and Compose, and the images that the compose files name.

No registry is asked: images come from Debian's packages and from the locked wheels. What Docker keeps stays
in a folder of the host, so that the next run builds what has changed.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from tests.install.images import BASE_PACKAGES, wheels
from tests.install.roots import BOOKWORM, CACHE, CHECKOUT, TRIXIE, USER, Release, Root

PACKAGES = "docker.io,docker-cli,docker-compose,docker-buildx,iptables,git,sudo,openssl,curl,ca-certificates"
IMAGES = ("postgres:15-bookworm", "nats:2.9-alpine", "haproxy:2.6-bookworm", "python:3.13-slim-trixie")
"""What the files take from a registry."""
_TREES = {
    "debian-python": (TRIXIE, "python", BASE_PACKAGES),
    "debian-services": (BOOKWORM, "services", "postgresql-15,nats-server,haproxy"),
}
HOME = f"/home/{USER}/obt-agent"
_INIT = "mount -o remount,bind,rw /proc/sys; mount -o remount,rw /sys; dockerd > /run/dockerd.log 2>&1"
"""Both are read-only in other machines; Docker sets up networks and control groups there."""


class Tree(Root):
    """The tree of a release with some packages, made once; it is not booted."""

    def __init__(self, release: Release, name: str, packages: str) -> None:
        super().__init__(release, name, checkout=False)
        self.folder = CACHE / f"{release.name}-{name}"
        self.environ |= {"LAB_DIR": str(self.folder), "LAB_PKGS": packages}

    def make(self) -> Path:
        """Make it where it is not there yet, which takes a minute or two."""
        done = self._script("boot.sh", "--tree", timeout_s=900)
        assert done.code == 0, done.err
        return self.folder / "tree"


class DockerMachine(Root):
    """A newcomer's machine: a user who may call Docker, and a checkout."""

    def __init__(self) -> None:
        trees = {name: Tree(*of).make() for name, of in _TREES.items()}
        folder = CACHE / f"{TRIXIE.name}-docker"
        kept = folder / "lib"
        kept.mkdir(parents=True, exist_ok=True)
        # Docker starts again what ran when the last machine ended.
        for name in ("containers", "network", "volumes"):
            shutil.rmtree(kept / name, ignore_errors=True)
        super().__init__(
            TRIXIE,
            "docker",
            init=_INIT,
            # Elsewhere than here: the machine's own /tmp would hide what lies there.
            binds=(
                *(f"{tree}:/srv/{name}" for name, tree in trees.items()),
                f"{wheels()}:/srv/wheels",
                f"{Path(__file__).with_name('images')}:/srv/images",
                f"{kept}:/var/lib/docker",
            ),
        )
        self.folder = folder
        self.environ |= {"LAB_DIR": str(folder), "LAB_PAYLOAD": str(self._payload), "LAB_PKGS": PACKAGES}

    def start(self) -> None:
        """Wait for Docker, see to the images, clone the checkout."""
        self.run("until docker info > /run/info 2>&1; do sleep 0.2; done")
        self.run("docker image prune --force")
        for name in _TREES:
            import_it = f"tar -C /srv/{name} -c . | docker import - {name}"
            self.run(f"docker image inspect {name} > /dev/null 2>&1 || {import_it}", timeout_s=300)
        for image in IMAGES:
            words = f"--target {image.partition(':')[0]} --build-context wheels=/srv/wheels /srv/images"
            self.run(f"docker buildx build --quiet --tag {image} {words}", timeout_s=300)
        self.add_user()
        self.run(f"usermod --append --groups docker {USER}")
        self.user(f"git clone --quiet {CHECKOUT} {HOME}")

    def user(self, command: str, *, text: str | None = None, timeout_s: float = 60) -> str:
        """Run a command as the user, who keeps new files private."""
        words = f"umask 077; cd {HOME} 2> /dev/null || cd; {command}"
        return self.run(
            f"exec su - {USER} -c {shlex.quote(f'bash -ec {shlex.quote(words)}')}",
            text=text,
            timeout_s=timeout_s,
        )
