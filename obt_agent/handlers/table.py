"""The one table of handlers."""

from __future__ import annotations

from dataclasses import dataclass

from obt_agent.command import AnyCommand
from obt_agent.handlers import (
    agent_info,
    benchmark_metrics,
    benchmark_status,
    cancel,
    chat,
    copy_model,
    create_model,
    delete_model,
    embed,
    generate,
    hardware,
    hardware_watch,
    list_models,
    load_model,
    pull_model,
    run_benchmark,
    running_models,
    show_model,
    unload_model,
)
from obt_agent.handlers.agent_info import AgentFacts
from obt_agent.hardware.service import HardwareService
from obt_agent.jobs import JobService
from obt_agent.ollama.catalog import Catalog
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate

__all__ = ["AgentFacts", "Services", "commands"]


@dataclass(frozen=True)
class Services:
    """What handlers are made from."""

    ollama: OllamaClient
    catalog: Catalog
    hardware: HardwareService
    policy: Policy
    jobs: JobService
    facts: AgentFacts


def commands(services: Services) -> tuple[AnyCommand, ...]:
    """Every command, in the order of the protocol's table."""
    ollama, catalog, policy, jobs = services.ollama, services.catalog, services.policy, services.jobs
    gate, traffic = ModelGate(policy, catalog), jobs.traffic
    return (
        list_models.make(catalog, policy),
        show_model.make(ollama, gate),
        running_models.make(ollama, catalog, policy),
        hardware.make(services.hardware, catalog),
        hardware_watch.make(services.hardware),
        generate.make(ollama, policy, gate, traffic),
        chat.make(ollama, policy, gate, traffic),
        embed.make(ollama, policy, gate, traffic),
        load_model.make(ollama, policy, gate, traffic),
        unload_model.make(ollama, policy, gate, traffic),
        run_benchmark.make(jobs, policy, gate),
        benchmark_status.make(jobs),
        benchmark_metrics.make(jobs),
        pull_model.make(jobs, policy, catalog),
        create_model.make(jobs, policy, gate),
        copy_model.make(ollama, policy, gate),
        delete_model.make(ollama, policy, gate),
        cancel.make(jobs),
        agent_info.make(services.facts, policy),
    )
