"""The commands about campaigns and schedules, as programs that ask a running server."""

from __future__ import annotations

import asyncio
import socket
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from obt_agent.errors import NotPermitted, OllamaError
from tests.campaigns.machines import (
    MODELS,
    ONE,
    QUICK,
    MeasuringMachine,
    begin,
    connected,
    measuring,
    until_over,
    until_shown,
)
from tests.server.commands import answer, ended, obt, started
from tests.server.conftest import Running, running
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path / "server", campaigns=QUICK) as one:
        yield one


@pytest.fixture
async def lab(quick: Running) -> AsyncIterator[list[MeasuringMachine]]:
    """Two machines that measure."""
    some = await measuring(quick, 2)
    async with connected(quick, [*some]):
        yield some


@pytest.fixture
def file(tmp_path: Path) -> str:
    """One model and one plan on every machine."""
    content = {"name": "nightly", **ONE, "targets": {"all": True}}
    content["schedule"] = {"cron": "30 2 * * *", "time_zone": "Europe/Berlin"}
    path = tmp_path / "nightly.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


async def listed(server: Running) -> list[dict[str, Any]]:
    """Campaigns, the newest first; each program takes a second to start, and a request nothing."""
    found: list[dict[str, Any]] = (await server.http.get("/api/v1/campaigns")).json()
    return found


async def test_a_campaign_is_run_from_a_file_waited_for_and_written_down(
    quick: Running, lab: list[MeasuringMachine], file: str, tmp_path: Path
) -> None:
    preview = await obt(quick, "campaigns", "run", file, "--preview")
    assert preview.status == 0, preview
    assert [line.split()[:4] for line in preview.output.splitlines()[1:3]] == [
        ["m0", MODELS[0], "A", "run"],
        ["m1", MODELS[0], "A", "run"],
    ]
    assert await listed(quick) == []
    junit, page = tmp_path / "n.xml", tmp_path / "n.md"
    done = await obt(
        quick, "campaigns", "run", file, "--wait", "--junit", str(junit), "--markdown", str(page)
    )
    assert done.status == 0, done
    # It is the first night.
    assert done.output.splitlines()[-1].startswith("nightly: 2 of 2 cells measured, none ")
    # What happens is said as it happens, apart from the result.
    for name in ("m0", "m1"):
        assert f"/2] {name}, {MODELS[0]}, A: done 50\n" in done.errors
    root = ET.parse(junit).getroot()  # noqa: S314 - the command's own
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in root] == [
        ("m0", "1", "0"),
        ("m1", "1", "0"),
    ]
    assert page.read_text().startswith("# nightly: 2 of 2 cells measured")
    (begun,) = await listed(quick)
    shown = await answer(quick, "campaigns", "show", begun["id"])
    assert (shown["name"], shown["counts"]["done"], len(shown["verdicts_of_cells"])) == ("nightly", 2, 2)
    assert [sum(machine.started.values()) for machine in lab] == [1, 1]


async def test_what_happened_before_the_news_began_is_told_too(
    quick: Running, lab: list[MeasuringMachine], file: str
) -> None:
    words = ("campaigns", "run", file, "--wait", "--key", "tonight")
    assert (await obt(quick, *words)).status == 0
    # The same campaign, of which there is no news any more.
    again = await obt(quick, *words)
    assert again.status == 0, again
    for name in ("m0", "m1"):
        assert f" [2/2] {name}, {MODELS[0]}, A: done 50\n" in again.errors
    assert [sum(machine.started.values()) for machine in lab] == [1, 1]


async def test_what_became_slower_is_exit_status_1_and_a_failure(
    quick: Running, lab: list[MeasuringMachine], file: str, tmp_path: Path
) -> None:
    for _ in range(8):
        await until_over(quick, (await begin(quick, **ONE))["id"])
    lab[1].speed = 40.0
    # A single slow night may be chance: the next one decides.
    await until_over(quick, (await begin(quick, **ONE))["id"])
    junit = tmp_path / "n.xml"
    done = await obt(quick, "campaigns", "run", file, "--wait", "--junit", str(junit))
    assert done.status == 1, done
    assert "1 slower" in done.output.splitlines()[-1]
    (failure,) = ET.parse(junit).getroot().iter("failure")  # noqa: S314 - the command's own
    assert failure.get("type") == "slower"
    (begun, *_) = await listed(quick)
    assert (await obt(quick, "campaigns", "verdicts", begun["id"])).status == 1


async def test_a_cell_without_a_result_is_exit_status_3_and_is_measured_again(
    quick: Running, lab: list[MeasuringMachine], file: str
) -> None:
    lab[0].broken = OllamaError("Ollama went away.", retryable=False)
    done = await obt(quick, "campaigns", "run", file, "--wait")
    assert done.status == 3, done
    assert "Ollama went away." in done.output
    assert "1 of 2 cells measured" in done.output
    lab[0].broken = None
    (begun,) = await listed(quick)
    again = await obt(quick, "campaigns", "rerun", begun["id"])
    assert again.status == 0, again
    await until_shown(quick, begun["id"], lambda view: view["counts"]["done"] == 2)
    assert [sum(machine.started.values()) for machine in lab] == [2, 1]


async def test_a_refusal_shows_the_line_that_would_allow_it(
    quick: Running, lab: list[MeasuringMachine], file: str
) -> None:
    for machine in lab:
        machine.busy = NotPermitted(
            "The host's owner denies run_benchmark.", policy_key="policy.commands.deny"
        )
    done = await obt(quick, "campaigns", "run", file, "--wait")
    assert done.status == 3, done
    assert "The host's owner denies run_benchmark." in done.output


async def test_a_campaign_is_cancelled_and_forgotten(
    quick: Running, lab: list[MeasuringMachine], file: str
) -> None:
    for machine in lab:
        machine.measures = False
    begun = await answer(quick, "campaigns", "run", file, "--key", "tonight")
    for machine in lab:
        await machine.until_measuring()
    assert (await answer(quick, "campaigns", "run", file, "--key", "tonight"))["id"] == begun["id"]
    (running_,) = await answer(quick, "campaigns", "list", "--running")
    assert running_["id"] == begun["id"]
    await answer(quick, "campaigns", "cancel", begun["id"])
    view = await until_over(quick, begun["id"])
    assert view["state"] == "cancelled"
    assert (await obt(quick, "campaigns", "delete", begun["id"])).status == 0
    assert await listed(quick) == []


async def test_machines_are_added_to_a_campaign_that_runs(
    quick: Running, lab: list[MeasuringMachine], file: str
) -> None:
    lab[0].measures = False
    begun = await begin(quick, **ONE, targets={"agents": ["m0"]})
    await lab[0].until_measuring()
    nobody = await obt(quick, "campaigns", "add", begun["id"])
    assert (nobody.status, "name machines: --agent, --label or --all" in nobody.errors) == (2, True), nobody
    added = await answer(quick, "campaigns", "add", begun["id"], "--agent", "m1")
    assert [one["name"] for one in added["agents"]] == ["m0", "m1"]
    await until_shown(quick, begun["id"], lambda view: view["counts"]["done"] == 1)
    assert (len(lab[0].open_benchmarks()), len(lab[1].benchmarks)) == (1, 1)
    await lab[0].finish_benchmark()
    assert (await until_over(quick, begun["id"]))["counts"]["done"] == 2


async def test_a_pull_is_told_in_steps_while_a_campaign_is_waited_for(quick: Running, file: str) -> None:
    (machine,) = await measuring(quick, 1, models={}, at_once=False)
    asked = yaml.safe_load(Path(file).read_text()) | {"pull_missing": True}
    Path(file).write_text(yaml.safe_dump(asked))
    async with connected(quick, [machine]):
        process = await started(quick, "campaigns", "run", file, "--wait")
        await until(lambda: machine.jobs)
        assert process.stderr is not None
        said = b""
        for much in (310, 320, 660):
            await machine.say_progress(phase="pulling", completed_bytes=much * 10**6, total_bytes=10**9)
            async with asyncio.timeout(30):
                while f"({much // 100}0 % of 1 GB)".encode() not in said:
                    said += await process.stderr.readline()
        assert said.count(b"% of 1 GB)") == 2
        await machine.finish_pull(name=MODELS[0])
        assert (await ended(process)).status == 0


async def test_results_are_pinned_listed_and_released(quick: Running, lab: list[MeasuringMachine]) -> None:
    begun = await begin(quick, models=MODELS[:1])
    cells = (await until_over(quick, begun["id"]))["cells"]
    pinned = await answer(quick, "baselines", "pin", cells[0]["job_id"])
    line = {name: cells[0][name] for name in ("agent_id", "plan_hash", "job_id")}
    assert [{name: one[name] for name in line} for one in pinned] == [line]
    every = await answer(quick, "baselines", "pin", "--campaign", begun["id"])
    assert {one["job_id"] for one in every} == {one["job_id"] for one in cells}
    assert len(every) == 4
    table = await obt(quick, "baselines", "list", "--agent", "m1", "--plan", cells[0]["plan_hash"][:8])
    assert [line.split()[:3] for line in table.output.splitlines()[1:]] == [
        ["m1", MODELS[0], cells[0]["plan_hash"][:12]]
    ]
    gone = await answer(quick, "baselines", "release", "--agent", "m1")
    assert {one["agent_id"] for one in gone} == {lab[1].id}
    assert {one["agent_id"] for one in await answer(quick, "baselines", "list")} == {lab[0].id}
    for words, why in (
        (("release",), "say which: --agent, --model, --plan, or --all"),
        (("release", "--agent", "m1"), "no such result is pinned"),
        (("pin",), "name a result, or a campaign with --campaign"),
        (("pin", "nothing"), "not_found"),
        (("pin", "--campaign", begun["id"], "--agent", "m9"), "has no such result"),
    ):
        refused = await obt(quick, "baselines", *words)
        assert (refused.status, why in refused.errors) == (2, True), refused


async def test_regressions_are_listed_acknowledged_and_opened_again(
    quick: Running, lab: list[MeasuringMachine]
) -> None:
    view: dict[str, Any] = {}
    for speed in (*[50.0] * 8, 40.0, 40.0):
        lab[1].speed = speed
        view = await until_shown(
            quick, (await begin(quick, **ONE))["id"], lambda view: view["verdicts"] is not None
        )
    (slow,) = await answer(quick, "regressions", "list")
    table = await obt(quick, "campaigns", "matrix", view["id"], "--metric", "decode_tps_corrected")
    assert [line.split()[0] for line in table.output.splitlines() if "  slower" in line] == ["m1"]
    listed_ = await obt(quick, "regressions", "list", "--agent", "m1")
    assert listed_.output.splitlines()[1].split()[:3] == [str(slow["id"]), "m1", MODELS[0]]
    assert "-20.0 %" in listed_.output
    known = await answer(quick, "regressions", "acknowledge", str(slow["id"]), "--note", "a new fan")
    assert known[0]["acknowledged"]["note"] == "a new fan"
    assert await answer(quick, "regressions", "list") == []
    assert "acknowledged by admin: a new fan" in (await obt(quick, "regressions", "list", "--all")).output
    assert (await obt(quick, "regressions", "reopen", str(slow["id"]))).status == 0
    assert len(await answer(quick, "regressions", "list")) == 1
    unknown = await obt(quick, "regressions", "acknowledge", "999")
    assert (unknown.status, "There is no regression 999." in unknown.errors) == (2, True)


async def test_waiting_outlives_a_restart_of_the_server(tmp_path: Path, file: str) -> None:
    async with running(tmp_path / "server", campaigns=QUICK) as before:
        port = int(before.url.rpartition(":")[2])
        (machine,) = await measuring(before, 1, measures=False)
        async with connected(before, [machine]):
            process = await started(before, "campaigns", "run", file, "--wait")
            await machine.until_measuring()
    async with running(tmp_path / "server", campaigns=QUICK, port=port) as after, connected(after, [machine]):
        await machine.finish_benchmark()
        done = await ended(process)
    assert done.status == 0, done
    assert "1 of 1 cells measured" in done.output


async def test_a_mistake_in_the_file_and_a_server_that_is_away_have_statuses_of_their_own(
    quick: Running, tmp_path: Path, file: str
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: n\nplans: [quick]\nmodles: [m]\ntargets: {all: true}\n")
    done = await obt(quick, "campaigns", "run", str(wrong))
    assert (
        done.status,
        "wrong.yaml:3: modles: there is no such key; did you mean models?" in done.errors,
    ) == (
        2,
        True,
    ), done
    unknown = await obt(quick, "campaigns", "show", "nothing")
    assert unknown.status == 2, unknown
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        away = await obt(quick, "campaigns", "run", file, "--wait", "--url", url)
    assert (away.status, "does not answer" in away.errors) == (4, True), away


async def test_a_schedule_is_kept_paused_and_run(
    quick: Running, lab: list[MeasuringMachine], file: str
) -> None:
    kept = await answer(quick, "schedules", "apply", file)
    assert (kept["name"], kept["cron"], len(kept["next"])) == ("nightly", "30 2 * * *", 5)
    paused = await obt(quick, "schedules", "pause", "nightly", "--reason", "the fans are being changed")
    assert paused.status == 0, paused
    table = await obt(quick, "schedules", "list")
    assert "paused by admin: the fans are being changed" in table.output
    assert (await answer(quick, "schedules", "resume", "nightly"))["paused"] is None
    ran = await answer(quick, "schedules", "run", "nightly")
    view = await until_over(quick, ran["last"]["campaign_id"])
    assert (view["schedule"], view["counts"]["done"]) == ("nightly", 2)
    runs = await obt(quick, "schedules", "show", "nightly")
    assert view["id"] in runs.output
    assert (await obt(quick, "schedules", "delete", "nightly")).status == 0
    assert (await quick.http.get("/api/v1/schedules")).json() == []
