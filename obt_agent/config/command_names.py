"""Names of the commands, written by ``make docs`` from ``obt_agent.protocol.methods``."""

from typing import Final, Literal

READ_AND_RUN: Final = (
    "list_models",
    "show_model",
    "running_models",
    "hardware",
    "hardware_watch",
    "generate",
    "chat",
    "embed",
    "load_model",
    "unload_model",
    "run_benchmark",
    "benchmark_status",
    "benchmark_metrics",
    "cancel",
    "agent_info",
)
"""What a server may ask for unless the owner says otherwise."""

ChangeCommand = Literal[
    "pull_model",
    "create_model",
    "copy_model",
    "delete_model",
]
"""What alters the models that are installed."""
