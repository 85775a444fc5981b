"""Struct types are worked out before threads meet at them: msgspec follows a null pointer there."""

import gc
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from obt_agent.jobs.store.job_store import JobStore
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import JobSummary
from obt_agent.struct_types import prepare_all
from obt_server import app as application

# Types with others in their fields, and threads that change over at every chance.
_RACE = """
import sys, threading
import msgspec
from obt_agent.struct_types import prepare, prepare_all

sys.setswitchinterval(1e-6)

def race(number):
    fields = [("a", int | None, None), ("b", dict[str, int], {})]
    inner = [msgspec.defstruct(f"Inner{n}", fields) for n in range(30)]
    outer = msgspec.defstruct("Outer", [(f"f{n}", one | None, None) for n, one in enumerate(inner)])
    PREPARE
    together = threading.Barrier(4)

    def decode():
        together.wait()
        for _ in range(20):
            msgspec.json.decode(b'{"f29": {"a": 1}}', type=outer)

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

for number in range(100):
    race(number)
"""


def worked_out(one: type[msgspec.Struct]) -> bool:
    return any(type(part).__name__ == "StructInfo" for part in gc.get_referents(one))


@pytest.mark.parametrize("prepared", ["prepare(outer)", "prepare_all()"])
def test_threads_may_decode_a_type_that_was_prepared(prepared: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _RACE.replace("PREPARE", prepared)], check=False, timeout=60
    )
    assert ended.returncode == 0


@pytest.mark.parametrize("field", [list[int] | tuple[int, ...], "NoSuchType"])
def test_a_type_that_cannot_be_decoded_keeps_nothing_from_starting(field: object) -> None:
    undecodable = msgspec.defstruct("Undecodable", [("a", field)])
    later = msgspec.defstruct("Later", [("a", int)])
    prepare_all()
    assert worked_out(later)
    assert not worked_out(undecodable)


async def test_a_server_prepares_all_types_before_it_serves(tmp_path: Path) -> None:
    late = msgspec.defstruct("Late", [("a", int)])
    server = application.build(application.AppSettings(database=tmp_path / "obt.sqlite3"))
    try:
        assert not worked_out(late)
        async with server.app.router.lifespan_context(server.app):
            assert worked_out(late)
    finally:
        server.database.close()


def test_a_job_store_prepares_what_its_thread_decodes(tmp_path: Path) -> None:
    JobStore(tmp_path)
    assert worked_out(WireError)
    assert worked_out(JobSummary)
