"""Measures the example of a benchmark's result anew: ``python docs/example.py``.

A real run of the real code with the real hardware readers, against the stand-in for Ollama. Written are
``examples/benchmark-result.json`` and the same in OBT's own form. A test holds both against today's code and
says when this is to be run again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import msgspec

from obt_agent.benchmark.obt_format import to_obt
from obt_agent.benchmark.presets import preset, shape
from obt_agent.benchmark.records import NullJournal
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.benchmark.run import BenchmarkRun
from obt_agent.config.schema import HardwareConfig, OllamaConfig
from obt_agent.hardware.service import HardwareService
from obt_agent.ollama.client import OllamaClient
from obt_standin import Script, StandIn

HERE = Path(__file__).resolve().parent / "examples"
SCRIPT = Script(decode_tps=200, prefill_tps=5000, load_s=0.4)


async def measured() -> BenchmarkResult:
    """One short run of the standard preset's kind."""
    plan = preset(
        "standard",
        "standin-small",
        prompts=(shape("64:32"),),
        num_iterations=4,
        max_iterations=6,
        min_duration_s=1.0,
        cooldown_s=0.0,
    )
    async with StandIn(SCRIPT) as standin:
        hardware = HardwareService(HardwareConfig(), ollama_url=standin.url)
        await hardware.start()
        try:
            async with OllamaClient(OllamaConfig(url=standin.url)) as ollama:
                run = BenchmarkRun(
                    plan,
                    job_id=str(uuid4()),
                    client_id="example",
                    ollama=ollama,
                    hardware=hardware,
                    journal=NullJournal(),
                    on_progress=lambda _: None,
                )
                return await run.execute()
        finally:
            await hardware.close()


def main() -> None:
    """Measure, and write both files."""
    result = asyncio.run(measured())
    for name, what in (("benchmark-result.json", result), ("benchmark-result.obt.json", to_obt(result))):
        text = msgspec.json.format(msgspec.json.encode(what), indent=1)
        (HERE / name).write_bytes(text + b"\n")


if __name__ == "__main__":
    main()
