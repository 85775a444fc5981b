"""Proxies as programs: the configurations in deploy/proxy with a test's names and ports, and their start."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tests.server.process import stop

PROXIES = Path(__file__).parents[2] / "deploy" / "proxy"
NAME = "localhost"
FIRST_PORT = 8881
"""Of the servers in the files; the others follow it."""
_MODULES = Path("/usr/lib/apache2/modules")
_NGINX = "pid {folder}/nginx.pid; daemon off; events {{}}\nhttp {{ access_log off;\n{paths}\n{sites} }}"
_NGINX_PATHS = "".join(
    f"{kind}_temp_path {{folder}}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


@dataclass
class Proxy:
    """A proxy that listens in front of servers. ``url``: where browsers and agents reach them."""

    url: str
    tls: ssl.SSLContext
    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    def client(self, token: str = "") -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, verify=self.tls, timeout=30, trust_env=False
        )


@dataclass(frozen=True)
class Place:
    """Where a proxy is to listen, with which certificate, and what it is to stand before."""

    folder: Path
    port: int
    servers: Sequence[int]
    """Their ports on this machine."""
    under_a_path: bool = False

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def site(self, file: str) -> str:
        """The file as it is delivered, with this place's name, ports and certificate."""
        text = (PROXIES / file).read_text()
        for old, new in (
            # one file for both
            ("/etc/haproxy/obt.example.org.pem", str(self.folder / "both.pem")),
            ("/etc/ssl/obt.example.org.pem", str(self.certificate)),
            ("/etc/ssl/obt.example.org.key", str(self.key)),
            ("obt.example.org {", f"https://{NAME}:{self.port} {{\n\ttls {self.certificate} {self.key}"),
            ("obt.example.org", NAME),
            ("*:443", f"*:{self.port}"),
            ("bind :443", f"bind :{self.port}"),
            ("listen 443", f"listen {self.port}"),
        ):
            text = text.replace(old, new)
        return re.sub(
            rf"127\.0\.0\.1:({FIRST_PORT}|{FIRST_PORT + 1}|{FIRST_PORT + 2})\b",
            lambda found: f"127.0.0.1:{self.servers[int(found[1]) - FIRST_PORT]}",
            text,
        )

    def make_certificate(self) -> None:
        words = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        about = ("-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}")
        to = ("-keyout", str(self.key), "-out", str(self.certificate))
        subprocess.run(["/usr/bin/openssl", *words, *about, *to], check=True, capture_output=True)
        both = self.certificate.read_text() + self.key.read_text()
        (self.folder / "both.pem").write_text(both)


Command = Callable[[Place], list[str]]
"""Writes a configuration, and returns the words that start the proxy with it."""


def program(name: str) -> str:
    """Where a program is; without it the test is skipped."""
    return shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin") or pytest.skip(
        f"{name} is not installed"
    )


def nginx(place: Place, sites: str) -> list[str]:
    binary, file = program("nginx"), place.folder / "nginx.conf"
    paths = _NGINX_PATHS.format(folder=place.folder)
    file.write_text(_NGINX.format(folder=place.folder, paths=paths, sites=sites))
    return [binary, "-p", str(place.folder), "-c", str(file)]


def caddy(place: Place, sites: str) -> list[str]:
    binary, file = program("caddy"), place.folder / "Caddyfile"
    # At its end it would wait for idle connections.
    head = "{\n\tadmin off\n\tauto_https disable_redirects\n\tgrace_period 1s\n}\n"
    file.write_text(head + sites)
    return [binary, "run", "--adapter", "caddyfile", "--config", str(file)]


def apache(place: Place, sites: str) -> list[str]:
    binary, folder = program("apache2"), place.folder
    names = ("mpm_event", "authz_core", "headers", "proxy", "proxy_http", "socache_shmcb", "ssl")
    modules = "\n".join(f"LoadModule {name}_module {_MODULES}/mod_{name}.so" for name in names)
    head = (
        f"ServerName {NAME}\nListen {place.port}\nPidFile {folder}/apache.pid\nErrorLog {folder}/apache.log\n"
    )
    head += f"DefaultRuntimeDir {folder}\nUser www-data\nGroup www-data\n"
    (folder / "apache.conf").write_text(f"{modules}\n{head}{sites}")
    return [binary, "-DFOREGROUND", "-d", str(folder), "-f", str(folder / "apache.conf")]


def haproxy(place: Place, text: str) -> list[str]:
    binary, file = program("haproxy"), place.folder / "haproxy.cfg"
    # as many files as a container may open
    file.write_text(text.replace("maxconn 10000", "maxconn 1000"))
    return [binary, "-db", "-f", str(file)]


@contextlib.asynccontextmanager
async def listening(command: Command, place: Place, path: str = "") -> AsyncIterator[Proxy]:
    """A proxy that is started and listens; stopped at the end."""
    place.make_certificate()
    words = command(place)
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/bin",
        "HOME": str(place.folder),
        "XDG_DATA_HOME": str(place.folder),
    }
    output = (place.folder / "proxy.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        *words, env=environment, cwd=place.folder, stdout=output, stderr=output
    )
    output.close()
    try:
        async with asyncio.timeout(60):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", place.port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        said = (place.folder / "proxy.log").read_text()
        assert process.returncode is None, f"{words[0]} ended with status {process.returncode}: {said}"
        tls = ssl.create_default_context(cafile=place.certificate)
        yield Proxy(f"https://{NAME}:{place.port}{path}", tls, place.folder)
    finally:
        await stop(process)


def place_in(folder: Path, *servers: int, under_a_path: bool = False) -> Place:
    """A place at a free port."""
    return Place(folder, free_port(), servers, under_a_path=under_a_path)
