"""The commands, as their users run them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

from obt_conformance import cli, report
from obt_conformance.checks import Check, CheckResult, RuleBroken, Untested, rule_verdict
from obt_conformance.deadlines import Deadlines
from obt_conformance.drivers import Caller, CommandDriver
from obt_conformance.identity import KitIdentity, NoIdentity, Pool, parse_credentials
from obt_conformance.run import check_server, left_out, run_check, select_checks
from obt_conformance.server_harness import ServerHarness
from obt_conformance.server_rules import CHECKS
from obt_standin import StandIn
from tests.conformance.agent_process import running_agent
from tests.ports import free_port
from tests.server.conftest import Running, running
from tests.waiting import until


async def program(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import sys; from obt_conformance.cli import main; sys.exit(main())"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(110):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def api_token(server: Running, folder: Path) -> Path:
    path = folder / "api-token"
    path.write_text(server.http.headers["Authorization"].removeprefix("Bearer ") + "\n")
    return path


async def test_a_server_is_checked_by_its_api_token_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        token = str(api_token(server, tmp_path))
        status, output = await program(
            *("server", server.url, "--obt-server-api-token-file", token, "--quick", "--json"),
            *("--only", "HELLO-1,HELLO-2,STREAM-1,ENROL-1"),
        )
    assert status == 0, output
    rules = json.loads(output)["rules"]
    assert {name: rule["verdict"] for name, rule in rules.items()} == {
        "HELLO-1": "pass",
        "HELLO-2": "pass",
        "STREAM-1": "pass",
        "ENROL-1": "pass",
    }
    assert "left out by --quick" in output


@pytest.mark.slow
async def test_a_server_is_checked_by_a_credential_and_what_needs_a_trigger_is_not_tested(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as server:
        agent_id, secret = await server.enrol()
        tokens = tmp_path / "tokens"
        tokens.write_text(f"{secret}\n")
        status, output = await program(
            *("server", server.url, "--token-file", str(tokens), "--agent-id", agent_id),
            *("--only", "JOB-4,STREAM-1,ENROL-1,CMD-1"),
        )
    assert status == 0, output
    assert "pass        JOB-4" in output
    assert "not tested  STREAM-1" in output
    assert "give --trigger" in output
    assert "not tested  ENROL-1" in output
    assert "2 rules kept, 0 broken, 2 not tested" in output


# What the author of a server would write for ``--trigger`` and ``--query``.
SEND = """
import json, sys, urllib.request
url, token, agent, method, params = sys.argv[1:]
path = f"{url}/api/v1/agents/{agent}/commands/{method}"
if method == "run_benchmark":
    path, params = f"{url}/api/v1/benchmarks", json.dumps({"agent": agent, "plan": json.loads(params)})
head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
text = urllib.request.urlopen(urllib.request.Request(path, params.encode(), head)).read().decode()
sys.exit(0 if method == "run_benchmark" or "event: final" in text else 1)
"""
LOOK = """
import json, sys, urllib.error, urllib.request
url, token, what, agent, job = sys.argv[1:]
def get(path):
    request = urllib.request.Request(f"{url}/api/v1{path}", headers={"Authorization": f"Bearer {token}"})
    return json.load(urllib.request.urlopen(request))
if what == "models":
    print(json.dumps([model["name"] for model in get(f"/agents/{agent}/models")]))
else:
    shown = {"state": get(f"/benchmarks/{job}")["state"]}
    try:
        shown["result"] = get(f"/benchmarks/{job}/result")
    except urllib.error.HTTPError:
        pass
    print(json.dumps(shown))
"""


@pytest.mark.slow
async def test_a_servers_author_gives_commands_to_make_it_act_and_to_look_at_what_it_stored(
    tmp_path: Path,
) -> None:
    send, look = tmp_path / "send.py", tmp_path / "look.py"
    send.write_text(SEND)
    look.write_text(LOOK)
    async with running(tmp_path) as server:
        agent_id, secret = await server.enrol()
        tokens = tmp_path / "tokens"
        tokens.write_text(f"{agent_id} {secret}\n")
        token = api_token(server, tmp_path).read_text().strip()
        to = f"{server.url} {token}"
        trigger = f"{sys.executable} {send} {to} {{agent_id}} {{method}} {{params}}"
        query = f"{sys.executable} {look} {to} {{what}} {{agent_id}} {{job_id}}"
        status, output = await program(
            *("server", server.url, "--token-file", str(tokens), "--trigger", trigger, "--query", query),
            *("--only", "STREAM-1,CMD-2,CMD-5,HELLO-6,SYNC-1,CREDIT-4,JOB-3,JOB-5"),
        )
    assert status == 0, output
    assert "8 rules kept, 0 broken, 0 not tested" in output
    assert output.count("not tested: ") == 1, "the restart alone was not possible"
    assert "give --restart" in output


async def test_the_command_that_restarts_a_server_is_run_to_its_end(tmp_path: Path) -> None:
    done = tmp_path / "done"
    await CommandDriver(restart=f"touch {done}").restart()
    assert done.exists()
    with pytest.raises(Untested, match="ended with a failure"):
        await CommandDriver(restart="false").restart()
    with pytest.raises(Untested, match="give --restart"):
        await CommandDriver().restart()


async def test_the_kit_notices_how_late_the_machine_is_and_bears_as_much() -> None:
    harness = ServerHarness("http://127.0.0.1:1", KitIdentity(), Deadlines())
    measuring = asyncio.create_task(harness.lateness.run())
    before = harness.slack_s
    await asyncio.sleep(0)
    time.sleep(0.4)  # what a machine does that has no time for this process
    await until(lambda: harness.lateness.worst_s > 0.2)
    measuring.cancel()
    assert harness.slack_s > before + 1


@pytest.mark.slow
async def test_an_agent_is_checked_that_dials_the_given_port(tmp_path: Path, standin: StandIn) -> None:
    port = free_port()
    checking = asyncio.create_task(
        program("agent", "--listen", f"127.0.0.1:{port}", "--only", "TRANSPORT-1,CMD-1", "--quick")
    )
    async with running_agent(tmp_path, f"http://127.0.0.1:{port}", standin.url, module="obt_agent"):
        status, output = await checking
    assert status == 0, output
    assert "2 rules kept, 0 broken, 0 not tested" in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["server", "http://127.0.0.1:1"], "Give --token-file"),
        (["server", "http://127.0.0.1:1", "--only", "NO-1"], "No rule NO-1"),
        (["agent", "--within", "0.01"], "no agent dialled"),
        (["agent", "--only", "NO-1"], "No rule NO-1"),
        (["server", "http://127.0.0.1:1", "--token-file", "/nowhere"], "nowhere"),
    ],
)
def test_what_cannot_run_says_why(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == cli.USAGE
    assert says in capsys.readouterr().err


def test_join_tokens_at_a_server_that_is_not_there_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joins = tmp_path / "joins"
    joins.write_text("one\ntwo\nthree\n")
    assert cli.main(["server", "http://127.0.0.1:1", "--join-token-file", str(joins)]) == cli.USAGE
    assert "Enrolment failed" in capsys.readouterr().err


def test_a_file_of_credentials_is_read_or_refused() -> None:
    assert parse_credentials("id-1 s1\n\nid-2 s2\n", None)[1].secret == "s2"
    assert parse_credentials("s1", "id-1")[0].agent_id == "id-1"
    for wrong in ("s1", "a b c"):
        with pytest.raises(NoIdentity):
            parse_credentials(wrong, None)
    assert "s1" not in repr(KitIdentity("id-1", "s1"))


async def test_every_way_a_check_ends_is_a_finding() -> None:
    async def ending(error: Exception | None) -> str:
        if error is not None:
            raise error
        return "seen"

    async def never(_: None) -> str:
        await asyncio.Event().wait()
        return ""

    found = [
        (await run_check(Check("R", "t", ending), error, limit_s=5)).verdict
        for error in (None, RuleBroken("f"), Untested("u"), KeyError("k"))
    ]
    assert found == ["pass", "fail", "not tested", "fail"]
    assert (await run_check(Check("R", "t", never), None, limit_s=0.01)).verdict == "fail"
    assert left_out(Check("R", "t", never, 60.0)).verdict == "not tested"


def test_one_failure_fails_a_rule_and_nothing_tried_is_no_success() -> None:
    kept = CheckResult("R", "t", "pass", "", 0.0)
    broken, untried = CheckResult("R", "t", "fail", "", 0.0), CheckResult("R", "t", "not tested", "", 0.0)
    assert rule_verdict([kept, broken, untried]) == "fail"
    assert rule_verdict([kept, untried]) == "pass"
    assert report.exit_code([kept, broken]) == 1
    assert report.exit_code([untried]) == 3


@pytest.mark.slow
async def test_a_trigger_that_does_not_end_when_told_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        'part = pathlib.Path(sys.argv[2] + ".part"); part.write_text(str(os.getpid())); '
        "part.rename(sys.argv[2]); time.sleep(60)"
    )
    driver = CommandDriver(f"{sys.executable} -c '{code}' {{agent_id}} {tmp_path / 'started'}")
    async with asyncio.timeout(60):
        call = asyncio.create_task(driver.call("generate", "a", Caller()))
        await until((tmp_path / "started").exists)
        call.cancel()
        await asyncio.wait([call])
    pid = int((tmp_path / "started").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Untested, match="--query"):
        await driver.job("a", "j")


async def test_a_server_that_is_not_there_breaks_rules_and_hangs_nothing() -> None:
    deadlines = Deadlines(answer_s=1.0, check_s=5.0)
    results = await check_server(
        select_checks(CHECKS, ["CMD-1"]),
        Pool([KitIdentity("a", "s")]),
        "http://127.0.0.1:1",
        deadlines=deadlines,
        driver=None,
        join_tokens=[],
    )
    assert [result.verdict for result in results] == ["fail"]
    assert "refused" in results[0].detail
