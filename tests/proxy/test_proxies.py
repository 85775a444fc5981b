"""The configurations in deploy/proxy, each with the proxy that it is for, in front of a real server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from obt_server.auth import secrets
from obt_server.demo.environment import free_port
from obt_server.store import Database, OperatorStore
from tests.server.agent_double import dial, uuid7
from tests.server.conftest import HASHED, PASSWORD
from tests.server.process import server_process, stop

pytestmark = pytest.mark.timeout(600)  # whole programs, on a machine that may be busy

PROXIES = Path(__file__).parents[2] / "deploy" / "proxy"
MODULES = Path("/usr/lib/apache2/modules")
NAME = "localhost"
NGINX = "pid {folder}/nginx.pid; daemon off; events {{}}\nhttp {{ access_log off;\n{paths}\n{sites} }}"
NGINX_PATHS = "".join(
    f"{kind}_temp_path {{folder}}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


@dataclass
class Proxy:
    """A proxy that listens in front of a server. ``url``: where browsers and agents reach that."""

    url: str
    tls: ssl.SSLContext
    folder: Path

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, verify=self.tls, timeout=30, trust_env=False)


def certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(
                "/usr/bin/openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ),
            *("-nodes", "-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def site(file: str, port: int, upstream: int, cert: Path, key: Path) -> str:
    """The file as it is delivered, with this test's name, ports and certificate."""
    text = (PROXIES / file).read_text()
    for old, new in (
        ("/etc/ssl/obt.example.org.pem", str(cert)),
        ("/etc/ssl/obt.example.org.key", str(key)),
        ("obt.example.org {", f"https://{NAME}:{port} {{\n\ttls {cert} {key}"),
        ("obt.example.org", NAME),
        ("*:443", f"*:{port}"),
        ("listen 443", f"listen {port}"),
        ("127.0.0.1:8881", f"127.0.0.1:{upstream}"),
    ):
        text = text.replace(old, new)
    return text


def nginx(folder: Path, sites: str) -> list[str]:
    binary = shutil.which("nginx", path="/usr/sbin:/usr/bin") or pytest.skip("nginx is not installed")
    paths = NGINX_PATHS.format(folder=folder)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, paths=paths, sites=sites))
    return [binary, "-p", str(folder), "-c", str(folder / "nginx.conf")]


def by_nginx(folder: Path, port: int, upstream: int, cert: Path, key: Path) -> list[str]:
    return nginx(folder, site("nginx.conf", port, upstream, cert, key))


def by_nginx_under_a_path(folder: Path, port: int, upstream: int, cert: Path, key: Path) -> list[str]:
    location = site("nginx-path.conf", port, upstream, cert, key)
    head = f"listen {port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};"
    return nginx(folder, f"server {{ {head}\n{location}\n}}")


def by_nginx_that_leaves_the_path(folder: Path, port: int, upstream: int, cert: Path, key: Path) -> list[str]:
    command = by_nginx_under_a_path(folder, port, upstream, cert, key)
    config = folder / "nginx.conf"
    config.write_text(
        config.read_text().replace(f"http://127.0.0.1:{upstream}/;", f"http://127.0.0.1:{upstream};")
    )
    return command


def by_apache(folder: Path, port: int, upstream: int, cert: Path, key: Path) -> list[str]:
    if not MODULES.is_dir():
        pytest.skip("apache2 is not installed")
    names = ("mpm_event", "authz_core", "headers", "proxy", "proxy_http", "socache_shmcb", "ssl")
    modules = "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in names)
    head = f"ServerName {NAME}\nListen {port}\nPidFile {folder}/apache.pid\nErrorLog {folder}/apache.log\n"
    head += f"DefaultRuntimeDir {folder}\nUser www-data\nGroup www-data\n"
    (folder / "apache.conf").write_text(f"{modules}\n{head}{site('apache.conf', port, upstream, cert, key)}")
    return ["/usr/sbin/apache2", "-DFOREGROUND", "-d", str(folder), "-f", str(folder / "apache.conf")]


def by_caddy(folder: Path, port: int, upstream: int, cert: Path, key: Path) -> list[str]:
    binary = shutil.which("caddy") or pytest.skip("caddy is not installed")
    head = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"
    (folder / "Caddyfile").write_text(head + site("Caddyfile", port, upstream, cert, key))
    return [binary, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


Command = Callable[[Path, int, int, Path, Path], list[str]]


@contextlib.asynccontextmanager
async def proxied(folder: Path, command: Command, *arguments: str, path: str = "") -> AsyncIterator[Proxy]:
    """A server as a process, and the proxy before it."""
    database = Database.sqlite(folder / "obt.sqlite3")
    await OperatorStore(database).set_password("admin", HASHED, 0.0)
    database.close()
    cert, key = certificate(folder)
    port = free_port(0)
    async with server_process(
        folder / "obt.sqlite3", "--behind-proxy", "--allowed-host", NAME, *arguments
    ) as server:
        words = command(folder, port, server.port, cert, key)
        environment = {"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        process = await asyncio.create_subprocess_exec(
            *words,
            env=environment,
            cwd=folder,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        tls = ssl.create_default_context(cafile=cert)
        proxy = Proxy(f"https://{NAME}:{port}{path}", tls, folder)
        try:
            async with asyncio.timeout(60):
                while process.returncode is None:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        break
                    await asyncio.sleep(0.05)
            assert process.returncode is None, f"{words[0]} ended with status {process.returncode}"
            yield proxy
        finally:
            await stop(process)


async def sign_in(client: httpx.AsyncClient, origin: str) -> httpx.Response:
    body = {"name": "admin", "password": PASSWORD}
    return await client.post("api/v1/session", json=body, headers={"Origin": origin})


async def works(proxy: Proxy, path: str = "/") -> None:
    """A browser signs in, reads events as they come; an agent enrols, dials and answers a command."""
    origin = proxy.url.removesuffix(path.rstrip("/"))
    async with proxy.client() as client:
        page = (await client.get("")).text
        assert "<title>OBT</title>" in page
        script = re.search(r'src="\./(assets/[^"]+\.js)"', page)
        assert script is not None
        assert (await client.get(script[1])).status_code == 200
        answer = await sign_in(client, origin)
        assert answer.status_code == 200, answer.text
        cookie = answer.headers["set-cookie"]
        assert f"Path={path}" in cookie, cookie
        assert "Secure" in cookie, cookie
        made = (await client.post("api/v1/join-tokens", json={})).json()
        agent_id, secret = uuid7(), secrets.new_secret("test")
        agent = {"id": agent_id, "name": "box", "version": "1"}
        enrolled = await client.post(
            "api/v1/agents/enroll",
            headers={"Authorization": f"Bearer {made['secret']}"},
            json={"agent": agent, "secret_sha256": secrets.sha256(secret)},
        )
        assert enrolled.status_code == 200, enrolled.text
        async with (
            client.stream("GET", "api/v1/events") as events,
            dial(proxy.url, secret, agent_id, tls=proxy.tls) as double,
        ):
            await double.hello()
            async with asyncio.timeout(30):
                async for line in events.aiter_lines():
                    if line.startswith("data:") and '"presence":"online"' in line:
                        break


@pytest.mark.parametrize("command", [by_nginx, by_apache, by_caddy])
async def test_page_events_and_agents_work_behind_the_proxy(tmp_path: Path, command: Command) -> None:
    async with proxied(tmp_path, command) as proxy:
        await works(proxy)


@pytest.mark.parametrize("command", [by_nginx_under_a_path, by_nginx_that_leaves_the_path])
async def test_they_work_under_a_path_of_another_site(tmp_path: Path, command: Command) -> None:
    async with proxied(tmp_path, command, "--root-path", "/obt", path="/obt") as proxy:
        await works(proxy, "/obt/")
        async with proxy.client() as client:
            assert (await client.get(proxy.url, follow_redirects=True)).url.path == "/obt/"


def bare(folder: Path, port: int, upstream: int, cert: Path, key: Path) -> list[str]:
    """Nginx as it is without any of the settings: what most people start with."""
    head = f"listen {port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};"
    target = f"proxy_pass http://127.0.0.1:{upstream}; proxy_set_header X-Forwarded-For $remote_addr;"
    return nginx(folder, f"server {{ {head} location / {{ {target} }} }}")


async def test_a_proxy_without_its_settings_is_named_as_the_cause(tmp_path: Path) -> None:
    async with proxied(tmp_path, bare) as proxy, proxy.client() as client:
        refused = await sign_in(client, proxy.url)
        assert refused.status_code == 403
        assert "proxy_set_header Host" in refused.json()["error"]["message"]
        upgrade = await client.get("api/v1/agents/connect")
        assert upgrade.status_code == 426
        assert "Upgrade" in upgrade.json()["error"]["message"]


def test_traefiks_file_routes_to_the_server_and_keeps_the_host() -> None:
    http = yaml.safe_load((PROXIES / "traefik.yaml").read_text())["http"]
    balancer = http["services"][http["routers"]["obt"]["service"]]["loadBalancer"]
    assert balancer["passHostHeader"] is True
    assert balancer["servers"] == [{"url": "http://127.0.0.1:8881"}]
