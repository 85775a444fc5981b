import json
from pathlib import Path

import pytest

from obt_agent.cli import exit_codes
from obt_agent.cli.models import loaded_text, size_text
from obt_agent.ollama.payloads import RunningModel
from obt_standin import StandIn
from obt_standin.script import Script
from tests.cli.program import in_process


async def test_the_models_of_ollama_are_a_table_or_json(tmp_path: Path, standin: StandIn) -> None:
    words = ["models", "--ollama-url", standin.url]
    table = await in_process(tmp_path, *words)
    assert table.code == 0, table.err
    whole = json.loads((await in_process(tmp_path, *words, "--json")).out)
    assert whole["models"]
    assert f"Ollama {whole['ollama_version']}" in table.out
    for model in whole["models"]:
        assert model["name"] in table.out
        assert model["digest"].removeprefix("sha256:")[:12] in table.out


# FORCE_COLOR: what a terminal alone shows.
@pytest.mark.parametrize(
    "environment",
    [{"COLUMNS": "20"}, {"COLUMNS": "80"}, {"COLUMNS": "160"}, {"TERM": "dumb", "FORCE_COLOR": "1"}],
    ids=["20", "80", "160", "dumb"],
)
async def test_no_name_is_broken_however_narrow_the_terminal(
    tmp_path: Path, standin: StandIn, environment: dict[str, str]
) -> None:
    words = ["models", "--ollama-url", standin.url]
    table = (await in_process(tmp_path, *words, **environment)).out
    for model in json.loads((await in_process(tmp_path, *words, "--json")).out)["models"]:
        assert model["name"] in table
        assert model["digest"].removeprefix("sha256:")[:12] in table


async def test_without_models_it_says_how_to_get_one(tmp_path: Path) -> None:
    async with StandIn(Script(models=[])) as empty:
        ended = await in_process(tmp_path, "models", "--ollama-url", empty.url)
    assert (ended.code, ended.out) == (0, "")
    assert "has no models. Get a small one with: ollama pull" in ended.err


async def test_without_ollama_it_says_what_to_do_and_ends_69(tmp_path: Path) -> None:
    ended = await in_process(tmp_path, "models", OLLAMA_URL="127.0.0.1:9")
    assert (ended.code, ended.out) == (exit_codes.UNAVAILABLE, "")
    assert "Nothing answers at http://127.0.0.1:9" in ended.err
    assert "ollama serve" in ended.err


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1 << 10, "1.0 KiB"), (1_400_000_000, "1.3 GiB"), (1 << 52, "4096.0 TiB")],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


def test_where_a_loaded_model_lies_is_said_in_one_word() -> None:
    model = RunningModel(name="a", digest="b", size_bytes=1 << 30, size_vram_bytes=1 << 29)
    assert loaded_text(model) == "1.0 GiB, 50 % GPU"
    assert loaded_text(RunningModel(name="a", digest="b", size_bytes=0, size_vram_bytes=0)) == "0 B"
    assert loaded_text(None) == ""
