"""Commands that read: lists, metadata, hardware, the agent itself."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.handlers.show_model import REMOVED, modelfile_without_paths, without_paths
from obt_standin import StandIn
from tests.handlers.bench import Bench
from tests.waiting import until


async def test_list_models_shows_what_the_policy_shows(standin: StandIn, tmp_path: Path) -> None:
    async with Bench(standin, tmp_path, models={"deny": ["standin-think"]}) as bench:
        result = await bench.result("list_models")
        names = {model["name"] for model in result["models"]}
        assert names == {"standin-small:latest", "standin-embed:latest"}
        assert result["ollama"]["reachable"] is True
        assert len(result["list_digest"]) == 64


async def test_list_models_without_refresh_answers_from_what_was_known(bench: Bench) -> None:
    await bench.standin.stop()
    result = await bench.result("list_models", refresh=False)
    assert len(result["models"]) == 3
    await bench.standin.start()


async def test_running_models_shows_what_is_loaded(bench: Bench) -> None:
    assert await bench.result("running_models") == {"models": []}
    loaded = await bench.result("load_model", model="standin-small", keep_alive=-1)
    assert loaded["loaded"] is True
    assert loaded["wall_ms"] > 0
    assert [model["name"] for model in (await bench.result("running_models"))["models"]] == [
        "standin-small:latest"
    ]
    asked = [r for r in bench.standin.requests if r.path == "/api/generate"][-1]
    assert json.loads(asked.body)["keep_alive"] == 3600, "for ever is longer than the owner allows"
    unloaded = await bench.result("unload_model", model="standin-small")
    assert unloaded["model"] == "standin-small"
    assert unloaded["wall_ms"] > 0


async def test_show_model_gives_metadata_without_the_hosts_paths(bench: Bench) -> None:
    result = await bench.result("show_model", model="STANDIN-small")
    text = json.dumps(result)
    assert "FROM sha256-" in result["modelfile"]
    assert ".ollama" not in text
    assert "/usr/" not in text
    assert result["model_info"]
    verbose = await bench.result("show_model", model="standin-small", verbose=True)
    assert len(json.dumps(verbose)) >= len(text)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("FROM /home/user/secret/model.gguf", f"FROM {REMOVED}"),
        ("from ./model.gguf", f"from {REMOVED}"),
        ("FROM ~/model.gguf", f"FROM {REMOVED}"),
        ('FROM "/with space/m.gguf"', f"FROM {REMOVED}"),
        ("ADAPTER ../lora.bin", f"ADAPTER {REMOVED}"),
        (r"FROM C:\Users\me\model.gguf", f"FROM {REMOVED}"),
        (r"FROM \\server\share\m.gguf", f"FROM {REMOVED}"),
        ("# FROM /home/user/model.gguf", f"# FROM {REMOVED}"),
        ("FROM /x/blobs/sha256-" + "a" * 64, "FROM sha256-" + "a" * 64),
        ("FROM tiny:latest", "FROM tiny:latest"),
        ("FROM registry.ollama.ai/library/tiny", "FROM registry.ollama.ai/library/tiny"),
        ("SYSTEM go /home and rest", "SYSTEM go /home and rest"),
    ],
)
def test_lines_that_name_files_of_the_host_lose_them(line: str, shown: str) -> None:
    assert modelfile_without_paths(f"# Modelfile\n{line}\nTEMPLATE x") == f"# Modelfile\n{shown}\nTEMPLATE x"


def test_a_parent_models_path_is_removed_and_the_rest_kept() -> None:
    shown = json.loads(
        without_paths(
            b'{"details":{"parent_model":"/root/x.gguf","family":"llama"},"n":1.50,"license":"/a/b"}'
        )
    )
    assert shown == {"details": {"parent_model": REMOVED, "family": "llama"}, "n": 1.5, "license": "/a/b"}
    assert json.loads(without_paths(b'{"details":null}')) == {"details": None}
    assert json.loads(without_paths(b'{"details":{}}')) == {"details": {}}


@given(st.text())
def test_whatever_the_modelfile_holds_removal_never_fails_and_is_stable(text: str) -> None:
    once = modelfile_without_paths(text)
    assert modelfile_without_paths(once) == once


async def test_hardware_gives_the_inventory_a_fresh_sample_and_obts_own_view(bench: Bench) -> None:
    result = await bench.result("hardware")
    assert result["inventory"]["fingerprint"]
    assert "sample" in result
    assert "legacy" not in result
    assert isinstance((await bench.result("hardware", legacy=True))["legacy"], dict)


async def test_hardware_watch_streams_until_cancelled_and_says_its_interval(bench: Bench) -> None:
    number = bench.send("hardware_watch", interval_ms=1)
    await until(lambda: number in bench.session.streams)
    sink = bench.session.streams[number]
    async with asyncio.timeout(30):
        await sink.has(3)
    await bench.result("cancel", id=number)
    result = await bench.session.result(number)
    assert result["interval_ms"] >= 50, "what the host allows, not what was asked"
    assert [n for _, n, _, _ in sink.samples][:3] == [1, 2, 3]
    times = [t for t, _, _, _ in sink.samples]
    assert times == sorted(times)


async def test_agent_info_tells_what_the_agent_is_and_what_it_allows(bench: Bench) -> None:
    result = await bench.result("agent_info")
    assert (result["version"], result["agent_id"], result["name"]) == ("1.2.3", "an-id", "a name")
    assert result["config"] == {"server": {"url": "wss://example.org"}}
    assert "pull_model" not in result["policy"]["commands"]
    assert result["process"] == {"cpu_s": 1.0, "rss_bytes": 2, "threads": 3}
    assert result["uptime_s"] >= 0


@pytest.mark.parametrize("text", [" " * 200_000, "\n" * 200_000, "# " * 100_000, "FROM" + " " * 200_000])
def test_a_modelfile_of_white_space_costs_linear_time(text: str) -> None:
    """Whoever made a model wrote it; the test's time limit counts: this once took the cube of its length."""
    assert modelfile_without_paths(text) == text
