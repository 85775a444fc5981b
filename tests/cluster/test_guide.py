"""``docs/how-to/several-servers.md``: what it has people write is what the programs take."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import pytest
import trustme

from obt_agent.config.load import ProcessContext
from obt_server.bus.nats import NatsBus, NatsSettings
from obt_server.bus.nats_credentials import from_file
from obt_server.cli import parser
from obt_server.config.load import SERVER, load
from tests.cluster.nats import NatsServer
from tests.install.blocks import commands
from tests.waiting import until

GUIDE = "docs/how-to/several-servers.md"
CERTIFICATE, KEY = "/etc/ssl/nats.example.org.pem", "/etc/ssl/nats.example.org.key"


def configuration(block: int, folder: Path) -> str:
    """The guide's lines for NATS but for where it listens, with certificates of a test."""
    lines = commands(GUIDE, "NATS", block=block, language="text")
    assert lines[0].startswith("listen: ")
    text = "\n".join(lines[1:])
    return text.replace(CERTIFICATE, str(folder / "cert.pem")).replace(KEY, str(folder / "key.pem"))


def authority(folder: Path) -> Path:
    """Leave a certificate and its key there; gives the file of who signed it."""
    made = trustme.CA()
    issued = made.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for part in issued.cert_chain_pems:
        part.write_to_path(str(folder / "cert.pem"), append=True)
    made.cert_pem.write_to_path(str(folder / "ca.pem"))
    return folder / "ca.pem"


@pytest.mark.parametrize(("block", "scheme"), [(0, "nats"), (1, "tls")])
async def test_a_server_gets_into_the_guide_s_nats_with_the_guide_s_file_and_no_other(
    tmp_path: Path, block: int, scheme: str
) -> None:
    ca_file = str(authority(tmp_path))
    (line,) = [line for line in commands(GUIDE, "NATS") if line.startswith("echo ")]
    good = shlex.split(line)[1]
    with NatsServer(configuration(block, tmp_path)) as nats:
        for text, connected in ((good, True), ("obt:another", False)):
            file = tmp_path / "credentials"
            file.write_text(f"{text}\n")
            file.chmod(0o600)
            address = f"{scheme}://127.0.0.1:{nats.port}"
            bus = NatsBus(NatsSettings((address,), "guide", partial(from_file, file), ca_file))
            await bus.start()
            try:
                if connected:
                    await until(partial(getattr, bus, "connected"), why=lambda: str(nats.log))
                assert bus.connected is connected, nats.log
            finally:
                await bus.close()


def test_the_settings_of_replicas_are_settings_and_options() -> None:
    lines = commands(GUIDE, "Replicas", language="ini")
    given = dict(line.split("=", 1) for line in lines)
    options = shlex.split(given.pop("OPTIONS"))
    assert given.keys() <= SERVER.variables.keys() | SERVER.short_names.keys()
    config = load(None, surroundings=ProcessContext(environ=given, working_dir=Path("/"))).config
    assert config.database.address.startswith("postgresql+psycopg://")
    assert config.bus.address == "nats://127.0.0.1:4222"
    parsed = parser(("run", *options)).parse_args(["run", "--port", "8881", *options])
    assert (parsed.behind_proxy, parsed.allowed_host) == ("127.0.0.1", ["obt.example.org"])
