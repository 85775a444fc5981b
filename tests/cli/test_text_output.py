import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from obt_agent import cli as obt_agent_cli
from obt_agent.cli import COMMANDS
from obt_conformance import cli as obt_conformance_cli
from obt_server import cli as obt_server_cli
from obt_standin import Script, StandIn
from tests.cli.program import obt_agent

ASCII = {"PYTHONIOENCODING": "ascii"}
LATIN_1 = {"PYTHONIOENCODING": "latin-1"}
POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale without characters beyond ASCII, and Python kept from taking UTF-8 instead."""


@pytest.fixture(scope="session")
def en_us(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of ``LANG=en_US``, ISO-8859-1, compiled here since few machines have it."""
    localedef = shutil.which("localedef")
    if localedef is None or not Path("/usr/share/i18n/charmaps/ISO-8859-1.gz").exists():
        pytest.skip("this machine cannot compile locales")
    folder = tmp_path_factory.mktemp("locales")
    command = [localedef, "-c", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    subprocess.run(command, capture_output=True, check=False)  # it warns, and ends with 1, and writes
    return {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"}


def test_the_help_of_every_command_of_every_program_is_shown_in_ascii(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs: list[tuple[Callable[[list[str]], object], list[str]]] = [
        (obt_agent_cli.main, list(COMMANDS)),
        (obt_server_cli.main, ["run", "demo", "tokens", "operators"]),
        (obt_conformance_cli.main, ["server", "agent"]),
    ]
    for main, commands in programs:
        for words in [[], *([name] for name in commands)]:
            shown = io.BytesIO()
            monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
            with pytest.raises(SystemExit) as ended:
                main([*words, "--help"])
            assert ended.value.code == 0, words
            assert "usage: " in shown.getvalue().decode("ascii")


@pytest.mark.slow
@pytest.mark.parametrize("environ", [ASCII, LATIN_1, POSIX])
async def test_a_finished_benchmark_is_shown_whatever_the_terminal(
    environ: dict[str, str], tmp_path: Path
) -> None:
    encoding = "latin-1" if environ is LATIN_1 else "ascii"
    async with StandIn(Script(decode_tps=1000, tokens=20)) as standin:
        words = ["bench", "standin-small:latest", "--iterations", "1", "--warmup", "0"]
        words += ["--completion-tokens", "8", "--ollama-url", standin.url, "--state-dir", "s"]
        for form in ([], ["--markdown"]):
            ended = await obt_agent(tmp_path, *words, *form, encoding=encoding, **environ)
            assert ended.code == 0, ended.err
            assert "Traceback" not in ended.err
            assert "standin-small:latest" in ended.out
            assert "tok" in ended.out


@pytest.mark.slow
async def test_hardware_configuration_and_models_are_shown_in_a_locale_of_latin_1(
    en_us: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("agent: {name: Büro – 机}\n", encoding="utf-8")
    async with StandIn() as standin:
        hardware = await obt_agent(tmp_path, "hardware", encoding="latin-1", **en_us)
        config = await obt_agent(
            tmp_path, "config", "show", "--config", "a.yaml", encoding="latin-1", **en_us
        )
        models = await obt_agent(tmp_path, "models", "--ollama-url", standin.url, encoding="latin-1", **en_us)
    assert (hardware.code, config.code, models.code) == (0, 0, 0)
    assert r"Büro - \u673a" in config.out
    assert "standin-small:latest" in models.out


async def test_a_name_that_is_no_text_is_shown_on_a_utf_8_terminal(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.yaml").write_text("server: {url: https://obt.example.org}\n")
    ended = await obt_agent(tmp_path, "config", "check", "--config", "caf\udce9.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert r"caf\udce9.yaml" in ended.out
