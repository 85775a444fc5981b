"""The hardware as this process sees it: GPUs, and what hides them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from obt_agent.config.schema import Config
from obt_agent.doctor.findings import Finding, ok, warning
from obt_agent.errors import AgentError
from obt_agent.hardware.advice import advice, reason_text
from obt_agent.hardware.inventory import Inventory, ProviderState
from obt_agent.hardware.service import HardwareService


async def check(config: Config) -> AsyncIterator[Finding]:
    """Collect an inventory, and report on its sources."""
    service = HardwareService(config.hardware, ollama_url=config.ollama.url)
    # A service of its own: the running agent's sampler is another process, and is not disturbed.
    try:
        inventory = await service.inventory()
    except AgentError as error:
        yield warning("hardware.inventory", error.message, "Try again; if it stays so, see dmesg.")
        return
    finally:
        await service.close()
    for finding in findings_of(inventory):
        yield finding


def findings_of(inventory: Inventory) -> tuple[Finding, ...]:
    """Findings of an inventory. No GPU is no fault; a GPU that cannot be read is."""
    gpus = ", ".join(gpu.name or gpu.id for gpu in inventory.gpus)
    # No GPU is a machine like any other; only one that is there and cannot be read needs attention.
    found = [ok("hardware.gpus", gpus or "none found: models run on the processor")]
    return (*found, *(_provider(state) for state in inventory.providers if state.status != "absent"))


def _provider(state: ProviderState) -> Finding:
    check = f"hardware.{state.name}"
    if state.status == "ok":
        version = f", version {state.version}" if state.version else ""
        return ok(check, f"readable{version}")
    if state.status == "suspended":
        return ok(check, "asleep; nothing else is read of it, so that it stays so")
    reason = state.reason or "no reason given"
    todo = advice(state.name, reason) or "docs/reference/hardware.md lists what each source needs"
    return warning(
        check,
        f"{state.status}: {reason_text(reason)}",
        f"Measurements go on without it. To have it: {todo}.",
    )
