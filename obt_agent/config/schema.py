"""The configuration's shape: eight sections, each value with its unit in its name and a default that is safe.

Read by ``obt_agent.config.load``. Services are given plain values out of it, never the whole.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from obt_agent.config.command_names import ChangeCommand
from obt_agent.labels import Labels

# Each description is what a message gives as expected, and what the table of keys shows.
Seconds = Annotated[float, Meta(gt=0, le=86_400, description="seconds, above 0")]
Count = Annotated[int, Meta(ge=1, description="a whole number, 1 or more")]
Text = Annotated[str, Meta(min_length=1, max_length=4096, description="text")]
Patterns = tuple[Text, ...]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, named fields only."""


class ServerConfig(_Section, frozen=True, kw_only=True):
    """Which OBT server to dial, and how. ``url`` as loaded is the full ``ws(s)://`` address of the socket."""

    url: Text | None = None
    token_file: Text | None = None
    ca_file: Text | None = None
    client_cert_file: Text | None = None
    client_key_file: Text | None = None
    allow_insecure: bool = False
    proxy: Text = "env"
    heartbeat_interval_s: Seconds = 15.0


class OllamaConfig(_Section, frozen=True, kw_only=True):
    """Where Ollama answers, and how long each kind of silence may last."""

    url: Text = "http://127.0.0.1:11434"
    connect_timeout_s: Seconds = 5.0
    first_byte_timeout_s: Seconds = 900.0
    between_bytes_timeout_s: Seconds = 120.0
    request_timeout_s: Seconds = 30.0
    poll_interval_s: Annotated[float, Meta(ge=0.2, le=60, description="seconds, 0.2 to 60")] = 2.0


class AgentConfig(_Section, frozen=True, kw_only=True):
    """The agent itself. As loaded, ``name`` is never empty and ``state_dir`` is an absolute path."""

    name: Annotated[
        str,
        Meta(
            max_length=200,
            pattern=r"^[^\x00-\x1f\x7f]*\Z",
            description="text of at most 200 characters on one line",
        ),
    ] = ""
    labels: Labels = ()
    state_dir: Annotated[str, Meta(max_length=4096, description="a path")] = ""


class CommandsPolicy(_Section, frozen=True, kw_only=True):
    """Commands that only read and run, by name or pattern; ``deny`` wins, over ``allow_changes`` too."""

    allow: Patterns = ("*",)
    deny: Patterns = ()


class ModelsPolicy(_Section, frozen=True, kw_only=True):
    """Shell patterns on canonical model names (``registry.ollama.ai/library/llama3.2:1b``); ``deny`` wins."""

    allow: Patterns = ("*",)
    deny: Patterns = ()


class OptionsPolicy(_Section, frozen=True, kw_only=True):
    """Largest values that a server may ask Ollama for; more is clamped. None leaves it to Ollama."""

    num_ctx: Count | None = 131_072
    num_predict: Count | None = 16_384
    num_thread: Count | None = None
    num_batch: Count | None = 2_048
    keep_alive_s: Annotated[float, Meta(ge=0, description="seconds, 0 or more")] | None = 3_600.0
    format_bytes: Count | None = 65_536


class BenchmarkBudget(_Section, frozen=True, kw_only=True):
    """What one benchmark's plan, expanded, may cost: iterations of all cells, output tokens, seconds."""

    max_iterations: Count = 1_000
    max_tokens: Count = 2_000_000
    max_prompt_bytes: Count = 256 << 20
    max_seconds: Seconds = 21_600.0


class PolicyConfig(_Section, frozen=True, kw_only=True):
    """What a server may ask for. Nothing on the wire can widen it.

    ``max_tokens`` is output tokens of one request; ``max_prompt_bytes`` its prompt, messages and images;
    ``max_seconds`` its wall time; ``rate_limit`` requests a minute (None: no limit). ``quiet_hours`` are
    local times of day, ``"22:00-07:00"``, during which no benchmark starts. ``signers`` are Ed25519 public
    keys: with any, jobs and changes need a signature. ``templates``: whether a new model may bring one.
    """

    commands: CommandsPolicy = CommandsPolicy()
    allow_changes: tuple[ChangeCommand, ...] = ()
    models: ModelsPolicy = ModelsPolicy()
    registries: Patterns = ("registry.ollama.ai",)
    remote_models: bool = False
    options: OptionsPolicy = OptionsPolicy()
    max_streams: Annotated[int, Meta(ge=1, le=64, description="a whole number, 1 to 64")] = 16
    max_jobs: Annotated[int, Meta(ge=1, le=1024, description="a whole number, 1 to 1024")] = 32
    max_tokens: Count = 16_384
    max_prompt_bytes: Count = 16 << 20
    max_seconds: Seconds = 3_600.0
    rate_limit: Count | None = 600
    quiet_hours: Patterns = ()
    signers: Patterns = ()
    templates: bool = False
    benchmark: BenchmarkBudget = BenchmarkBudget()


class HardwareConfig(_Section, frozen=True, kw_only=True):
    """How often the machine is sampled; ``min_interval_s`` is the fastest that a server may ask for."""

    idle_interval_s: Seconds = 30.0
    active_interval_s: Seconds = 1.0
    min_interval_s: Annotated[float, Meta(ge=0.05, le=60, description="seconds, 0.05 to 60")] = 0.2


class BenchmarkConfig(_Section, frozen=True, kw_only=True):
    """How benchmarks run here.

    ``during_benchmark`` says whether generation for the server is noted in the result, or refused as busy;
    ``transfers`` whether a pull that runs is paused for a benchmark, or noted in its result.
    ``lock_dir`` is where all users' benchmarks of one Ollama keep each other out.
    """

    during_benchmark: Literal["note", "refuse"] = "note"
    transfers: Literal["pause", "note"] = "pause"
    cooldown_s: Annotated[float, Meta(ge=0, le=3600, description="seconds, 0 to 3600")] = 60.0
    lock_dir: Text = "/run/lock/obt-agent"


class StorageConfig(_Section, frozen=True, kw_only=True):
    """How much the store of jobs and results may hold, in bytes and in days."""

    quota_bytes: Annotated[int, Meta(ge=1 << 20, description="bytes, 1048576 or more")] = 1 << 30
    max_age_days: Annotated[float, Meta(gt=0, le=3650, description="days, above 0")] = 30.0


class LogConfig(_Section, frozen=True, kw_only=True):
    """``auto`` is the journal's native protocol under systemd, a readable form otherwise.

    ``prompts`` lets prompts and answers into the log; off, they never get there.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "journal", "console", "json"] = "auto"
    prompts: bool = False


class Config(_Section, frozen=True, kw_only=True):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    ollama: OllamaConfig = OllamaConfig()
    agent: AgentConfig = AgentConfig()
    policy: PolicyConfig = PolicyConfig()
    hardware: HardwareConfig = HardwareConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    storage: StorageConfig = StorageConfig()
    log: LogConfig = LogConfig()
