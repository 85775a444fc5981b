"""The event loop that a server runs on."""

import sys
from pathlib import Path

import httpx
import pytest

from tests.server.process import server_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uvloop is installed on Linux alone")


@pytest.mark.parametrize("installed", [True, False], ids=["uvloop", "without it"])
async def test_a_server_runs_on_uvloop_where_that_is_installed(tmp_path: Path, *, installed: bool) -> None:
    # Found before the environment's own, and not to be imported.
    (tmp_path / "uvloop.py").write_text("" if installed else "raise ImportError('not here')")
    before = () if installed else ("env", f"PYTHONPATH={tmp_path}")
    async with server_process(tmp_path / "server.sqlite3", before=before) as server:
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
        assert ("/uvloop/loop" in mapped) == installed
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert (await http.get("/readyz")).status_code == 200
