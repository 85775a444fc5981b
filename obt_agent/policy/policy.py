"""The policy as its users see it: one object, made from the configuration, that only decides."""

from __future__ import annotations

import datetime as dt
import fnmatch
from collections.abc import Sequence
from typing import Final

import msgspec

from obt_agent.benchmark.plan import Plan
from obt_agent.config.schema import BenchmarkBudget, OptionsPolicy, PolicyConfig
from obt_agent.errors import NotPermitted
from obt_agent.ollama.names import CanonicalName
from obt_agent.ollama.payloads import InstalledModel, RunningModel
from obt_agent.policy.models import ModelRules
from obt_agent.policy.plans import check_plan
from obt_agent.policy.requests import Blob, RequestShaper, clamp_keep_alive, clamp_options, fields_of
from obt_agent.policy.signatures import public_key
from obt_agent.protocol.methods import COMMANDS
from obt_agent.quiet_hours import QuietHours

ALWAYS_ALLOWED: Final = "cancel"
_CHANGES: Final = frozenset(method.name for method in COMMANDS if method.changes)
_NAMES: Final = tuple(method.name for method in COMMANDS)


class PolicyDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What is left for a server, as ``agent_info`` shows it; the keys are those of the configuration."""

    commands: tuple[str, ...]
    models_allow: tuple[str, ...]
    models_deny: tuple[str, ...]
    registries: tuple[str, ...]
    remote_models: bool
    options: OptionsPolicy
    max_streams: int
    max_jobs: int
    max_tokens: int
    max_prompt_bytes: int
    max_seconds: float
    rate_limit: int | None
    quiet_hours: tuple[str, ...]
    signers: tuple[str, ...]
    templates: bool
    benchmark: BenchmarkBudget


class Policy:
    """What a server may ask for.

    Args:
        config: the ``policy`` section.

    Raises:
        ConfigError: a range of quiet hours cannot be read.
    """

    def __init__(self, config: PolicyConfig) -> None:
        self.config = config
        self._models = ModelRules(
            config.models, remote_models=config.remote_models, registries=config.registries
        )
        self._requests = RequestShaper(config)
        self._quiet = QuietHours(config.quiet_hours)
        for signer in config.signers:
            public_key(signer)  # one that is none would refuse everything without a word
        # The last list given to ``visible``, and its answer.
        self._visible_of: tuple[InstalledModel, ...] = ()
        self._visible: tuple[InstalledModel, ...] = ()
        # The configuration key that refuses each command that is refused.
        self._refusals = {name: key for name in _NAMES if (key := self._refused_by(name)) is not None}

    def adopt(self, config: PolicyConfig) -> None:
        """Go on under another configuration; what is in flight goes on under the one before.

        Raises:
            ConfigError: as for a new policy; the one before stays in force.
        """
        vars(self).update(vars(Policy(config)))

    @property
    def max_streams(self) -> int:
        """Most streams and live series at once."""
        return self.config.max_streams

    @property
    def max_jobs(self) -> int:
        """Most jobs that are not finished."""
        return self.config.max_jobs

    @property
    def max_seconds(self) -> float:
        """Longest time of one command."""
        return self.config.max_seconds

    # commands

    def _refused_by(self, method: str) -> str | None:
        """The configuration key that refuses a command; None when it is allowed."""
        commands = self.config.commands
        if method == ALWAYS_ALLOWED:
            return None
        if _matches(method, commands.deny):
            return "policy.commands.deny"
        if method in _CHANGES:
            return None if method in self.config.allow_changes else "policy.allow_changes"
        return None if _matches(method, commands.allow) else "policy.commands.allow"

    def allowed_commands(self) -> tuple[str, ...]:
        """Commands that a server may send, in the order of the protocol's table."""
        return tuple(name for name in _NAMES if name not in self._refusals)

    def check_command(self, method: str) -> None:
        """Refuse a command that the owner does not allow.

        Raises:
            NotPermitted: with ``policy_key``.
        """
        key = self._refusals.get(method)
        if key is not None:
            raise NotPermitted(
                f"The host's owner does not allow {method} ({key} in the agent's configuration).",
                policy_key=key,
                command=method,
            )

    # models

    def check_template(self, template: str | None) -> None:
        """Refuse a template of a new model: Ollama runs it for each request, with no limit of its own.

        Raises:
            NotPermitted: with ``policy_key``.
        """
        if template and not self.config.templates:
            raise NotPermitted(
                "The host's owner allows no templates (policy.templates in the agent's configuration).",
                policy_key="policy.templates",
            )

    def check_model(self, name: str, installed: Sequence[InstalledModel] = ()) -> CanonicalName:
        """Refuse a model; see ``ModelRules.check``."""
        return self._models.check(name, installed)

    def check_source(self, name: str, installed: Sequence[InstalledModel] = ()) -> CanonicalName:
        """Refuse a model that Ollama would fetch: its registry must be on the list too."""
        found = self._models.check(name, installed)
        self._models.check_registry(found)
        return found

    def find_model(self, name: str, installed: Sequence[InstalledModel]) -> InstalledModel | None:
        """Return the model of this name, however it is written. Raises ``InvalidParams``."""
        return self._models.find(name, installed)

    def visible(self, models: tuple[InstalledModel, ...]) -> tuple[InstalledModel, ...]:
        """Return the models that a server may know of."""
        # The status asks several times a second, and the list changes rarely: one pass for each list.
        if models is not self._visible_of:
            allowed = tuple(model for model in models if self._models.allows(model.name, models))
            self._visible_of, self._visible = models, allowed
        return self._visible

    def visible_running(
        self, models: Sequence[RunningModel], installed: Sequence[InstalledModel]
    ) -> tuple[RunningModel, ...]:
        """Return the loaded models that a server may know of.

        ``installed`` has no default: without it, a copy of a denied model under another name would pass.
        """
        return tuple(
            model for model in models if self._models.allows(model.name, installed, digest=model.digest)
        )

    # requests

    def shape_request(self, method: str, raw: msgspec.Raw, blob: Blob) -> bytes:
        """Ollama's body of ``generate``, ``chat`` or ``embed``, held within the limits.

        Raises:
            InvalidParams, TooLarge, NotPermitted
        """
        generates = method != "embed"
        return self._requests.inference(raw, blob, streams=generates, generates=generates)

    def check_fields(self, raw: msgspec.Raw) -> None:
        """Refuse ``insecure``, ``remote_host`` and misspelt keys in the parameters of any command.

        Raises:
            InvalidParams, NotPermitted
        """
        fields_of(raw)

    def load_options(self, options: msgspec.Raw | None) -> bytes | None:
        """Return the options of a load, clamped."""
        return clamp_options(options, self.config.options, None)

    def model_parameters(self, parameters: msgspec.Raw | None) -> bytes | None:
        """Return the parameters that a new model is to have, clamped: they are the defaults of its requests.

        ``num_predict`` is clamped where it is given: requests that name none get the policy's own limit.
        """
        return clamp_options(parameters, self.config.options, self._requests.max_tokens, always=False)

    def keep_alive(self, value: str | float | None) -> str | float | None:
        """``keep_alive`` of a load, clamped."""
        if value is None:
            return None
        raw = clamp_keep_alive(msgspec.json.encode(value), self.config.options.keep_alive_s)
        clamped: str | float = msgspec.json.decode(raw, type=str | int | float)
        return clamped

    # benchmarks

    def check_plan(self, plan: Plan, installed: Sequence[InstalledModel] = ()) -> Plan:
        """Refuse a plan, or return it as it is; see ``check_plan`` of ``obt_agent.policy.plans``."""
        self.check_model(plan.model_name, installed)
        check_plan(plan, self.config, self._requests.max_tokens)
        return plan

    def quiet_wait_s(self, now: dt.datetime) -> float:
        """Seconds until a benchmark may start (0.0: now); ``now`` is local time."""
        return self._quiet.wait_s(now)

    def describe(self) -> PolicyDescription:
        """What is left for a server."""
        config = self.config
        return PolicyDescription(
            commands=self.allowed_commands(),
            models_allow=config.models.allow,
            models_deny=config.models.deny,
            registries=config.registries,
            remote_models=config.remote_models,
            options=config.options,
            max_streams=config.max_streams,
            max_jobs=config.max_jobs,
            max_tokens=self._requests.max_tokens,
            max_prompt_bytes=config.max_prompt_bytes,
            max_seconds=config.max_seconds,
            rate_limit=config.rate_limit,
            quiet_hours=config.quiet_hours,
            signers=config.signers,
            templates=config.templates,
            benchmark=config.benchmark,
        )


def _matches(method: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(method, pattern) for pattern in patterns)
